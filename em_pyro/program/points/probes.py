"""Replays of a program at random valid parameter values.

A probe moves an entry in proportion to what it is measured in: a positive one by a factor, a real one by a part of the
size of its parameter or of the spread of the data, so that a change of units is no change of the probes. What would
move a density out of the numbers (a coefficient of a covariate in thousands, under `exp`) is moved less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions import constraints as pyro_constraints
from torch import Tensor
from torch.distributions import constraints, transform_to

from ..changes.lost import First, arguments_of
from ..devices import seeded
from ..named import SLICE
from ..program import Program
from ..site import Parameter, Site
from .abreast import abreast

INSIDE = 3.0  # unconstrained coordinates of probabilities from which probes are drawn: a start may lie on the boundary
LONG_PROGRAM = 1000  # sites; beyond it two replays, far apart, and the check at the end of every fit
SPREADS = (0.5, 1.0, 2.0)  # of the probes, in the units of every entry
LARGE = 100.0  # size of a real parameter from which it is no logit
FINEST = 1e-6  # of the size of a parameter: the least that is a move
ATTEMPTS, STEPS = 8, 12  # at a probe; and at how far a single parameter may move
STEP = 1 / 8
SEEN = {
    torch.float64: 2.0**20,
    torch.float32: 2.0**8,
}  # times an argument's own size: how far, and how little, it moves
LEAP, LEAPS = {torch.float64: 2.0**50, torch.float32: 2.0**20}, 24  # to where it moves at all

Move = Callable[[float, float, torch.Generator, bool], Tensor]
"""From a size, a spread, where noise is drawn and whether the order of real entries is turned round to a value.

What sorts them, or takes the largest, is found out so."""
Sizes = Mapping[str, tuple[float, float]]
"""How far the entries of real parameters (and the real coordinates of others) are moved, at even and at odd probes."""


def probes(
    program: Program, count: int, first: Mapping[str, Site], generator: torch.Generator
) -> list[tuple[dict[str, Tensor], dict[str, Site]]]:
    """Replay at random points; where the model cannot be evaluated there, nearer to its initial values.

    Args:
        program: what is run.
        count: how many replays.
        first: the program at its initial values: a probe loses no entry of an argument that is finite there.
        generator: of the moves.
    """
    sizes, before = _sizes(program, first), First(first)
    moves = {name: _move_of(parameter) for name, parameter in program.parameters.items()}
    found, bounded, strict = _at_once(program, count, before, moves, sizes, generator), False, True
    for k in range(len(found), count):
        for attempt in range(ATTEMPTS):
            last, reverse = attempt == ATTEMPTS - 1, k % 2 == 1 and attempt == 0
            values = _point(k, attempt, moves, sizes, generator)
            try:
                with torch.no_grad():
                    run = program.run(values)
            except (RuntimeError, ValueError):
                if last:
                    raise
                continue
            if not strict or not before.lost(run):
                break
            if not bounded and not reverse:
                sizes, bounded = _within_reach(program, moves, sizes, before, generator), True
            strict = not last
        found.append((values, run))
    return found


def _point(
    k: int, attempt: int, moves: Mapping[str, Move], sizes: Sizes, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw the values of probe `k`, the nearer to the initial ones the more attempts there were."""
    reverse = k % 2 == 1 and attempt == 0
    spread, unit = SPREADS[k % 3] * 0.5**attempt, k % 2
    return {n: move(sizes[n][unit], spread, generator, reverse) for n, move in moves.items()}


def _at_once(
    program: Program, count: int, before: First, moves: Mapping[str, Move], sizes: Sizes, generator: torch.Generator
) -> list[tuple[dict[str, Tensor], dict[str, Site]]]:
    """Replay the first probes at once: up to one that has to be nearer, and one where the model has no such run.

    The generator is left where it is when they are drawn one after the other.
    """
    states, points = [], list[dict[str, Tensor]]()
    for k in range(count):
        states.append(generator.get_state())
        points.append(_point(k, 0, moves, sizes, generator))
    try:
        with torch.no_grad():
            runs = [program.run(points[0])]
    except (RuntimeError, ValueError):
        runs = []
    found = abreast(program, runs[0], points) if runs else None
    if found is not None and not before.lost_of(found.moved):
        return list(zip(points, found.runs, strict=True))
    runs = runs if found is None else found.runs
    fine = next((k for k, run in enumerate(runs) if before.lost(run)), len(runs))
    if fine < count:
        generator.set_state(states[fine])
    return list(zip(points[:fine], runs, strict=False))


def _move_of(parameter: Parameter) -> Move:
    """Return how a parameter is moved: positive entries by a factor, real ones by a part of a size."""
    value, constraint = parameter.initial, _base(parameter.constraint)
    if not value.is_floating_point():
        return lambda size, spread, generator, reverse: value
    start = value.double()
    centre, moved = _moving(start, parameter.constraint, constraint)
    real = isinstance(constraint, type(constraints.real)) and centre.dim()

    def move(size: float, spread: float, generator: torch.Generator, reverse: bool) -> Tensor:  # noqa: FBT001
        noise = seeded(torch.randn, centre.shape, generator=generator, dtype=torch.float64).to(value.device)
        return moved(centre.flip(0) if reverse and real else centre, spread * noise, size).to(value.dtype)

    return move


def _moving(start: Tensor, whole: Any, constraint: Any) -> tuple[Tensor, Callable[[Tensor, Tensor, float], Tensor]]:
    """Return what is moved, and a function of it, of the noise and of a size."""
    finite = torch.isfinite(start)
    if isinstance(constraint, type(constraints.real)):
        return torch.where(finite, start, 0.0), lambda centre, noise, size: centre + size * noise
    if _positive(constraint):
        return torch.where(finite & (start > 0), start, 1.0), lambda centre, noise, size: centre * noise.exp()
    if isinstance(constraint, type(constraints.lower_cholesky)):
        return start, _scaling(start)
    if isinstance(constraint, type(constraints.positive_definite)):
        factor = torch.linalg.cholesky(start)
        scaled = _scaling(factor)
        return factor, lambda centre, noise, size: (moved := scaled(centre, noise, size)) @ moved.mT
    transform = transform_to(whole)
    centre = transform.inv(start)
    centre = torch.where(torch.isfinite(centre), centre, 0.0)
    centre = centre.clamp(-INSIDE, INSIDE) if _bounded(constraint) else centre
    if isinstance(constraint, type(pyro_constraints.ordered_vector)):
        first = torch.arange(centre.shape[-1], device=centre.device) == 0
        return centre, lambda centre, noise, size: transform(centre + torch.where(first, size * noise, noise))
    return centre, lambda centre, noise, size: transform(centre + noise)


def _scaling(factor: Tensor) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Give a Cholesky factor other scales, and other correlations."""
    size = factor.square().sum(-1, keepdim=True).sqrt()
    size = torch.where(size > 0, size, 1.0)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    diagonal = torch.where(diagonal > 0, diagonal, size.squeeze(-1))

    def scaled(centre: Tensor, noise: Tensor, _: float) -> Tensor:
        moved = torch.tril(centre + size * noise, -1)
        return moved + torch.diag_embed(diagonal * noise.diagonal(dim1=-2, dim2=-1).exp())

    return scaled


def _base(constraint: Any) -> Any:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _positive(constraint: Any) -> bool:
    kinds = (type(constraints.positive), type(constraints.nonnegative))
    return isinstance(constraint, kinds) and bool((torch.as_tensor(constraint.lower_bound) == 0).all())


def _bounded(constraint: Any) -> bool:
    """Tell whether values near the boundary are all alike: a millionth is next to nothing, and so is one less it."""
    return isinstance(constraint, (type(constraints.simplex), constraints.interval, constraints.half_open_interval))


# ---- how far ---------------------------------------------------------------------------------------------------------


def _sizes(program: Program, first: Mapping[str, Site]) -> Sizes:
    """Return the units of all parameters: at even probes by their own size and the least spread of the data.

    At odd probes the unit is one, which is what logits and coefficients of standardised covariates are measured in, or
    the size of a parameter that is too large for these.
    """
    spreads = [spread for site in first.values() if site.role == "observed" and (spread := _spread(site)) > 0]
    spread = min(spreads, default=1.0)
    sizes = {}
    for name, parameter in program.parameters.items():
        value = parameter.initial.detach().double().abs()
        own = float(value[torch.isfinite(value)].amax()) if bool(torch.isfinite(value).any()) else 0.0
        far = max(own, min(spread, 3 * own)) if own > LARGE else 1.0
        sizes[name] = (max(min(own, spread), FINEST * own), far) if own > 0 else (_unit(program, first, name),) * 2
    return sizes


def _unit(program: Program, first: Mapping[str, Site], name: str) -> float:
    """Return how far a parameter that starts at zero is moved: one, unless an argument hardly tells, or nothing else.

    The coefficient of a covariate that is measured in other units than one has no size of its own at zero.
    """
    parameter = program.parameters[name]
    initial = {n: p.initial for n, p in program.parameters.items()}
    if parameter.kind == "module" or not isinstance(_base(parameter.constraint), type(constraints.real)):
        return 1.0
    kind = torch.float64 if parameter.initial.dtype == torch.float64 else torch.float32
    unit, leap, seen = 1.0, LEAP[kind], SEEN[kind]
    for _ in range(LEAPS):
        try:
            with torch.no_grad():
                run = program.run({**initial, name: parameter.initial + unit})
        except (RuntimeError, ValueError):
            return 1.0
        share = max((_share(run[site], first[site]) for site in run.keys() & first.keys()), default=0.0)
        if 1 / seen <= share <= seen:
            return unit
        unit *= leap if share == 0.0 else 2.0 ** -round(math.log2(share)) if math.isfinite(share) else 1 / leap
    return 1.0


def _share(site: Site, before: Site) -> float:
    """Return by which part of its own size the argument of a site has moved that has moved most."""
    found = [0.0]
    for (key, tensor), (_, other) in zip(arguments_of(site.fn), arguments_of(before.fn), strict=False):
        if tensor.shape != other.shape or torch.equal(tensor, other):
            continue
        size = float(other[torch.isfinite(other)].detach().abs().amax()) if bool(torch.isfinite(other).any()) else 0.0
        size = size or (_spread(site) if key.endswith("loc") else 0.0) or 1.0
        found.append(float((tensor - other).detach().abs().nan_to_num(torch.inf).amax()) / size)
    return max(found)


def _spread(site: Site) -> float:
    """Return the standard deviation of a site's values, of some rows where there are many; zero if it has none."""
    value = site.value.detach()
    if not value.is_floating_point() or value.numel() <= (value.shape[-1] if value.dim() > 1 else 1):
        return 0.0  # of one row, a step of a loop say
    rows = value.reshape(-1, value.shape[-1] if value.dim() > 1 else 1)
    rows = rows[:: max(1, len(rows) // SLICE)].double()
    rows = torch.where(torch.isfinite(rows), rows, torch.nan)
    spread = (rows - rows.nanmean(0)).square().nanmean(0).sqrt()
    spread = spread[torch.isfinite(spread) & (spread > 0)]
    return float(spread.amin()) if spread.numel() else 0.0


def _within_reach(
    program: Program, moves: Mapping[str, Move], sizes: Sizes, first: First, generator: torch.Generator
) -> Sizes:
    """Shrink the move of every real parameter, by itself, until no argument is lost."""
    initial = {name: parameter.initial for name, parameter in program.parameters.items()}
    found = dict(sizes)
    for name, parameter in program.parameters.items():
        if not isinstance(_base(parameter.constraint), type(constraints.real)) or not parameter.initial.numel():
            continue
        largest = max(sizes[name])
        for step in range(STEPS):
            size = largest * STEP**step
            moved = {name: moves[name](size, SPREADS[-1], generator, False)}  # noqa: FBT003
            try:
                with torch.no_grad():
                    fine = not first.lost(program.run({**initial, **moved}))
            except (RuntimeError, ValueError):
                fine = False
            if fine:
                found[name] = min(sizes[name][0], size), min(sizes[name][1], size)
                break
    return found
