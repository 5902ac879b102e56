"""Steps of variational Bayes accelerated by SQUAREM, on the hyperparameters of all laws together.

What it extrapolates are laws, and any laws have a bound: an extrapolation is kept only where that is no lower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from ...fit.acceleration.squarem import Squarem, squarem
from ...fit.acceleration.when import LEVEL, PATIENCE, SEEN, always, never, slow
from ...fit.problem import Problem
from ...fit.stopping import SLOWEST
from ...records.frozen import frozen
from ..conjugate import Conjugate
from ..laws import AtLaws, bound_to
from .hyper import laws_at, vector
from .step import level, step

RECENT = 5  # cycles whose slowest rate is believed: an extrapolation hides the slow direction for a cycle or two


def due(trail: Sequence[float], tol: float) -> bool:
    """Whether "auto" begins: the rate has settled; or gains do not shrink, as where a component is losing its rows."""
    gains = [after - before for before, after in pairwise(trail[-SEEN:])]
    creeps = all(later >= LEVEL * gain > 0 for gain, later in pairwise(gains))
    return slow(trail, tol) or (tol > 0 and len(trail) >= PATIENCE and creeps)


ACCELERATIONS: Mapping[str | None, Callable[[Sequence[float], float], bool]] = {
    None: never,
    "auto": due,
    "squarem": always,
}
"""What may be asked for: when it begins, by the bounds of the plain steps so far and the tolerance."""


class Move(NamedTuple):
    """A move away from laws.

    Attributes:
        new: where it leads.
        level: the bound at the laws that it leads away from.
        steps: how many steps it took.
        gap: estimated nats left to gain there; None where the path has to say.
    """

    new: AtLaws
    level: float
    steps: int
    gap: float | None


@frozen
class Accelerated:
    """SQUAREM on its way.

    Attributes:
        squarem: counts, and the bound on the next extrapolation.
        rates: by how much a plain step shrank the gain, for the last few cycles.
    """

    squarem: Squarem = Squarem()
    rates: tuple[float, ...] = ()

    def move(self, problem: Problem, laws: tuple[Conjugate, ...], here: AtLaws) -> tuple[Move, Accelerated]:
        """Take one cycle from `here`: two plain steps, an extrapolation, and a step from there."""
        seen, levels = [(vector(here.held), here)], list[float]()

        def one(x: Tensor) -> tuple[Tensor, float]:
            known = next((at for point, at in seen if point is x), None)
            at = bound_to(laws_at(x, seen[-1][1].held), here.bank) if known is None else known
            new, found = step(problem, laws, at, at.held)
            seen.append((vector(new.held), new))
            levels.append(level(found, at))
            return seen[-1][0], levels[-1]

        image, before, after = squarem(one, seen[0][0], self.squarem)
        new = next(at for point, at in seen if point is image)
        gap, rates = _left([point for point, _ in seen[:3]], levels, self.rates)
        return Move(new, before, after.evaluations - self.squarem.evaluations, gap), Accelerated(after, rates)

    def __str__(self) -> str:
        """Say it in one line."""
        return str(self.squarem)


def _left(
    points: Sequence[Tensor], levels: Sequence[float], rates: tuple[float, ...]
) -> tuple[float, tuple[float, ...]]:
    """Estimate the gap by the two plain steps of a cycle: the gain of the first, the rate by the lengths of both."""
    if len(points) < 3:
        return 0.0, rates
    first, second = (float((b - a).square().sum()) for a, b in zip(points, points[1:], strict=False))
    rate = min(second / first, SLOWEST) if first > 0 else 0.0
    rates = (*rates, rate)[-RECENT:]
    return max(levels[1] - levels[0], 0.0) / (1 - max(rates)), rates
