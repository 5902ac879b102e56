"""Rows in batches that are read again in every pass: exact EM in the memory of one batch.

Statistics add, wherever each batch has its centre. So the sums of one pass are those of all rows at once, and what is
done with them is as in memory. The model is planned on the first batch; the others get the same plan (`rebound`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.expectation import Expectation
from ...e_step.rebind import Centres, rebound
from ...e_step.shares import SUMS, Collect
from ...errors import PlanError
from ...m_step.plan import Plan
from ...m_step.regression.steps import Steps
from ...reading.bound import Bound
from ...records.frozen import frozen
from .held import Remembered, Sharing, expanded, soft
from .in_common import suited
from .seals import Source, changed, fewer

T = TypeVar("T")


@frozen
class Stream:
    """All rows, in batches.

    Attributes:
        source: what hands the batches out.
        seals: of every batch, as it was first read.
        rows: how many there are, in all batches.
        times: how many times as many rows there are as in the first batch.
        centres: around what values are taken, in all batches.
        samples: some values of every site of a location family, from all batches.
        steps: solvers of what keeps its rows, which are gone when it is solved.
        tick: told after every batch.
    """

    source: Source
    seals: tuple[int, ...] = field(repr=False)
    rows: int
    times: float
    centres: Centres = field(repr=False)
    samples: Mapping[str, Tensor] = field(repr=False)
    steps: tuple[Steps, ...] = field(default=(), repr=False)
    tick: Callable[[int], Any] | None = field(default=None, repr=False)
    whole: bool = False
    holder: int = 0
    alone: bool = True

    def expect(
        self,
        engine: Engine,
        bound: Bound,
        about: Bound | None = None,
        collect: Collect = SUMS,
        shares: Sharing = soft,
    ) -> Expectation:
        """Run one E-step: a pass over all batches."""
        return self.last.expect(self._taken, engine, bound, about, collect, shares)

    def _taken(
        self, engine: Engine, bound: Bound, about: Bound | None, collect: Collect, shares: Sharing
    ) -> Expectation:
        """Go through all batches, and add up what each gives."""
        found: Expectation | None = None
        for part in self.parts(engine):
            own, around = suited(bound, part), None if about is None else suited(about, part)
            more = part.expect(own, around, collect, shares(part))
            more = expanded([step.on(part) for step in self.steps], more, bound)
            if found is None:
                check_additive(engine, more)
            found = more if found is None else found + more
            del part  # before the next one is made
        assert found is not None
        return found

    @cached_property
    def last(self) -> Remembered:
        """The last passes."""
        return Remembered()

    def parts(self, engine: Engine) -> Iterator[Engine]:
        """Read all batches once more.

        Raises:
            DataError: they are not what they were.
        """
        k = -1
        for k, (call, seal) in enumerate(self.source.sealed()):
            if k >= len(self.seals):
                raise fewer(k, len(self.seals))
            if seal != self.seals[k]:
                raise changed(k)
            yield rebound(engine, *call, self.centres)
            if self.tick is not None:
                self.tick(1)
        if k + 1 < len(self.seals):
            raise fewer(k + 1, len(self.seals))

    @property
    def many(self) -> int:
        """How many batches there are."""
        return len(self.seals)

    def gathered(self, found: T) -> list[T]:
        """Return what was found here."""
        return [found]

    def watched(self, tick: Callable[[int], Any]) -> tuple[Stream, None]:
        """Tell of batches, not of steps."""
        return replace(self, tick=tick), None


# ---- what cannot be streamed -----------------------------------------------------------------------------------------


def check_streamed(engine: Engine, plan: Plan) -> None:
    """Refuse a program of which some statistics do not add up over batches, and are not expanded in the plan.

    Raises:
        PlanError: naming the site.
    """
    plate = engine.plate
    if plate is None:
        raise PlanError(f"The model: expected a plate whose rows come in batches, got a model without one. {REMEDY}")
    for name in engine.program.by_row:
        raise PlanError(
            f'Site "{name}": expected parameters that all rows share, got one with an entry for each row of plate '
            f'"{plate}". {REMEDY}'
        )
    if outside := outside_of(engine, plate):
        raise PlanError(
            f'Site "{outside}": expected every site inside plate "{plate}", whose rows come in batches, got one '
            f"outside of it, which is of all rows. {REMEDY}"
        )
    for name in engine.moving:
        if plate in engine.absorbed.get(name, ()) or name in engine.factors and plate in engine.factors[name].names:
            raise PlanError(_kept(name, plate, "it is computed by the model itself"))
    for name in engine.recognition.tabled:
        if any(plate in role.names for role in engine.recognition.readings[name].roles.values()):
            raise PlanError(_kept(name, plate, "its arguments differ by row, and are computed by the model itself"))
    added = {name for step in plan.steps for name in step.sites}
    for factor in (f for unit in engine.units for f in unit.factors):
        if factor.kept is not None and factor.name not in added and factor.parameters:
            raise PlanError(_kept(factor.name, plate, factor.stuck(plate)))


def outside_of(engine: Engine, plate: str) -> str:
    """Name a site, other than a prior, outside of a plate; empty if there is none."""
    run = engine.recognition.runs[0]
    return next((name for name, site in run.items() if site.role != "prior" and plate not in site.plates), "")


REMEDY = "Fit all rows at once: by fit, in one process, without batches=."


def _kept(site: str, plate: str | None, why: str) -> str:
    return (
        f'Site "{site}": expected statistics that add up over rows of plate "{plate}", got weights that are kept row '
        f"by row: {why}. {REMEDY}"
    )


def check_additive(engine: Engine, found: Expectation) -> None:
    """Refuse what has kept its rows.

    Raises:
        PlanError: naming the site.
    """
    for name, part in found.weights.items():
        if engine.plate in part.names:
            raise PlanError(_kept(name, engine.plate, "it is computed by the model itself"))
    for name, sums in found.sums.items():
        if sums.kept is not None:
            raise PlanError(_kept(name, engine.plate, "its arguments differ by row, or its family needs all rows"))
