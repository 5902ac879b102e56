"""A start on its way: where it is, how it came there, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from ..e_step.expectation import Expectation
from ..m_step.ascent.ascend import Memory
from ..program.named import Batch, Params, batched, only
from .look import Look
from .problem import Problem
from .verdict.findings import Findings

NOTHING: Mapping[tuple[str, ...], Memory] = {}


class Acceleration(Protocol):
    """What makes the moves of an accelerated fit in place of plain steps, and what it has spent and learnt."""

    @property
    def evaluations(self) -> int:
        """EM steps taken, those that were given up included."""

    @property
    def summary(self) -> Acceleration:
        """The same for a `Fit` to keep: counts, without what further moves would need."""

    def move(self, problem: Problem, here: Batch, budget: int) -> Move:
        """Move on from `here`, by at most `budget` EM steps; never to where the objective is lower.

        With no budget left the move is one plain step, which is not gone to.
        """

    def gap(self, problem: Problem, path: Path, move: Move, tol: float) -> tuple[float, Acceleration]:
        """Estimate the nats that are left to gain at `path.here`; and what is known after it."""


class Move(NamedTuple):
    """A move away from a point: one plain step, or what an acceleration has made of several.

    Attributes:
        new: where it leads; NaN where there is no step.
        found: the E-step at the point it leads away from.
        memory: what climbs remember after it.
        points: of a cycle: the point, and what one plain step and two lead to, in unconstrained space.
        beside: of a cycle: the plain step from the point, and the E-step there if a second one was taken.
        spent: the acceleration, this move included.
        seen: the look at the EM step from the point, if that is not where the move leads.
    """

    new: Batch
    found: Expectation
    memory: Mapping[tuple[str, ...], Memory] = NOTHING
    points: tuple[Tensor, ...] = ()
    beside: tuple[Batch, Expectation] | None = None
    spent: Acceleration | None = None
    seen: Look | None = None


class Path(NamedTuple):
    """One start on its way, or at its end: a tuple, because a step makes two of it and a dataclass is dearer.

    Attributes:
        here: where it is, a batch of one.
        before: the objective at every point that led here.
        objective: the objective here; None while it is not known.
        last: the point before this one, where the objective is known.
        gap: estimated nats that further steps would gain.
        calm: successive steps at which the stopping rule was met.
        saddles: how many were left.
        notes: what was found out on the way.
        memory: what climbs remember of the steps that led here.
        spent: the acceleration, if there is any, and what it has spent.
        switches: steps that were taken again around the locations that they led to.
        outcome: a named ending; empty while the start is on its way.
        e_step: how rows are shared out: "soft", "hard" or "sampled".
        repeats: the earlier start that began at the same values, whose path this is; None if there is none.
        findings: of a closer look at its end, if that was taken.
    """

    here: Batch
    before: tuple[float, ...] = ()
    objective: float | None = None
    last: Batch | None = None
    gap: float = float("inf")
    calm: int = 0
    saddles: int = 0
    notes: tuple[str, ...] = ()
    memory: Mapping[tuple[str, ...], Memory] = NOTHING
    spent: Acceleration | None = None
    switches: int = 0
    outcome: str = ""
    e_step: str = "soft"
    repeats: int | None = None
    findings: Findings | None = None

    # ---- what it is ----

    @property
    def trail(self) -> tuple[float, ...]:
        """The objective at every point reached, the start included."""
        return self.before if self.objective is None else self.before + (self.objective,)

    @property
    def level(self) -> float:
        """The objective at `params`."""
        return self.before[-1] if self.objective is None else self.objective

    @property
    def params(self) -> dict[str, Tensor]:
        """Parameters at the last point whose objective is known."""
        return only(self.here if self.objective is not None or self.last is None else self.last)

    @property
    def converged(self) -> bool:
        """Whether the stopping rule was met."""
        return self.outcome == "converged"

    @property
    def step(self) -> int:
        """EM steps that led here, those of extrapolations that were given up included."""
        return len(self.before) if self.spent is None else self.spent.evaluations

    @property
    def num_steps(self) -> int:
        """EM steps that led to `params`."""
        return len(self.trail) - 1 if self.spent is None else self.spent.evaluations

    # ---- how it goes on ----

    def reached(self, objective: float, *, blurred: bool = False) -> Path:
        """Know the objective here, and whether the step from here had to be taken again."""
        return self._replace(objective=objective, switches=self.switches + blurred)

    def charged(self, spent: Acceleration | None) -> Path:
        """Note what acceleration has spent by now; nothing where there is none."""
        return self if spent is None else self._replace(spent=spent)

    def estimated(self, gap: float, small: bool) -> Path:  # noqa: FBT001
        """Note the estimated gap, and whether it meets the stopping rule."""
        return self._replace(gap=gap, calm=self.calm + 1 if small else 0)

    def moved(self, new: Batch, memory: Mapping[tuple[str, ...], Memory]) -> Path:
        """Go on to `new`."""
        return self._replace(here=new, before=self.trail, objective=None, last=self.here, memory=memory)

    def left(self, what: str) -> Path:
        """Note that a disturbance led higher from a saddle, or a way off a plateau or inwards from a boundary."""
        note = f"left a {what} after {self.step} steps"
        return self._replace(saddles=self.saddles + 1, calm=0, notes=(*self.notes, note))

    def ended(self, outcome: str, note: str = "") -> Path:
        """End here."""
        return self._replace(outcome=outcome, notes=(*self.notes, note) if note else self.notes)

    def doubted(self, note: str) -> Path:
        """Say why an end that met the stopping rule is not believed; other ends are what they were."""
        return self.ended("unconfirmed" if self.converged else self.outcome, note)

    def resumed(self) -> Path:
        """Take up a path that was stopped by the cap: the rule that ends it begins anew."""
        return self._replace(objective=None, gap=float("inf"), calm=0, saddles=0, outcome="", findings=None)


def start(params: Params) -> Path:
    """Begin at `params`."""
    return Path(batched({name: value.double() for name, value in params.items()}))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or an error of the callback's, with the path so far."""

    def __init__(self, path: Path, cause: BaseException | None = None) -> None:
        """Keep the path, ended, and what the callback raised."""
        super().__init__("EM was interrupted")
        self.path, self.cause = path.ended("interrupted"), cause


class Lost(KeyboardInterrupt):
    """What stops a fit from outside, with the error that says so: another process does not answer."""

    def __init__(self, cause: BaseException) -> None:
        """Keep the error."""
        super().__init__(str(cause))
        self.cause = cause
