"""What one contender did from one start, and the clock that it ran by."""

from __future__ import annotations

import time
from dataclasses import field

from torch import Tensor

from ..records.frozen import frozen

LEVELS = (1.0, 0.1, 1e-3)
"""Nats from the best known objective at which contenders are compared."""


@frozen
class Point:
    """A point that was reached, and what it had cost to get there.

    The objective is the one that the *next* step returned anyway: nobody pays for a second evaluation.
    """

    step: int  # passes over the data: EM steps, SVI steps, evaluations of L-BFGS
    seconds: float
    objective: float
    e_steps: int
    gradients: int


@frozen
class Lane:
    """One contender from one start.

    Attributes:
        contender: its name in the race.
        start: index of the start.
        points: what was reached, the start first; empty for one that could not run.
        setup_seconds: planning, or building the guide and the optimiser.
        first_seconds: the first evaluation, which traces the model, before the clock ran.
        ending: "converged", "time", "step limit", another ending of EM, or "not able".
        message: why it was not able, or what it found out.
        params: constrained values at the end, by name.
        held_out: log predictive density of the held-out data, in nats.
        shares_objective: whether `points` hold the objective of the race, and not some other bound.
    """

    contender: str
    start: int
    points: tuple[Point, ...] = field(repr=False)
    setup_seconds: float = 0.0
    first_seconds: float = 0.0
    ending: str = "time"
    message: str = ""
    params: dict[str, Tensor] = field(default_factory=dict, repr=False)
    held_out: float | None = None
    shares_objective: bool = True

    @property
    def best(self) -> float:
        """Highest objective reached."""
        return max((p.objective for p in self.points if p.objective == p.objective), default=-float("inf"))

    @property
    def ms_per_step(self) -> float:
        """Milliseconds a pass."""
        last = self.points[-1] if self.points else None
        return 1e3 * last.seconds / last.step if last and last.step else float("nan")

    def first_within(self, level: float) -> Point | None:
        """Where the objective first reached `level`, or None."""
        return next((p for p in self.points if p.objective >= level), None)


class Clock:
    """Seconds since it was started, and whether the budget is spent."""

    def __init__(self, budget: float, max_steps: int) -> None:
        """Allow `budget` seconds and `max_steps` steps."""
        self.budget, self.max_steps, self.began = budget, max_steps, time.perf_counter()

    def start(self) -> None:
        """Start running."""
        self.began = time.perf_counter()

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.began

    def spent(self, step: int = 0) -> str:
        """Why no further step may be taken, or nothing."""
        return "time" if self.now >= self.budget else "step limit" if step >= self.max_steps else ""
