"""Who holds the rows: what a fit asks of all of them, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.expectation import Expectation
from ...e_step.shares import SOFT, SUMS, Collect, Shares
from ...m_step.regression.steps import Steps
from ...program.named import Batch, alike
from ...reading.bound import Bound
from ...records.frozen import frozen

T = TypeVar("T")

Sharing = Callable[[Engine], Shares]
"""How the rows of an engine are shared out among the states."""


def soft(_: Engine) -> Shares:
    """Share rows out by the posterior."""
    return SOFT


def expanded(steps: Sequence[Steps], found: Expectation, bound: Bound) -> Expectation:
    """Expand what keeps its rows, around the parameters that are bound: what is left of it adds up."""
    sums = dict(found.sums)
    for step in steps:
        sums |= step.expanded(sums, bound.batch)
    return replace(found, sums=sums) if steps else found


class Remembered:
    """The last passes over rows that are dear to read, by the parameters: a step that is tried begins the next one."""

    def __init__(self) -> None:
        """Begin with none."""
        self._known: list[tuple[Engine, Batch, Expectation]] = []

    def expect(
        self,
        taken: Callable[[Engine, Bound, Bound | None, Collect, Sharing], Expectation],
        engine: Engine,
        bound: Bound,
        about: Bound | None,
        collect: Collect,
        shares: Sharing,
    ) -> Expectation:
        """Return what a pass finds, which is `taken` unless it is one of the last: of sums by the posterior alone."""
        if about is not None or collect != SUMS or shares is not soft:
            return taken(engine, bound, about, collect, shares)
        for of, batch, found in self._known:
            if of is engine and alike(batch, bound.batch):
                return found
        found = taken(engine, bound, about, collect, shares)
        self._known = [*self._known[-1:], (engine, bound.batch, found)]
        return found


class Rows(Protocol):
    """The rows of a fit, of which an engine may hold some."""

    @property
    def times(self) -> float:
        """How many times as many rows there are as the engine holds."""

    @property
    def samples(self) -> Mapping[str, Tensor]:
        """Some values of sites with a scale, rows first, from all rows; of sites not in it, the engine's are taken."""

    @property
    def whole(self) -> bool:
        """Whether the engine holds all rows."""

    @property
    def holder(self) -> int:
        """Which of all who hold rows this one is."""

    @property
    def alone(self) -> bool:
        """Whether it is the only one, and need not wait for another to ask with it."""

    def expect(
        self,
        engine: Engine,
        bound: Bound,
        about: Bound | None = None,
        collect: Collect = SUMS,
        shares: Sharing = soft,
    ) -> Expectation:
        """Run one E-step over all rows."""

    def parts(self, engine: Engine) -> Iterator[Engine]:
        """Go through the rows held here, one engine after another."""

    def gathered(self, found: T) -> list[T]:
        """Return what every holder of rows has found, in their order."""

    def watched(self, tick: Callable[[int], Any]) -> tuple[Self, Callable[[int], Any] | None]:
        """Tell `tick` of what is read; and return it where steps are what is counted."""


@frozen
class AtHand:
    """All rows are those of the engine."""

    times: float = 1.0
    whole: bool = True
    holder: int = 0
    alone: bool = True
    samples: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def expect(
        self,
        engine: Engine,
        bound: Bound,
        about: Bound | None = None,
        collect: Collect = SUMS,
        shares: Sharing = soft,
    ) -> Expectation:
        """Run one E-step."""
        return engine.expect(bound, about, collect, shares(engine))

    def parts(self, engine: Engine) -> Iterator[Engine]:
        """Return the engine."""
        yield engine

    def gathered(self, found: T) -> list[T]:
        """Return what was found here."""
        return [found]

    def watched(self, tick: Callable[[int], Any]) -> tuple[AtHand, Callable[[int], Any]]:
        """Count steps."""
        return self, tick


AT_HAND = AtHand()
