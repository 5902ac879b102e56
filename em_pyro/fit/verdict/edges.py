"""Boundaries: what runs there is put there, and from which of these the objective rises inwards."""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign, inf

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from ...families.charts import bounds_of
from ...posterior.possible import IMPOSSIBLE
from ...program.named import Batch, batched, only
from ..problem import Problem
from .around import Around, Entry, named, put
from .ground import Ground

EDGE = 1e-3  # a probability below it is tried at zero
FALL = 1e-9  # relative to 1 + |objective|: what a probability may lose at its boundary
GROWN, FALLEN = (1e1, 1e3, 1e6), 0.05  # times the way from a bound: the objective is lower by so many nats there
NEXT = 1e-6  # beside `1 + |coordinate|`: how far beyond an edge nothing is possible
INSIDE = 1e-7  # how far inside the slope at a boundary is taken
TINY, LIFTED = 1e-6, tuple(10.0**-k for k in range(1, 6))  # probabilities that EM hardly moves; what they are put to
MOST, HIGHER = 20, 1e-6  # of them, that are lifted one by one; relative to 1 + |objective|: what that has to gain
RISING = 1e-3  # relative to 1 + |objective|: nats a unit, of a slope at a boundary that points inwards


def snapped(ground: Ground, level: float) -> tuple[Ground, list[Entry]]:
    """Put what runs to a bound there, where the objective does not fall: probabilities, and parts of locations."""
    around, tried = ground.around, _running(ground, level)
    for entry in ((n, tuple(at)) for n in around.names for at in _near(around, n).nonzero().tolist()):
        value = float(around.params[entry[0]][entry[1]])
        tried.append((entry, 0.0 if value < EDGE else 1.0))
    if not tried:
        return ground, []
    heights = ground.with_entries(tried)
    lowest = level - FALL * (1 + abs(level))
    kept = [move for move, height in zip(tried, heights.tolist(), strict=True) if height >= lowest]
    at = around
    for entry, value in kept:
        at = Around(around.program, around.names, put(at, entry, value))
    new = Ground(ground.problem, at)
    together = float(new.heights(torch.zeros(1, at.size, dtype=torch.float64)))
    return (new, [entry for entry, _ in kept]) if kept and together >= lowest else (ground, [])


def _running(ground: Ground, level: float) -> list[tuple[Entry, float]]:
    """Parts of locations that are as good as at a bound, and at which one.

    Nothing says how near is near: the bound itself is as high, and the objective falls farther away from it. Where it
    does not, it is flat.
    """
    around, near = ground.around, list[tuple[Entry, float]]()
    bounded = {name: ends for name, ends in ground.problem.scales.bounded.items() if name in around.free}
    for name, ends in bounded.items():
        value = around.params[name]
        low, high = (end.expand_as(value) for end in ends)
        end = torch.where(value - low <= high - value, low, high)
        there = around.free[name] & torch.isfinite(end)
        near += [((name, tuple(at)), float(end[tuple(at)])) for at in there.nonzero().tolist()]
    as_high = ground.with_entries(near) >= level - FALL * (1 + abs(level))
    near = [one for one, high in zip(near, as_high.tolist(), strict=True) if high]
    if not near:
        return near
    away = [(entry, value) for entry, end in near for value in _away(ground, entry, end, bounded[entry[0]])]
    fallen = (ground.with_entries(away) < level - FALLEN).reshape(len(near), -1).any(1)
    return [one for one, falls in zip(near, fallen.tolist(), strict=True) if falls]


def _away(ground: Ground, entry: Entry, end: float, bounds: tuple[Tensor, Tensor]) -> list[float]:
    """Values of an entry farther from a bound: by its own way from there, and by that which it had at first."""
    name, at = entry
    value, initial = ground.around.params[name], ground.problem.program.parameters[name].initial
    low, high = (float(part.expand_as(value)[at]) for part in bounds)
    way, first = float(value[at]) - end, abs(float(initial[at]) - end)
    lengths = [many * size for size in (abs(way), first) for many in GROWN]
    return [end + copysign(min(length, (high - low) / 2), way) for length in lengths]


def _near(around: Around, name: str) -> Tensor:
    """Probabilities inside that are next to a boundary."""
    value, domain = around.params[name], around.domains[name]
    low = (value > 0) & (value < EDGE)
    if domain == "unit":
        return low | (value < 1) & (value > 1 - EDGE)
    return low if domain == "simplex" else torch.zeros_like(low)


def edge_notes(ground: Ground, zero: Sequence[Entry]) -> tuple[list[str], float]:
    """Name the entries at a boundary, or as good as `zero`; and those from which the objective rises inwards.

    Returns:
        The notes; and the steepest slope inwards, relative to 1 + |objective|, minus infinity where there is none.
    """
    edges = ground.around.edges()
    if not edges and not zero:
        return [], -inf
    shown = [ground.around.shown(entry) for entry in zero]
    infinite = [(name, at) for name, at in edges if not bool(torch.isfinite(ground.around.params[name][at]))]
    slopes, unit = _inwards(ground, [entry for entry in edges if entry not in infinite])
    rising = {entry: slope for entry, slope in slopes.items() if slope > RISING * unit}
    resting = [*(entry for entry in edges if entry not in rising and entry not in infinite), *shown]
    notes = [f"at infinity: {named(infinite)}"] if infinite else []
    notes += [f"at the boundary: {named(resting)}"] if resting else []
    if rising:
        notes.append(
            f"at the boundary, though the objective rises inwards by {max(rising.values()):.3g} nats a unit: "
            f"{named(list(rising))}; EM moves no entry away from there, so start inside"
        )
    return notes, max(slopes.values(), default=-inf) / unit


def _inwards(ground: Ground, edges: Sequence[Entry]) -> tuple[dict[Entry, float], float]:
    """The slope of the objective inwards, taken a little inside, of every entry at a boundary; and 1 + |objective|."""
    around = ground.around
    ways = {entry: way for entry in edges if (way := _way(around, entry))}
    edges, inside = list(ways), {name: value.clone() for name, value in around.params.items()}
    for (name, at), way in ways.items():
        inside[name][at] += way * INSIDE * max(1.0, abs(float(inside[name][at])))
    for name in {name for name, _ in edges if around.domains[name] == "simplex"}:
        inside[name] /= inside[name].sum(-1, keepdim=True)
    with torch.no_grad():
        found = ground.problem.expect(ground.problem.bind(batched(inside)))
    leaves = {name: inside[name].unsqueeze(0).requires_grad_() for name in {name for name, _ in edges}}
    with torch.enable_grad():
        q = ground.problem.engine.q({**batched(inside), **leaves}, found).sum()
        slopes = torch.autograd.grad(q, list(leaves.values()), allow_unused=True) if q.requires_grad else ()
    steep: dict[Entry, float] = {}
    for name, slope in zip(leaves, slopes, strict=False):
        if slope is None:
            continue
        inwards = slope[0]
        if around.domains[name] == "simplex":
            inwards = inwards - (inwards * inside[name]).sum(-1, keepdim=True)
        for entry in (one for one in edges if one[0] == name):
            steep[entry] = float(inwards[entry[1]]) * ways[entry]
    return steep, 1 + abs(float(found.objective))


def _way(around: Around, entry: Entry) -> int:
    """Which way is inwards from the bound at which an entry is; zero where it has no bounds."""
    name, at = entry
    if around.domains[name] == "simplex":
        return 1
    bounds = bounds_of(around.program.parameters[name].constraint, around.params[name].shape)
    if bounds is None:
        return 0
    low, high = (float(end.expand_as(around.params[name])[at]) for end in bounds)
    value = float(around.params[name][at])
    return 1 if value - low <= high - value else -1


@torch.no_grad()
def leave_edge(problem: Problem, here: Batch, found: Expectation) -> Batch | None:
    """Return where probabilities that are all but zero, or one, are lifted, if that is higher, else None.

    EM multiplies them, by little more than one where little is gained: they are as good as still for hundreds of steps.
    A face of the simplex has a maximum only where the objective falls inwards (Karush, Kuhn and Tucker). What is
    zero exactly is stated so, and stays.

    Args:
        problem: the program and its M-steps.
        here: where EM has settled, one start.
        found: the E-step there.
    """
    around = Around(problem.program, problem.plan.maximised, only(here))
    near = [(name, tuple(at)) for name in around.names for at in _tiny(around, name).nonzero().tolist()]
    if not near:
        return None
    ground, level = Ground(problem, around), float(found.objective)
    slopes, unit = _inwards(ground, near)
    rising = [entry for entry, slope in slopes.items() if slope > RISING * unit]
    groups = [rising, *([one] for one in rising if 1 < len(rising) <= MOST)] if rising else []
    points = [_put_inside(around, group, share) for group in groups for share in LIFTED]
    if not points:
        return None
    heights = torch.stack([problem.heights(point)[0] for point in points]).nan_to_num(nan=-inf)
    most = int(heights.argmax())
    return points[most] if float(heights[most]) > level + HIGHER * (1 + abs(level)) else None


def _tiny(around: Around, name: str) -> Tensor:
    """Probabilities that are not at a boundary, and so near that EM takes hundreds of steps to come away."""
    value, domain = around.params[name], around.domains[name]
    if domain == "unit":
        return (value > 0) & (value < TINY) | (value < 1) & (value > 1 - TINY)
    return (value > 0) & (value < TINY) if domain == "simplex" else torch.zeros_like(value, dtype=torch.bool)


def _put_inside(around: Around, entries: Sequence[Entry], share: float) -> Batch:
    """Return the parameters with some probabilities so far inside, the others of a simplex in their proportions."""
    for name, at in entries:
        value = share if _way(around, (name, at)) > 0 else 1 - share
        around = Around(around.program, around.names, put(around, (name, at), value))
    return batched(around.params)


def before_edges(ground: Ground, slope: Tensor) -> Tensor:
    """Tell along which coordinates there is a slope, and nothing possible a step farther, however short, `(D,)`."""
    return (slope != 0) & (ground.heights(torch.diag(_onwards(ground, slope))) <= IMPOSSIBLE)


def undefined(ground: Ground, slope: Tensor, edges: Tensor) -> list[Entry]:
    """Return the entries before such edges beyond which the model fails: data are not impossible, there is no law."""
    found, steps = list[Entry](), torch.diag(_onwards(ground, slope))
    for k in edges.nonzero().flatten().tolist():
        try:
            with torch.no_grad():
                ground.problem.heights(ground.around.batch(steps[k : k + 1]))
        except (RuntimeError, ValueError):
            found.append(ground.around.entries[k])
    return found


def _onwards(ground: Ground, slope: Tensor) -> Tensor:
    """Short steps up the slope, along every coordinate."""
    return (NEXT * (1 + ground.around.values.double().abs()) * slope.sign()).nan_to_num(nan=0.0)
