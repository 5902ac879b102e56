"""The iteration of variational Bayes: what is asked after every step, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch

from ...errors import ObjectiveError
from ...fit.problem import Problem
from ...fit.stopping import CALM, aitken, is_small
from ...program.named import Params, batched
from ...reading.bound import Bound
from ..conjugate import Conjugate
from ..laws import AtLaws
from .saddle import leave_saddle
from .step import level, step

SADDLES = 5  # that a start may leave
SLACK = 1e-10  # rounding of the bound, relative to 1 + |bound|


@dataclass(frozen=True)
class Climb:
    """A start at its end.

    Attributes:
        bound: the laws.
        path: the evidence lower bound at every step, the start included.
        outcome: "converged", "step limit" or "stopped".
        gap: estimated nats that further steps would gain.
        notes: what was found out on the way.
    """

    bound: AtLaws
    path: tuple[float, ...]
    outcome: str
    gap: float
    notes: tuple[str, ...] = ()


@torch.no_grad()
def climb(
    problem: Problem,
    laws: tuple[Conjugate, ...],
    start: Params | Bound,
    *,
    tol: float,
    max_steps: int,
    told: Callable[[int, float, AtLaws], Any],
) -> Climb:
    """Iterate from points, whose posterior makes the first laws, or from laws.

    Raises:
        ObjectiveError: the bound is not finite, or fell.
    """
    now, path, calm, gap = _first(problem, laws, start), list[float](), 0, float("inf")
    notes = list[str]()
    while True:
        last = len(path) >= max_steps
        if last:
            new, found = now, problem.expect(now)
        else:
            new, found = step(problem, laws, now, now.held)
        path.append(level(found, now))
        _check(path)
        if told(len(path) - 1, path[-1], now) is True and len(path) > 1:
            return Climb(now, tuple(path), "stopped", gap, tuple(notes))
        gap = aitken(path)[0]
        calm = calm + 1 if is_small(gap, path[-1], tol) else 0
        if tol > 0 and calm >= CALM:
            higher = leave_saddle(problem, laws, now, path[-1], gap, len(notes))
            if higher is None or len(notes) >= SADDLES:
                return Climb(now, tuple(path), "converged", gap, tuple(notes))
            notes.append(f"left a saddle after {len(path) - 1} steps")
            new, calm = higher, 0
        if last:
            return Climb(now, tuple(path), "step limit", gap, tuple(notes))
        now = new


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
            f"VariationalEM: expected a finite bound, got {path[-1]} after {len(path) - 1} steps. Check the data and "
            f"the scale of the priors."
        )
    if len(path) > 1 and path[-1] < path[-2] - SLACK * (1 + abs(path[-2])):
        raise ObjectiveError(
            f"VariationalEM: expected the bound to rise, got {path[-1]:.12g} after {path[-2]:.12g} at step "
            f"{len(path) - 1}. A site's density is not what its family says."
        )
