"""The theorem of variational Bayes on the plan of EM, and its iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch

from ..e_step.expectation import Expectation
from ..errors import ObjectiveError
from ..fit.problem import Problem
from ..fit.stopping import CALM, aitken, is_small
from ..program.named import Params, batched
from ..reading.bound import Bound
from .conjugate import Conjugate
from .laws import AtLaws, Held, bound_to, divergence

SLACK = 1e-10  # rounding of the bound, relative to 1 + |bound|


def step(problem: Problem, laws: tuple[Conjugate, ...], bound: Bound, held: Held | None) -> tuple[AtLaws, Expectation]:
    """Take one step of variational Bayes: EM with laws in place of points.

    With site factors `L_s(z_s; theta)` of the log-joint, linear in natural parameters `eta_s(theta)`:

        E-step.  W_s = d log Z / d L_s at E_q eta;  S_s = <W_s, T_s(x)>.
        M-step.  q(theta) has the hyperparameters of the prior, with sum_s S_s added.

    Where sums have too few digits at the new laws, they are taken once more around these, as in EM.

    Args:
        problem: of the E-step.
        laws: conjugate priors of all parameters.
        bound: laws, or at the start points.
        held: the laws so far; None at the start.

    References:
        Beal (2003), Variational algorithms for approximate Bayesian inference, theorem 2.2.
        Bishop (2006), Pattern Recognition and Machine Learning, section 10.2.
    """
    found = problem.expect(bound)
    new = bound_to(_updated(laws, found, bound, held), problem.engine.recognition.bank)
    short = problem.engine.blurred(bound, new)
    if short is not None and bool(short):
        found = problem.expect(bound, new)
        new = bound_to(_updated(laws, found, bound, held), problem.engine.recognition.bank)
    return new, found


def _updated(laws: tuple[Conjugate, ...], found: Expectation, bound: Bound, held: Held | None) -> Held:
    before = [None] * len(laws) if held is None else [law for _, law in held]
    return [(each, each.updated(found.sums, bound.batch, law)) for each, law in zip(laws, before, strict=True)]


@dataclass(frozen=True)
class Climb:
    """A start at its end.

    Attributes:
        bound: the laws.
        path: the evidence lower bound at every step, the start included.
        outcome: "converged", "step limit" or "stopped".
        gap: estimated nats that further steps would gain.
    """

    bound: AtLaws
    path: tuple[float, ...]
    outcome: str
    gap: float


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
    while True:
        last = len(path) >= max_steps
        if last:
            new, found = now, problem.expect(now)
        else:
            new, found = step(problem, laws, now, now.held)
        path.append(float(found.log_evidence) - float(divergence(now.held)))
        _check(path)
        if told(len(path) - 1, path[-1], now) is True and len(path) > 1:
            return Climb(now, tuple(path), "stopped", gap)
        gap = aitken(path)[0]
        calm = calm + 1 if is_small(gap, path[-1], tol) else 0
        if tol > 0 and calm >= CALM:
            return Climb(now, tuple(path), "converged", gap)
        if last:
            return Climb(now, tuple(path), "step limit", gap)
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
