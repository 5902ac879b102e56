"""Boundaries: what runs there is put there, and from which of these the objective rises inwards."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from ...posterior.possible import IMPOSSIBLE
from ...program.named import batched
from .around import Around, Entry, named, put
from .ground import Ground

EDGE = 1e-3  # a probability below it is tried at zero
FALL = 1e-9  # relative to 1 + |objective|: what a probability may lose at its boundary
NEXT = 1e-6  # beside `1 + |coordinate|`: how far beyond an edge nothing is possible
INSIDE = 1e-7  # how far inside the slope at a boundary is taken
RISING = 1e-3  # relative to 1 + |objective|: nats a unit, of a slope at a boundary that points inwards


def snapped(ground: Ground, level: float) -> tuple[Ground, list[Entry]]:
    """Put every probability that runs to zero or one there: where the objective does not fall for it."""
    around, tried = ground.around, list[tuple[Entry, float]]()
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


def _near(around: Around, name: str) -> Tensor:
    """Probabilities inside that are next to a boundary."""
    value, domain = around.params[name], around.domains[name]
    low = (value > 0) & (value < EDGE)
    if domain == "unit":
        return low | (value < 1) & (value > 1 - EDGE)
    return low if domain == "simplex" else torch.zeros_like(low)


def edge_notes(ground: Ground, zero: Sequence[Entry] = ()) -> tuple[list[str], float]:
    """Name the entries at a boundary, or as good as `zero`; and those from which the objective rises inwards.

    Returns:
        The notes; and the steepest slope inwards, relative to 1 + |objective|, minus infinity where there is none.
    """
    edges = ground.around.edges()
    if not edges and not zero:
        return [], -inf
    infinite = [(name, at) for name, at in edges if not bool(torch.isfinite(ground.around.params[name][at]))]
    slopes, unit = _inwards(ground, [entry for entry in edges if entry not in infinite])
    rising = {entry: slope for entry, slope in slopes.items() if slope > RISING * unit}
    resting = [*(entry for entry in edges if entry not in rising and entry not in infinite), *zero]
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
    edges = [entry for entry in edges if around.domains[entry[0]] in ("unit", "simplex", "positive")]
    inside = {name: value.clone() for name, value in around.params.items()}
    for name, at in edges:
        inside[name][at] = (inside[name][at] - INSIDE).abs()
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
            steep[entry] = float(inwards[entry[1]]) * (1 if float(around.params[name][entry[1]]) == 0 else -1)
    return steep, 1 + abs(float(found.objective))


def before_edges(ground: Ground, slope: Tensor) -> Tensor:
    """Tell along which coordinates there is a slope, and nothing possible a step farther, however short, `(D,)`."""
    around = ground.around
    steps = NEXT * (1 + around.values.double().abs()) * slope.sign()
    return (slope != 0) & (ground.heights(torch.diag(steps.nan_to_num(nan=0.0))) <= IMPOSSIBLE)
