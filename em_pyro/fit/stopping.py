"""When to stop: the gain that further steps would bring, estimated from those that were taken."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..e_step.expectation import Expectation
from ..program.coordinates import joined
from ..program.named import Batch, only
from .path import Acceleration, Move, Path
from .problem import Problem

CALM = 2  # successive steps at which the rule must be met
SLOWEST = 0.9999
NEAR = 1e-4


def is_small(gap: float, objective: float, tol: float) -> bool:
    """Tell whether a gap in nats is below `tol`, relative to the objective."""
    return gap <= tol * (1 + abs(objective))


def near(objective: float) -> float:
    """Return the nats within which of its maximum an objective may be taken for a parabola: one, of many rows more."""
    return max(1.0, NEAR * abs(objective))


def estimated_gap(problem: Problem, path: Path, move: Move, tol: float) -> tuple[float, Acceleration | None]:
    """Estimate the nats that further plain steps would gain from `path.here`.

    With gradient `g` of the objective and plain step `r`, a step gains about `g'r` near the top, gains of successive
    ones shrink at a rate, and what is left is `g'r / (1 - rate)`. While the gains themselves are large they are taken
    instead, and no gradient is computed.

    Returns:
        The gap; and the acceleration, which has its own way to estimate it.
    """
    if move.spent is None:
        return _of_steps(problem, path, move, tol), None
    return move.spent.gap(problem, path, move, tol)


def _of_steps(problem: Problem, path: Path, move: Move, tol: float) -> float:
    """By Aitken's extrapolation of the gains of plain steps, and by what the gradient promises once that is small."""
    objective = path.level
    left, rate = aitken((*path.before[-2:], objective))
    if not is_small(left, objective, tol):
        return left
    old, new = (joined(problem.coordinates.points(only(at))) for at in (path.here, move.new))
    return max(left, abs(promised(problem, move.found, path.here, difference(old, new))) / (1 - rate))


def promised(problem: Problem, found: Expectation, here: Batch, move: Tensor) -> float:
    """Return `g'r`: what a move from `here` would gain to first order, with the gradient of the objective there."""
    return float(joined(problem.gradient(found, here)) @ move)


def aitken(path: Sequence[float]) -> tuple[float, float]:
    """Return what is left to gain by the last two gains of a path, and the rate at which gains shrink.

    With gains `d_t` shrinking at rate `r`, what is left is `d r / (1 - r)`.
    """
    if len(path) < 3:
        return float("inf"), SLOWEST
    last, before = path[-1] - path[-2], path[-2] - path[-3]
    rounding = 1e-15 * (1 + abs(path[-1]))
    rate = min(max(last / before, 0.0), SLOWEST) if before > rounding else 0.5
    return max(last, 0.0) * rate / (1 - rate), rate


def difference(old: Tensor, new: Tensor) -> Tensor:
    """Return what a step moved in unconstrained space; an infinite coordinate (a boundary) counts nothing."""
    move = new - old
    return torch.where(torch.isfinite(move), move, 0.0)
