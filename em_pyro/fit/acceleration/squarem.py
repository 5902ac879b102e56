"""SQUAREM: fewer evaluations of any slow fixed-point map that climbs an objective.

This file knows a map and an objective, nothing else. A *step* takes a point and returns the mapped point together with
the objective at the point it was given, which is what an EM step knows for free. One SQUAREM cycle is itself such a
step, so whoever can iterate a step can iterate a cycle.

References:
    Varadhan and Roland (2008), Simple and globally convergent methods for accelerating the convergence of any EM
    algorithm, Scandinavian Journal of Statistics 35:335-353 (scheme S3).
    Du and Varadhan (2020), SQUAREM: an R package for off-the-shelf acceleration of EM, MM and other EM-like monotone
    algorithms, Journal of Statistical Software 92(7) (the adaptive bound on the step length).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from em_pyro.errors import EMError

GROWTH = 4.0
"""Factor by which the bound on the step length grows and shrinks (`mstep` of the R package)."""

Step = Callable[[Tensor], tuple[Tensor, float]]
"""A fixed-point map: point -> (mapped point, objective at the point that was given)."""


@dataclass(frozen=True)
class Squarem:
    """What one run of SQUAREM has learnt and spent so far; the default is the state to start from.

    Attributes:
        cycles: cycles completed.
        evaluations: evaluations of the map, those that raised included.
        extrapolated: extrapolations that were kept.
        rejected: extrapolations that were tried and given up for the plain double step.
        step_max: bound on the next step length, in plain steps; one means "do not extrapolate yet".
    """

    cycles: int = 0
    evaluations: int = 0
    extrapolated: int = 0
    rejected: int = 0
    step_max: float = 1.0

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"SQUAREM: {self.cycles} cycles, {self.evaluations} evaluations of the map, "
            f"{self.extrapolated} extrapolations kept, {self.rejected} rejected"
        )


def squarem(step: Step, x: Tensor, state: Squarem, *, slack: float = 1e-10) -> tuple[Tensor, float, Squarem]:
    """Do one guarded SQUAREM cycle: two plain steps, one extrapolation, one step that measures and stabilises it.

    The objective at the new point is never below the objective at `x` by more than the rounding slack, provided that
    the map itself never lowers the objective: an extrapolated point `y` is kept only if its objective is at least
    that of `x`, and what is returned is the image of `y`. Otherwise the cycle is two plain steps, and one evaluation
    has been wasted.

    Args:
        step: the map, `x -> (map(x), objective(x))`.
        x: point in unconstrained coordinates, shape `(D,)`. Infinite entries (parameters on a boundary) are
            carried along by the map and never extrapolated.
        state: what the previous cycle returned, or `Squarem()`.
        slack: rounding of the objective, relative to `1 + |objective|`.

    Returns:
        The new point, the objective **at the given `x`**, and the new state.
    """
    x1, before = step(x)
    if torch.equal(x1, x):
        return x1, before, replace(state, cycles=state.cycles + 1, evaluations=state.evaluations + 1)
    x2, _ = step(x1)
    y, length = extrapolate(x, x1, x2, step_max=state.step_max)
    # Within a hundredth of a plain double step there is nothing to gain: keep the double step, which is already paid.
    tried = abs(length - 1.0) > 0.01
    accepted = _measure(step, y, at_least=before - slack * (1.0 + abs(before))) if tried else None
    return (
        x2 if accepted is None else accepted,
        before,
        Squarem(
            cycles=state.cycles + 1,
            evaluations=state.evaluations + (3 if tried else 2),
            extrapolated=state.extrapolated + (accepted is not None),
            rejected=state.rejected + (tried and accepted is None),
            step_max=_next_bound(state.step_max, length, failed=tried and accepted is None),
        ),
    )


def extrapolate(x: Tensor, x1: Tensor, x2: Tensor, *, step_max: float) -> tuple[Tensor, float]:
    """Extrapolate three successive iterates by the squared scheme S3.

    Near a fixed point the map is linear, `map(x) - x* = J (x - x*)`, so with `r = x1 - x` and `v = (x2 - x1) - r`

        r = (J - 1) (x - x*),    v = (J - 1) r,

    and if `J` were a number, `s = |r| / |v| = 1 / (1 - J)` plain steps in one would land on `x*`. The squared scheme
    applies that jump twice, `x + 2 s r + s^2 v`, whose error is `(1 + s (J - 1))^2 (x - x*)`. `s = 1` is exactly the
    plain double step `x2`. (`s` is minus the steplength of Varadhan and Roland, equation 9.)

    Coordinates that are infinite in any of the three points have no difference; they take their value in `x2`.

    Returns:
        The extrapolated point, shape `(D,)`, and the step length `1 <= s <= step_max`.
    """
    finite = x.isfinite() & x1.isfinite() & x2.isfinite()
    r = torch.where(finite, x1 - x, 0.0)
    v = torch.where(finite, x2 - x1, 0.0) - r
    norm_r, norm_v = float(torch.linalg.vector_norm(r)), float(torch.linalg.vector_norm(v))
    if norm_r == 0.0:  # what moved was infinite
        return x2, 1.0
    s = max(1.0, min(step_max, norm_r / norm_v if norm_v > 0.0 else math.inf))
    return torch.where(finite, x + 2.0 * s * r + s**2 * v, x2), s


def _measure(step: Step, y: Tensor, *, at_least: float) -> Tensor | None:
    """Return the image of `y` if the map is defined there and the objective high enough, else None."""
    try:
        image, objective = step(y)
    except (EMError, ValueError, torch.linalg.LinAlgError):
        # Outside the domain of the map: a parameter overflowed or a matrix lost its rank. The double step did not.
        return None
    # A NaN objective fails the comparison; plus infinity is a degenerate likelihood, which must not win.
    return image if at_least <= objective < math.inf and not bool(image.isnan().any()) else None


def _next_bound(step_max: float, length: float, *, failed: bool) -> float:
    """Widen the bound after a success at the bound, narrow it after a failure there; never below one plain step.

    A failure counts as a cycle of length one, so a bound that fell back to one is at once widened again: otherwise one
    bad extrapolation would end the acceleration.
    """
    if failed:
        step_max = max(1.0, step_max / GROWTH) if length == step_max else step_max
        length = 1.0
    return GROWTH * step_max if length == step_max else step_max
