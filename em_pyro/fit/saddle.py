"""The saddle test: a saddle passes every stopping rule, and from beside it EM climbs past it.

The disturbance is measured in nats, not in the units of the parameters: each entry moves so far that `Q` falls by
about `size^2` for every row of data. So the test is the same whatever the units and the origin of the data. There is a
small disturbance, and where EM neither climbs from it nor comes back a large one, both ways: components that share a
scale and start equal are a saddle of third order, beside which the climb begins too slowly to be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..e_step.expectation import Expectation
from ..families.charts import domain_of
from ..program.coordinates import constrained, unconstrained
from ..program.devices import seeded
from ..program.named import Batch, Params, batched, only
from .look import look
from .problem import Problem
from .scales import DEGENERATE
from .step import em_step, starts_at_once

SMALL, LARGE = 1e-3, 0.3
STEPS, CAP = 10, 200  # taken after a disturbance; and at most, while the climb gathers speed
STAYING, REST = 0.99, 0.1  # of a disturbance left by the second half of the steps, and by all
BESIDE = 32  # starts that may step as one batch, from which one more costs next to nothing
PROBES = 3  # products with the Hessian of Q
FLAT = 1e-20  # of the curvature of other entries: an entry has run off to where there is none


def margin(gap: float, objective: float) -> float:
    """Return the nats by which a disturbance has to lead higher, where `gap` is to be expected without one."""
    return max(10 * abs(gap), 1e-9 * (1 + abs(objective)))


def leave_saddle(problem: Problem, here: Batch, found: Expectation, gap: float, seed: int) -> Batch | None:
    """Disturb every parameter that the plan maximises and step on: return where that leads if higher, else None.

    Args:
        problem: the program and its M-steps.
        here: where EM has settled, one start.
        found: the E-step there.
        gap: the gain still to be expected without a disturbance.
        seed: of the disturbance.
    """
    objective, params, program = float(found.objective), only(here), problem.program
    every = problem.coordinates.points(params)
    points = {name: every[name] for name in problem.plan.maximised}
    if not points:
        return None
    generator = torch.Generator().manual_seed(seed)
    units = row_units(problem, params, found, points, generator)
    noise = {
        name: seeded(torch.randn, point.shape, generator=generator, dtype=torch.float64).to(point)
        for name, point in points.items()
    }
    rounds: list[tuple[float, ...]] = [(SMALL,), (LARGE, -LARGE)]
    together = starts_at_once(problem)
    if together < len(rounds[-1]):
        rounds[1:] = [(size,) for size in rounds[-1]]
    for sizes in rounds:
        moved = {name: value.expand(len(sizes), *value.shape[1:]) for name, value in batched(params).items()}
        for name, point in points.items():
            ends = [constrained(program, name, point + size * units[name] * noise[name]) for size in sizes]
            shifted = torch.stack(ends)
            moved[name] = _lifted(
                problem, name, params[name], torch.where(torch.isfinite(shifted), shifted, params[name])
            )
        calm = batched(params) if sizes == (SMALL,) and together >= BESIDE else None
        higher, trail, rest = _climb(problem, moved, objective, margin(gap, objective), calm)
        if higher is not None:
            return higher
        if sizes == (SMALL,) and not _stays(problem, batched(params), units, trail, rest):
            return None
    return None


def _lifted(problem: Problem, name: str, value: Tensor, moved: Tensor) -> Tensor:
    """Lift what is at a bound, and part of a location: what multiplies latents stays at zero once it is there.

    A bound has no coordinate to be moved along. It is lifted by a part of the way to where the program had it at first,
    or of the distance of the bounds.
    """
    bounds = problem.scales.bounded.get(name)
    if bounds is None:
        return moved
    low, high = (end.expand_as(value) for end in bounds)
    inwards = torch.where(value <= low, 1.0, -1.0) * torch.where(torch.isfinite(high - low), high - low, 1.0)
    way = problem.program.parameters[name].initial.double() - value
    lifted = value + SMALL * torch.where(way == 0, inwards, way)
    return torch.where((value <= low) | (value >= high), lifted, moved)


def _stays(problem: Problem, here: Batch, units: Params, trail: Sequence[Batch], calm: Sequence[Batch]) -> bool:
    """Whether some parameter stays where it was put, neither climbing nor coming back: the second half of the way.

    EM may still be on its way, by no more than the tolerance: what seems to stay is looked at beside where it leads
    without a disturbance, of which `calm` is as much as has been walked.
    """
    if len(trail) < STEPS:
        return False
    staying = _staying(problem, units, trail, [here] * len(trail))
    if not staying:
        return False
    calm = list(calm) or [here]
    while len(calm) < len(trail):
        calm.append(em_step(problem, calm[-1])[0])
    return bool(_staying(problem, {name: units[name] for name in staying}, trail, calm))


def _staying(problem: Problem, units: Params, trail: Sequence[Batch], calm: Sequence[Batch]) -> list[str]:
    """Name the parameters that stay as far from a calm way as they were put from it."""
    found = []
    for name, unit in units.items():
        apart = partial(_apart, problem, name, unit)
        last = apart(trail[-1], calm[-1])
        if last > REST * apart(trail[0], calm[0]) and last > STAYING * apart(trail[STEPS // 2], calm[STEPS // 2]):
            found.append(name)
    return found


def _apart(problem: Problem, name: str, unit: Tensor, one: Batch, other: Batch) -> float:
    """How far a parameter of one start is from that of another, in unconstrained units."""
    here, there = (unconstrained(problem.program, name, batch[name].squeeze(0)) for batch in (one, other))
    offset = (here - there) / unit
    return float(torch.where(torch.isfinite(offset), offset, 0.0).norm())


def _climb(
    problem: Problem, moved: Batch, objective: float, margin: float, calm: Batch | None
) -> tuple[Batch | None, list[Batch], list[Batch]]:
    """Step on from disturbed points while the gains grow, or shrink so slowly that they would pass the old objective.

    Args:
        problem: the program and its M-steps.
        moved: the disturbed points.
        objective: the old one.
        margin: by how much it has to be passed.
        calm: a point that steps beside them, as the last of the batch, if it may.

    Returns:
        Where the objective has passed the old one, of the first start where it does, else None; the points on the way;
        and those on the way of `calm`.
    """
    here, higher = list(range(len(next(iter(moved.values()))))), dict[int, Batch]()
    paths, trail, rest = [list[float]() for _ in here], [moved], [] if calm is None else [calm]
    batch, beside = _together(moved, *rest), len(rest)
    for step in range(CAP):
        try:
            new, found = em_step(problem, batch)
        except (RuntimeError, ValueError):  # of the model: it has no density there, and no maximum
            if not problem.engine.open:
                raise
            break
        seen = look(problem, found, batch, new)
        sound, staying = False, list[int]()
        for row, start in enumerate(here):
            now = seen.objective[row]
            if not seen.stepped[row] or not math.isfinite(now) or seen.narrowest[row] < DEGENERATE:
                continue  # a collapse is higher, and no maximum
            if now > objective + margin:
                higher[start] = _rows(batch, [row])
                break  # the starts after it are not asked any more
            sound = True
            paths[start].append(now)
            if step < STEPS or may_pass(paths[start], objective, margin):
                staying.append(row)
        own, others = range(len(here)), range(len(here), len(here) + beside)
        if sound:
            trail.append(_rows(new, own))
            rest += [_rows(new, others)] * beside
        if not staying:
            break
        batch, here = _rows(new, [*staying, *others]), [here[row] for row in staying]
    return higher[min(higher)] if higher else None, trail, rest


def _together(*batches: Batch) -> Batch:
    """Return the points of all as one batch."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _rows(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some points of a batch; of all it is the batch itself, whose arguments are bound already."""
    if all(len(value) == len(rows) for value in batch.values()):
        return batch
    return {name: value[list(rows)] for name, value in batch.items()}


def may_pass(path: Sequence[float], objective: float, margin: float) -> bool:
    """Tell whether the gains of a path grow, or shrink so slowly that they would pass the old objective."""
    last, before = path[-1] - path[-2], path[-2] - path[-3]
    rounding = 1e-14 * (1 + abs(objective))
    ratio = last / before if before > rounding and last > rounding else 0.0
    return ratio > 1.001 or path[-1] + last * ratio / max(1 - ratio, 1e-3) > objective + margin


def row_units(
    problem: Problem, params: Params, found: Expectation, points: Params, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return how far each entry must move for `Q` to fall by one nat a row, by its curvature; shapes of `points`.

    The curvature of an entry is the norm of its row of the Hessian, by products with random signs. Where there is none
    no step moves the entry, and no disturbance does: that would be a random search. No transform is driven to its end:
    there the unit is at most `1 + |point|`.

    References: Bekas, Kokiopoulou & Saad (2007), An estimator for the diagonal of a matrix.
    """
    plain = {name: 1 + torch.where(torch.isfinite(point), point, 0.0).abs() for name, point in points.items()}
    program = problem.program
    if any(program.parameters[name].tensor is not None for name in points) and problem.engine.runs_model:
        return plain  # the weights of a module are no leaves of ours
    probes = 1 if problem.engine.open else PROBES  # side by side: the model itself is evaluated at one start
    leaves = {name: _beside(point.detach(), probes).requires_grad_() for name, point in points.items()}
    squares = {name: torch.zeros_like(point) for name, point in points.items()}
    with torch.enable_grad():
        values = {name: _beside(value, probes) for name, value in params.items()}
        for name, leaf in leaves.items():
            values[name] = torch.stack([constrained(program, name, one) for one in leaf.unbind()])
        q = problem.engine.q(values, found).sum()
        if not q.requires_grad:
            return plain
        slopes = torch.autograd.grad(q, list(leaves.values()), create_graph=True, allow_unused=True)
        slopes = tuple(s for s in slopes if s is not None and s.requires_grad)
        drawn = [[_signs(slope[0], generator) for slope in slopes] for _ in range(PROBES if slopes else 0)]
        for some in range(0, len(drawn), probes):
            signs = [torch.stack(of_one) for of_one in zip(*drawn[some : some + probes], strict=True)]
            along = torch.stack([(v * s.nan_to_num(0.0)).sum() for v, s in zip(signs, slopes, strict=True)]).sum()
            try:
                rows = torch.autograd.grad(along, list(leaves.values()), retain_graph=True, allow_unused=True)
            except RuntimeError:  # a function of the model that can be differentiated only once
                return plain
            for name, row in zip(leaves, rows, strict=True):
                squares[name] += torch.zeros(()) if row is None else row.square().sum(0) / PROBES
    units = {}
    for name, square in squares.items():
        unit = (2 * observed_rows(problem) / square.sqrt()).sqrt()
        curved = square > FLAT**2 * (square.max() if square.numel() else 0.0)
        unit = torch.where(torch.isfinite(unit) & curved, unit, 0.0)
        real = domain_of(program.parameters[name].constraint) == "real"
        units[name] = unit if real else torch.minimum(unit, plain[name])
    return units


def _beside(value: Tensor, many: int) -> Tensor:
    """Return a value for each of several starts."""
    return value.expand((many, *value.shape)).clone()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return seeded(torch.randint, 2, like.shape, generator=generator).to(like) * 2 - 1


def observed_rows(problem: Problem) -> float:
    """Number of observed rows, all sites together; of plates around which there is no latent, all are one row."""
    full, times = problem.engine.full, problem.rows.times
    observed = [factor.plates for name, factor in full.factors.items() if name not in full.program.latents]
    each = (math.prod(full.program.plates[p] for p in ps) * (times if full.plate in ps else 1.0) for ps in observed)
    return float(max(1, round(sum(each))))
