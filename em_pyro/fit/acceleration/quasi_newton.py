"""EM accelerated by quasi-Newton steps: what joins an EM step and its gradient to `secants.py`, which knows no EM.

An E-step gives the objective, by Fisher's identity its gradient, and the EM step: all that a quasi-Newton step with EM
as its preconditioner asks. So a move takes one E-step, at the point that it proposes; it is kept if the objective has
risen there as a line search asks, and answered by the plain EM step if no shorter one has either.

All parameters move together as one vector in unconstrained space. Entries that run to a boundary, or are there, move as
the EM step moves them: a face of the constraints, on which the others go on.

References:
    Jamshidian and Jennrich (1997), JRSS B 59:569-587 (QN2). Nocedal and Wright (2006), section 3.1 (the line search).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite, log

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from ...errors import EMError
from ...families.charts import domain_of
from ...program.coordinates import joined
from ...program.named import Batch, batched, only
from ...records.frozen import frozen
from ..look import Look, look
from ..path import Move, Path
from ..problem import Problem
from ..scales import DEGENERATE
from ..step import em_step
from ..stopping import CALM, SLOWEST, difference, is_small, near
from .points import flown
from .secants import Secants

TRIALS = 3  # proposals that are tried before the plain step is taken
RISEN = 1e-4  # of the gain that the slope promises: what a proposal must bring (Armijo)
SHORTER = 0.3  # of the way from the EM step to it, the next one
EDGE = 14.0  # of a logit or the logarithm of a probability: beyond it an entry that runs outwards is left to EM
PLAIN = 3  # moves from a new place that are plain steps: far from a maximum EM knows better
WORST = 1 / (1 - SLOWEST)  # of the slowest plain steps that are believed
SHRINKS = log(3.0)  # of the logarithm of a spread of latents: the most by which a proposal lets it shrink
LEVEL, STRIDE = 0.9, 4.0  # of what the slope promised to the step before; and how much longer every stride is
DIGITS = 1e-2  # of the slack that the loop has: a proposal is not kept for less


@frozen
class Reached:
    """A point at which an EM step was taken.

    Attributes:
        here: the point, a batch of one.
        new: where the EM step leads.
        found: the E-step.
        seen: the look at the step.
        vector: the point in unconstrained space, shape (D,).
        step: the EM step there, zero where a coordinate is infinite, shape (D,).
        slope: the gradient there, likewise, shape (D,).
        free: coordinates that a quasi-Newton step may move, shape (D,).
        plain: what was known of the fastest forms when the step was taken (`Bound.plain`).
    """

    here: Batch = field(repr=False)
    new: Batch = field(repr=False)
    found: Expectation = field(repr=False)
    seen: Look = field(repr=False)
    vector: Tensor = field(repr=False)
    step: Tensor = field(repr=False)
    slope: Tensor = field(repr=False)
    free: Tensor = field(repr=False)
    plain: bool | None = field(default=None, repr=False)

    @property
    def objective(self) -> float:
        """Log evidence plus log prior."""
        return self.seen.objective[0]

    @property
    def sound(self) -> bool:
        """Whether there is a step, from a finite objective."""
        return self.seen.stepped[0] and isfinite(self.objective)

    @cached_property
    def promised(self) -> float:
        """What the slope promises to the EM step, `g'r`."""
        return abs(float(self.slope @ self.step))


@dataclass(frozen=True)
class QuasiNewton:
    """Quasi-Newton steps on their way: what they have spent and learnt.

    Attributes:
        evaluations: EM steps taken: those before it began, and those at proposals that were given up, included.
        began: plain EM steps before it began.
        kept: proposals that were kept.
        rejected: proposals that were given up for a plain EM step, because the objective was lower at all lengths.
        seconds: time spent in EM steps and gradients.
        plain: moves to come that are plain steps.
        left: estimated nats to gain from where the last move began.
        rated: whether that is by two plain steps in a row.
        gain: the most by which the information in complete data was seen to exceed that in the data observed.
        stride: on a plateau, how many EM steps the next proposal is long; none elsewhere.
        at: the point from which the last move began.
        ahead: where it leads, if the EM step was taken there too.
        secants: what was learnt.
    """

    evaluations: int = 0
    began: int = 0
    kept: int = 0
    rejected: int = 0
    seconds: float = 0.0
    plain: int = PLAIN
    left: float = float("inf")
    rated: bool = field(default=False, repr=False)
    gain: float = field(default=1.0, repr=False)
    stride: float = field(default=0.0, repr=False)
    at: Reached | None = field(default=None, repr=False, compare=False)
    ahead: Reached | None = field(default=None, repr=False, compare=False)
    secants: Secants = field(default_factory=lambda: Secants.none(0), repr=False, compare=False)

    @property
    def seconds_per_step(self) -> float:
        """Cost of one EM step with its gradient."""
        return self.seconds / max(1, self.evaluations - self.began)

    @property
    def summary(self) -> QuasiNewton:
        """What a `Fit` keeps: the counts."""
        return replace(self, at=None, ahead=None, secants=Secants.none(0))

    def __str__(self) -> str:
        """Say it in one line."""
        before = f" after {self.began} plain steps" if self.began else ""
        return (
            f"quasi-Newton{before}: {self.evaluations - self.began} EM steps with their gradients, "
            f"{1e3 * self.seconds_per_step:.2g} ms each; {self.kept} proposals kept, {self.rejected} rejected"
        )

    # ---- a move ----

    def move(self, problem: Problem, here: Batch, budget: int) -> Move:
        """Move on from `here` by at most `budget` EM steps: a quasi-Newton step if it rises, else the plain one."""
        began = time.perf_counter()
        known = self._arrived(problem, here)
        at, new = known.at, None
        assert at is not None
        if at.sound and budget > 0:
            if not known.plain:
                known = known._searched(problem, at, budget)
            if known.ahead is None:
                known = replace(known, evaluations=known.evaluations + 1, plain=max(0, known.plain - 1))
            else:
                new = known.ahead.here
        spent = replace(known, seconds=known.seconds + time.perf_counter() - began)
        return Move(at.new if new is None else new, at.found, spent=spent, seen=at.seen)

    def gap(self, problem: Problem, path: Path, move: Move, tol: float) -> tuple[float, QuasiNewton]:
        """Return `k g'r`, with `g'r` what the slope promises to an EM step, and `k` by plain steps.

        With `H0` and `H` the inverse information in complete and in observed data, `g'Hg / 2` is left near a maximum,
        which is at most `g'H0g / 2 = g'r / 2` times the largest ratio `k` of both: `1 / (1 - rate)` of plain steps.
        Quasi-Newton steps show ratios too, but not of directions in which none has led. So where they say that nothing
        is left, the next moves are plain steps, and until these have a rate the slowest is taken. The half is left out:
        plain steps show their slowest direction late.
        """
        if self.rated or not is_small(self.left, path.level, tol):
            return self.left, self
        assert self.at is not None
        return self.at.promised * WORST, replace(self, plain=CALM)

    def _arrived(self, problem: Problem, here: Batch) -> QuasiNewton:
        """Take the EM step at `here`, unless it is known, and learn from the move that led there."""
        last, ahead = self.at, self.ahead
        if last is not None and last.here is here:
            return replace(self, ahead=None)
        if last is not None and ahead is not None and ahead.here is here:
            return self._learnt(last, ahead)
        at = reached(problem, here)
        if last is not None and last.new is here and ahead is None:
            return self._learnt(last, at)
        first = last is None  # else another place: beside a saddle
        known = replace(self, at=at, ahead=None, secants=Secants.none(len(at.vector)), rated=False)
        return replace(known, plain=self.plain if first else PLAIN, left=at.promised * WORST)

    def _learnt(self, last: Reached, at: Reached) -> QuasiNewton:
        """Remember the move from `last` to `at`, and judge what is left."""
        moved = (difference(last.vector, at.vector), last.slope - at.slope, last.step - at.step)
        free = last.free & at.free
        secants = self.secants.after(*(torch.where(free, part, 0.0) for part in moved)).within(at.free)
        newton = float(at.slope @ _direction(secants, at))
        while len(secants) and newton < at.promised:  # never near a maximum: complete data have more information
            secants = secants.newest(len(secants) // 2)
            newton = float(at.slope @ _direction(secants, at))
        gain, rated = self.gain, last.new is at.here
        if at.promised > 0:
            gain = max(gain, newton / at.promised)
        if rated and last.promised > 0:
            gain = max(gain, 1 / (1 - min(at.promised / last.promised, SLOWEST)))
        gain = min(gain, WORST)
        left = at.promised * (gain if len(secants) else WORST)
        plateau = not len(secants) and at.promised >= LEVEL * last.promised
        stride = max(self.stride, STRIDE) if plateau else 0.0
        return replace(self, at=at, ahead=None, secants=secants, gain=gain, stride=stride, rated=rated, left=left)

    def _searched(self, problem: Problem, at: Reached, budget: int) -> QuasiNewton:
        """Try the way from the EM step to the quasi-Newton step; `ahead` is where it rises enough, None if nowhere.

        A proposal promises no more than is `near`: farther on the objective is no parabola.
        """
        if not len(self.secants):
            return self._strode(problem, at, budget)
        correction = _within(problem, at, _direction(self.secants, at)) - at.step
        more, length, trials = float(at.slope @ correction), 1.0, 0
        if more > 0:
            length = min(1.0, (2 * near(at.objective) - at.promised) / more)
        rounding = DIGITS * problem.slack * (1 + abs(at.objective))
        while length > 0 and trials < min(TRIALS, budget - 1):
            trials += 1
            ahead = _tried(problem, at, at.step + length * correction)
            rise = -torch.inf if ahead is None else ahead.objective - at.objective
            if ahead is not None and rise >= RISEN * (at.promised + length * more) - rounding:
                return replace(self, evaluations=self.evaluations + trials, kept=self.kept + 1, ahead=ahead)
            length *= SHORTER
        if not trials:
            return replace(self, ahead=None)
        counts = replace(self, evaluations=self.evaluations + trials, rejected=self.rejected + 1)
        return replace(counts, ahead=None, secants=Secants.none(len(at.vector)))

    def _strode(self, problem: Problem, at: Reached, budget: int) -> QuasiNewton:
        """Try several EM steps at once, ever more, where moves have shown a slope that does not fall: a plateau."""
        promised = min(self.stride * at.promised, 2 * near(at.objective))
        if not self.stride or promised <= at.promised or budget < 2:
            return replace(self, ahead=None)
        ahead = _tried(problem, at, _within(problem, at, promised / at.promised * at.step))
        counts = replace(self, evaluations=self.evaluations + 1)
        if ahead is not None and ahead.objective - at.objective >= RISEN * promised:
            return replace(counts, kept=self.kept + 1, stride=STRIDE * self.stride, ahead=ahead)
        return replace(counts, rejected=self.rejected + 1, stride=0.0, ahead=None)


def reached(problem: Problem, here: Batch) -> Reached:
    """Take the EM step at a point, and its gradient."""
    plain = problem.bind(here).plain
    new, found = em_step(problem, here, {})
    seen = look(problem, found, here, new)
    vector = problem.coordinates.vector(only(here))
    if not seen.stepped[0]:
        nothing = torch.zeros_like(vector)
        return Reached(here, new, found, seen, vector, nothing, nothing, nothing > 0, plain)
    image, slope = problem.coordinates.vector(only(new)), joined(problem.gradient(found, here)).nan_to_num(0.0)
    step = difference(vector, image)
    free = torch.isfinite(vector) & torch.isfinite(image) & ~_leaving(problem, here, vector, step)
    return Reached(here, new, found, seen, vector, step, slope, free, plain)


def _tried(problem: Problem, at: Reached, move: Tensor) -> Reached | None:
    """Take the EM step at a proposal; None where there is none, or a scale has collapsed."""
    image = problem.coordinates.vector(only(at.new))
    vector = torch.where(torch.isfinite(at.vector) & torch.isfinite(image), at.vector + move, image)
    try:
        there = batched(flown(problem, vector, [only(at.here), only(at.new)]))
        if any(not bool((torch.isfinite(there[n]) | (there[n] == at.new[n])).all()) for n in problem.coordinates.names):
            return None
        found = reached(problem, there)
    except (EMError, ValueError, RuntimeError):  # of a distribution, or of a matrix that has lost its rank
        return None
    narrowest = look(problem, found.found, there, there).narrowest[0]
    return found if found.sound and narrowest >= DEGENERATE else None


def _direction(secants: Secants, at: Reached) -> Tensor:
    """The quasi-Newton step, of free coordinates; the EM step of the others."""
    newton = secants.direction(torch.where(at.free, at.slope, 0.0), torch.where(at.free, at.step, 0.0))
    return torch.where(at.free, newton, at.step)


def _within(problem: Problem, at: Reached, move: Tensor) -> Tensor:
    """Let a spread of latents shrink no faster than to a part: next to zero it holds what they have in common."""
    domains = {n: domain_of(problem.program.parameters[n].constraint) for n in problem.coordinates.names}
    spreads = problem.scales.spreads
    parts = problem.coordinates.cut(move, only(at.here))
    own = joined({n: torch.full_like(p, n in spreads and domains[n] == "positive") for n, p in parts.items()}) > 0
    return torch.where(own, torch.maximum(move, at.step.clamp(max=-SHRINKS)), move)


def _leaving(problem: Problem, here: Batch, vector: Tensor, step: Tensor) -> Tensor:
    """Which coordinates are not for a quasi-Newton step: those next to a boundary, and on their way there."""
    domains = {n: domain_of(problem.program.parameters[n].constraint) for n in problem.coordinates.names}
    parts = problem.coordinates.cut(vector, only(here))
    low = joined({n: torch.full_like(p, domains[n] in ("unit", "simplex")) for n, p in parts.items()}) > 0
    high = joined({n: torch.full_like(p, domains[n] == "unit") for n, p in parts.items()}) > 0
    return low & (vector < -EDGE) & (step < 0) | high & (vector > EDGE) & (step > 0)
