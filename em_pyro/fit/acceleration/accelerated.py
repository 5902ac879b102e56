"""EM accelerated by SQUAREM: the glue between one EM step and `squarem.py`, which knows a map and no EM.

All free parameters move together as one vector in unconstrained space, where an extrapolation cannot leave a
constraint. The map is the EM step of the plan, whatever its M-steps are, and the objective is the one that the E-step
finds on its way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import pairwise

from torch import Tensor

from ...e_step.expectation import Expectation
from ...errors import EMError
from ...program.named import Batch, batched, only
from ..look import look
from ..path import Move, Path
from ..problem import Problem
from ..step import em_pass, held_back
from ..stopping import SLOWEST, difference, is_small, promised
from .points import flown
from .squarem import Squarem, extrapolate, squarem

RECENT = 5  # cycles whose slowest rate is believed: an extrapolation hides the slow direction for a cycle or two


@dataclass(frozen=True)
class Accelerated:
    """SQUAREM on its way: what it has spent and saved.

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

    @property
    def summary(self) -> Accelerated:
        """What a `Fit` keeps: all of it."""
        return self

    def move(self, problem: Problem, here: Batch, budget: int) -> Move:
        """Take one cycle, or one plain step where fewer than three EM steps are left in `budget`."""
        return cycle(problem, here, self, budget)

    def gap(self, problem: Problem, path: Path, move: Move, tol: float) -> tuple[float, Accelerated]:
        """Estimate the gap by the two plain steps of a cycle: `rate = g1'r1 / g'r`, the slowest of the last few cycles.

        Far from the top the gain of the first is taken, and its rate from the lengths of both.
        """
        moves = [difference(*pair) for pair in pairwise(move.points)]
        if not bool((moves[0] != 0).any()):
            return 0.0, self
        if move.beside is None:
            return float("inf"), self
        plain, found = move.beside
        gain = float(found.objective - move.found.objective)
        if not is_small(gain, path.level, tol):
            first, second = (float(step.square().sum()) for step in moves)
            rate = min(second / first, SLOWEST)
            return gain * rate / (1 - rate), self
        first = abs(promised(problem, move.found, path.here, moves[0]))
        second = abs(promised(problem, found, plain, moves[1]))
        rate = min(second / first, SLOWEST) if first > 0 else 0.0
        rates = (*self.rates, rate)[-RECENT:]
        return max(first, gain, 0.0) / (1 - max(rates)), replace(self, rates=rates)

    def __str__(self) -> str:
        """Say it in one line."""
        each = f"{1e3 * self.seconds_per_step:.2g} ms each"
        return f"{self.squarem}, {each}; as far as about {self.reach:.0f} plain steps"


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
            at = batched(flown(problem, x, [only(v) for _, v in seen])) if known is None else known
            new, found = em_pass(problem, at, {})
            new = held_back(problem, at, new, found)
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
        new = held_back(problem, here, new, found)
    return Move(
        new=new,
        found=found,
        points=tuple(point for point, _ in seen[:3]),
        beside=(steps[0][1], steps[1][0]) if len(steps) > 1 else None,
        spent=replace(
            spent, squarem=after, reach=spent.reach + moved, seconds=spent.seconds + time.perf_counter() - began
        ),
    )
