"""What acceleration has spent and saved."""

from __future__ import annotations

from dataclasses import dataclass, field

from .squarem import Squarem


@dataclass(frozen=True)
class Accelerated:
    """What acceleration has spent and saved.

    Attributes:
        squarem: counts, and the bound on the next extrapolation.
        reach: how many plain steps, to first order, the same way would have taken.
        seconds: time spent in EM steps, those that were given up included.
        rates: by how much a plain step shrank the gain, for the last few cycles.
    """

    squarem: Squarem = Squarem()
    reach: float = 0.0
    seconds: float = 0.0
    rates: tuple[float, ...] = field(default=(), repr=False)

    @property
    def evaluations(self) -> int:
        """EM steps taken, those that were given up included."""
        return self.squarem.evaluations

    @property
    def cycles(self) -> int:
        """Cycles of two plain steps, an extrapolation and a step from there."""
        return self.squarem.cycles

    @property
    def rejected(self) -> int:
        """Extrapolations that were given up, because the objective was lower there."""
        return self.squarem.rejected

    @property
    def seconds_per_step(self) -> float:
        """Cost of one EM step."""
        return self.seconds / max(1, self.evaluations)

    def __str__(self) -> str:
        """Say it in one line."""
        each = f"{1e3 * self.seconds_per_step:.2g} ms each"
        return f"{self.squarem}, {each}; as far as about {self.reach:.0f} plain steps"
