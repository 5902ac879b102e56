"""Rows that lie with several processes, each of which holds its share: one reduction of a flat vector an E-step.

All processes take the same steps from the same start, and hold the same parameters after each. What decides how to go
on is the same on all of them: sums, evidence, starts, the centre and reach of values, their spread, the number of rows.
Free is how each takes its own rows: in chunks, in which form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.expectation import Expectation
from ...e_step.shares import SUMS, Collect
from ...errors import EMError, PlanError, ProcessError
from ...m_step.regression.steps import Steps
from ...program.named import Named
from ...reading.bound import Bound
from ...records.frozen import frozen
from ..path import Lost
from .held import AT_HAND, Remembered, Rows, Sharing, expanded, soft
from .stream import check_additive

T = TypeVar("T")


@frozen
class Team:
    """A process group, and who is asking."""

    group: Any
    rank: int
    size: int

    def gathered(self, found: T) -> list[T]:
        """Return what every process has found, in the order of their ranks."""
        from torch import distributed

        every: list[Any] = [None] * self.size
        self._asked(lambda: distributed.all_gather_object(every, found, group=self.group))
        return every

    def summed(self, vector: Tensor) -> Tensor:
        """Add a vector up over all processes."""
        from torch import distributed

        self._asked(lambda: distributed.all_reduce(vector, group=self.group))
        return vector

    def together(self, work: Callable[[], T]) -> T:
        """Do what may fail in one process: then it fails in all of them.

        Raises:
            EMError: of this process, or of the first one that has any.
        """
        found, error = list[T](), None
        try:
            found.append(work())
        except EMError as raised:
            error = raised
        for rank, message in enumerate(self.gathered(None if error is None else str(error))):
            if message is not None and error is None:
                error = PlanError(f"Process {rank}: {message}")
        if error is not None:
            raise error
        return found[0]

    def _asked(self, ask: Callable[[], object]) -> None:
        """Ask the others.

        Raises:
            Lost: one of them does not answer.
        """
        try:
            ask()
        except RuntimeError as error:
            raise Lost(
                ProcessError(
                    f"Process {self.rank} of {self.size}: expected all processes to answer, got none from some of them "
                    f"({str(error).splitlines()[0]}). One has ended, or hangs. Start all of them again: from the "
                    f"checkpoint, or from the values that em.last.save(path) writes."
                )
            ) from error


@frozen
class Shared:
    """The rows of several processes.

    Attributes:
        team: the processes.
        empty: whether this one has no rows: those of its engine are borrowed, and count nothing.
        times: how many times as many rows there are as the engine holds.
        samples: some values of every site with a scale, from all processes.
        local: how the rows of this process are gone through.
        steps: solvers of what keeps its rows, of which slopes and curvatures are added up.
        reads: whether rows are read in batches, which may fail in one process.
    """

    team: Team
    empty: bool
    times: float
    samples: Mapping[str, Tensor] = field(repr=False)
    local: Rows = AT_HAND
    steps: tuple[Steps, ...] = field(default=(), repr=False)
    reads: bool = False
    whole: bool = False
    alone: bool = False

    @property
    def holder(self) -> int:
        """Which of the processes this one is."""
        return self.team.rank

    def expect(
        self,
        engine: Engine,
        bound: Bound,
        about: Bound | None = None,
        collect: Collect = SUMS,
        shares: Sharing = soft,
    ) -> Expectation:
        """Run one E-step over the rows of all processes."""
        return self.last.expect(self._taken, engine, bound, about, collect, shares)

    def _taken(
        self, engine: Engine, bound: Bound, about: Bound | None, collect: Collect, shares: Sharing
    ) -> Expectation:
        """Run the E-step here, and add up what all processes have found."""

        def own() -> Expectation:
            here = expanded(self.steps, self.local.expect(engine, bound, about, collect, shares), bound)
            check_additive(engine, here)
            return here

        here = self.team.together(own) if self.reads else own()
        return _reduced(self.team, here, by=0.0 if self.empty else 1.0)

    @cached_property
    def last(self) -> Remembered:
        """The last E-steps."""
        return Remembered()

    def parts(self, engine: Engine) -> Iterator[Engine]:
        """Go through the rows of this process; what cannot be read is said when all are asked for what they found."""
        try:
            if not self.empty:
                yield from self.local.parts(engine)
        except EMError as error:
            if not self.reads:
                raise
            self.unread.append(error)

    def gathered(self, found: T) -> list[T]:
        """Return what every process has found.

        Raises:
            EMError: one of them could not read its rows.
        """
        if not self.reads:
            return self.team.gathered(found)

        def read() -> T:
            if self.unread:
                raise self.unread.pop()
            return found

        return self.team.gathered(self.team.together(read))

    @cached_property
    def unread(self) -> list[EMError]:
        """Why rows of this process could not be read, until the others are told."""
        return []

    def watched(self, tick: Callable[[int], Any]) -> tuple[Shared, Callable[[int], Any] | None]:
        """Count what is counted of the rows of this process."""
        local, told = self.local.watched(tick)
        return replace(self, local=local), told


def _reduced(team: Team, here: Expectation, by: float) -> Expectation:
    """Add an expectation up over all processes: evidence, statistics and weights as one flat vector.

    Where statistics are taken around is added up as well, and must be what it is here on all of them.

    Raises:
        PlanError: it is not.
    """
    names, replayed = sorted(here.sums), sorted(here.weights)
    parts = [here.log_evidence, *(part for n in names for part in here.sums[n].parts)]
    parts += [here.weights[n].tensor for n in replayed]
    around = [a.double() for n in names if (a := here.sums[n].around) is not None]
    counted = torch.cat([part.double().reshape(-1) for part in parts])
    counted = counted if by else torch.zeros_like(counted)
    vector = team.summed(torch.cat([counted, *(part.reshape(-1) for part in around)]))
    found = iter(vector[: len(counted)].split([part.numel() for part in parts]))
    made = iter(total.reshape(part.shape) for total, part in zip(found, parts, strict=True))
    evidence = next(made)
    sums = {n: replace(here.sums[n], parts=tuple(next(made) for _ in here.sums[n].parts)) for n in names}
    weights = {n: Named(next(made), here.weights[n].names) for n in replayed}
    if around:
        mine = torch.cat([part.reshape(-1) for part in around])
        off = (vector[len(counted) :] / team.size - mine).abs()
        if bool((off > 1e-9 * (1 + mine.abs())).any()):
            raise PlanError("process_group: expected statistics around the same locations in all processes.")
    return Expectation(evidence, sums, weights, here.plate)
