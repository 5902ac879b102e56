"""EM accelerated by SQUAREM: the glue between one EM step and `squarem.py`, which knows a map and no EM.

All free parameters move together as one vector in unconstrained space, where an extrapolation cannot leave a
constraint. The map is the EM step of the plan, whatever its M-steps are, and the objective is the one that the E-step
finds on its way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from ...errors import EMError
from ...program.coordinates import Coordinates
from ...program.named import Batch, Params, batched, only
from ..look import look
from ..path import Move
from ..problem import Problem
from ..step import em_pass
from .spent import Accelerated
from .squarem import extrapolate, squarem


class NoStep(ValueError):
    """No EM step is defined at a point of the cycle."""


def cycle(problem: Problem, here: Batch, spent: Accelerated, budget: int) -> Move:
    """Take one SQUAREM cycle from `here`, or one plain step where fewer than three EM steps are left in `budget`.

    Where there is no EM step from `here`, the move leads to NaN, as that of `em_step` does.
    """
    began = time.perf_counter()
    seen: list[tuple[Tensor, Batch]] = [(problem.coordinates.vector(only(here)), here)]
    steps: list[tuple[Expectation, Batch]] = []

    def step(x: Tensor) -> tuple[Tensor, float]:
        known = next((values for point, values in seen if point is x), None)
        try:
            at = batched(_flown(problem, x, [only(v) for _, v in seen])) if known is None else known
            new, found = em_pass(problem, at, {})
        except RuntimeError as error:
            if known is None:
                raise NoStep("no EM step is defined at the extrapolation") from error
            raise
        numbers = look(problem, found, at, new)
        if not numbers.stepped[0] and steps:
            raise NoStep("no EM step is defined there")
        steps.append((found, new))
        seen.append((problem.coordinates.vector(only(new)), new))
        if not numbers.stepped[0]:
            raise NoStep("no EM step is defined at the point itself")
        return seen[-1][0], numbers.objective[0]

    counts = spent.squarem
    try:
        if budget < 3:
            image, after = step(seen[0][0])[0], replace(counts, evaluations=counts.evaluations + 1)
        else:
            image, _, after = squarem(step, seen[0][0], counts)
    except (NoStep, EMError, RuntimeError):
        if not steps:
            raise
        # The plain step led to where no second one is defined: go there, and let the loop say so.
        image, after = seen[1][0], replace(counts, cycles=counts.cycles + 1, evaluations=counts.evaluations + 2)
    length = 1.0
    if after.extrapolated > counts.extrapolated:
        length = extrapolate(*(point for point, _ in seen[:3]), step_max=counts.step_max)[1]
    moved = {1: 1.0, 2: 2.0}.get(len(steps), 2.0 if after.rejected > counts.rejected else 2.0 * length + 1.0)
    new, found = next(values for point, values in seen if point is image), steps[0][0]
    if look(problem, found, here, new).blurred[0]:
        new, found = em_pass(problem, here, {}, about=new)  # a plain step, with all its digits
    return Move(
        new=new,
        found=found,
        points=tuple(point for point, _ in seen[:3]),
        beside=(steps[0][1], steps[1][0]) if len(steps) > 1 else None,
        spent=replace(
            spent, squarem=after, reach=spent.reach + moved, seconds=spent.seconds + time.perf_counter() - began
        ),
    )


def _flown(problem: Problem, vector: Tensor, seen: Sequence[Params]) -> dict[str, Tensor]:
    """Return the parameters at an extrapolated point; what an M-step of the user's own returned last stands."""
    return unflatten(problem.coordinates, vector, seen) | {name: seen[-1][name] for name in problem.plan.callables}


def unflatten(coordinates: Coordinates, vector: Tensor, seen: Sequence[Params]) -> dict[str, Tensor]:
    """Return the parameters at a point, the others as in `seen[0]`.

    Entries that no step of the cycle has moved keep their value: where a transform cannot represent a boundary (a
    probability of zero), the way there and back would leave it.
    """
    first, *others = seen
    params = coordinates.params(vector, first)
    for name in coordinates.names if others else ():
        if coordinates.program.parameters[name].constraint.event_dim == 0:
            fixed = torch.stack([first[name] == other[name] for other in others]).all(0)
            params[name] = torch.where(fixed, first[name], params[name])
    return params
