"""The iteration of variational Bayes: what is asked after every step, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch

from ...errors import ObjectiveError
from ...fit.acceleration.when import never
from ...fit.problem import Problem
from ...fit.stopping import CALM, aitken, is_small
from ...program.named import Params, batched
from ...reading.bound import Bound
from ...records.frozen import frozen
from ..conjugate import Conjugate
from ..laws import AtLaws
from .accelerated import Accelerated, Move
from .saddle import leave_saddle
from .step import level, step

CYCLE = 3  # steps of a cycle of SQUAREM
SADDLES = 5  # that a start may leave
SLACK = 1e-10  # rounding of the bound, relative to 1 + |bound|


@frozen
class Climb:
    """A start at its end.

    Attributes:
        bound: the laws.
        path: the evidence lower bound at the laws reached, those of the start included.
        num_steps: steps taken.
        outcome: "converged", "step limit" or "stopped".
        gap: estimated nats that further steps would gain.
        notes: what was found out on the way.
        acceleration: if there was any.
    """

    bound: AtLaws
    path: tuple[float, ...]
    num_steps: int
    outcome: str
    gap: float
    notes: tuple[str, ...] = ()
    acceleration: Accelerated | None = None


@torch.no_grad()
def climb(
    problem: Problem,
    laws: tuple[Conjugate, ...],
    start: Params | Bound,
    *,
    tol: float,
    max_steps: int,
    told: Callable[[int, float, AtLaws], Any],
    due: Callable[[Sequence[float], float], bool] = never,
) -> Climb:
    """Iterate from points, whose posterior makes the first laws, or from laws.

    Args:
        problem: of the E-step.
        laws: conjugate priors of all parameters.
        start: points or laws.
        tol: of the estimated gap, relative to the bound.
        max_steps: cap.
        told: of every step, its bound and its laws; True stops.
        due: whether acceleration begins, by the path so far and `tol`.

    Raises:
        ObjectiveError: the bound is not finite, or fell.
    """
    here, path, steps, calm = _first(problem, laws, start), list[float](), 0, 0
    notes, spent = list[str](), None
    while True:
        if spent is None and due(path, tol):
            spent = Accelerated()
        move, spent = _moved(problem, laws, here, spent, max_steps - steps)
        path.append(move.level)
        _check(path)
        gap = aitken(path)[0] if move.gap is None else move.gap

        def ended(outcome: str) -> Climb:
            return Climb(here, tuple(path), steps, outcome, gap, tuple(notes), spent)  # noqa: B023

        if told(steps, path[-1], here) is True and steps:
            return ended("stopped")
        calm, new = calm + 1 if is_small(gap, path[-1], tol) else 0, move.new
        if tol > 0 and calm >= CALM:
            higher = leave_saddle(problem, laws, here, path[-1], gap, len(notes))
            if higher is None or len(notes) >= SADDLES:
                return ended("converged")
            notes.append(f"left a saddle after {steps} steps")
            new, calm = higher, 0
        if steps >= max_steps:
            return ended("step limit")
        here, steps = new, steps + move.steps


def _moved(
    problem: Problem, laws: tuple[Conjugate, ...], here: AtLaws, spent: Accelerated | None, budget: int
) -> tuple[Move, Accelerated | None]:
    """Take a cycle where three steps are left, else a plain step; with none left there is only the bound."""
    if spent is not None and budget >= CYCLE:
        return spent.move(problem, laws, here)
    gap = None if spent is None else float("inf")
    if budget <= 0:
        return Move(here, level(problem.expect(here), here), 0, gap), spent
    new, found = step(problem, laws, here, here.held)
    return Move(new, level(found, here), 1, gap), spent


def _first(problem: Problem, laws: tuple[Conjugate, ...], start: Params | Bound) -> AtLaws:
    """The laws from which steps begin."""
    if isinstance(start, AtLaws):
        return start
    bound = start if isinstance(start, Bound) else problem.bind(batched({n: v.double() for n, v in start.items()}))
    return step(problem, laws, bound, None)[0]


def _check(path: list[float]) -> None:
    """Raise where the bound is not finite, or fell beyond rounding."""
    if not isfinite(path[-1]):
        raise ObjectiveError(
            f"VariationalEM: expected a finite bound, got {path[-1]} at point {len(path) - 1} of its path. Check the "
            f"data and the scale of the priors."
        )
    if len(path) > 1 and path[-1] < path[-2] - SLACK * (1 + abs(path[-2])):
        raise ObjectiveError(
            f"VariationalEM: expected the bound to rise, got {path[-1]:.12g} after {path[-2]:.12g} at point "
            f"{len(path) - 1} of its path. A site's density is not what its family says."
        )
