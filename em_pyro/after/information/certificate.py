"""How good a maximum a fit has found: nats still to gain, curvature, and what is flat."""

from __future__ import annotations

from dataclasses import dataclass

from ...fit.problem import Problem
from ...program.named import Params
from ...records.shown import Shown
from ..dimension import dimension
from .oakes import top
from .record import Direction


@dataclass(frozen=True)
class Certificate(Shown):
    """How good a maximum is. Print it.

    Attributes:
        decrement: nats still to gain from the fitted values, by Newton's method.
        smallest: the smallest curvature, in units of the information in complete data: zero where the objective is
            flat along some direction, negative at a saddle. EM converges at the rate of one less it.
        rank: number of directions that the data determine.
        dimension: number of free parameters at an interior point.
        directions: those that are flat, by name.
        notes: what is at a boundary, or runs to infinity.
    """

    decrement: float
    smallest: float
    rank: int
    dimension: int
    directions: tuple[Direction, ...]
    notes: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """The rate at which plain EM converges there."""
        return max(1 - self.smallest, 0.0)

    def __str__(self) -> str:
        """Say it in lines."""
        flat = f"flat along {len(self.directions)}: {'; '.join(map(str, self.directions))}" if self.directions else ""
        lines = [
            f"{self.decrement:.2g} nats still to gain",
            f"smallest curvature {self.smallest:.4g} of that in complete data, rate of EM {round(self.rate, 8):.4g}",
            f"{self.rank} of {self.dimension} directions determined",
            *([flat] if flat else []),
        ]
        return "\n".join([*lines, *self.notes])


def certificate(problem: Problem, params: Params) -> Certificate:
    """Say how good a maximum fitted values are.

    Raises:
        PlanError: the program cannot be differentiated twice.
    """
    found = top(problem, params)
    here = found.peak
    return Certificate(found.decrement, here.smallest, here.rank, dimension(problem), found.directions(), found.told())
