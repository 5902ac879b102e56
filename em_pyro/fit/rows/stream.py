"""Rows in batches that are read again in every pass: exact EM in the memory of one batch.

Statistics add, wherever each batch has its centre. So the sums of one pass are those of all rows at once, and what is
done with them is as in memory. The model is planned on the first batch; the others get the same plan (`rebound`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.expectation import Expectation
from ...e_step.rebind import Centres, rebound
from ...e_step.shares import SUMS, Collect
from ...errors import DataError, EMError, PlanError
from ...reading.bound import Bound
from .held import Sharing, soft
from .seals import Call, Source, changed, fewer, seal

T = TypeVar("T")


@dataclass(frozen=True)
class Stream:
    """All rows, in batches.

    Attributes:
        source: what hands the batches out.
        seals: of every batch, as it was first read.
        times: how many times as many rows there are as in the first batch.
        centres: around what values are taken, in all batches.
        samples: some values of every site of a location family, from all batches.
        tick: told after every batch.
    """

    source: Source
    seals: tuple[int, ...] = field(repr=False)
    times: float
    centres: Centres = field(repr=False)
    samples: Mapping[str, Tensor] = field(repr=False)
    tick: Callable[[int], Any] | None = field(default=None, repr=False)
    whole: bool = False
    holder: int = 0

    def expect(
        self,
        engine: Engine,
        bound: Bound,
        about: Bound | None = None,
        collect: Collect = SUMS,
        shares: Sharing = soft,
    ) -> Expectation:
        """Run one E-step: a pass over all batches."""
        found: Expectation | None = None
        for part in self.parts(engine):
            more = part.expect(bound, about, collect, shares(part))
            if found is None:
                check_additive(engine, more)
            found = more if found is None else found + more
            del part  # before the next one is made
        assert found is not None
        return found

    def parts(self, engine: Engine) -> Iterator[Engine]:
        """Read all batches once more.

        Raises:
            DataError: they are not what they were.
        """
        k = -1
        for k, call in enumerate(self.source.read()):
            if k >= len(self.seals):
                raise fewer(k, len(self.seals))
            if seal(call) != self.seals[k]:
                raise changed(k)
            yield rebound(engine, *call, self.centres)
            if self.tick is not None:
                self.tick(1)
        if k + 1 < len(self.seals):
            raise fewer(k + 1, len(self.seals))

    def gathered(self, found: T) -> list[T]:
        """Return what was found here."""
        return [found]

    def watched(self, tick: Callable[[int], Any]) -> tuple[Stream, None]:
        """Tell of batches, not of steps."""
        return replace(self, tick=tick), None


def read_on(engine: Engine, k: int, call: Call) -> Engine:
    """Return the engine of batch `k` when it is first read, around centres of its own.

    Raises:
        DataError: it has no rows, or they are of another kind.
        PlanError: an argument or a prior depends on which rows are at hand.
    """
    try:
        part = rebound(engine, *call, {})
    except EMError as error:
        raise _at(k, error) from error
    here, there = engine.program.plates, part.program.plates
    for plate, size in here.items():
        if plate != engine.plate and there[plate] != size:
            raise DataError(
                f'Batch {k}: expected {size} rows in plate "{plate}", as in the first batch, got {there[plate]}. Rows '
                f'of plate "{engine.plate}" alone may be more or fewer.'
            )
    return part


def _at(k: int, error: EMError) -> EMError:
    """Say of an error in which batch it was met."""
    kind = DataError if not isinstance(error, PlanError) else PlanError
    return kind(f"Batch {k}: {error}")


# ---- what cannot be streamed -----------------------------------------------------------------------------------------


def check_streamed(engine: Engine) -> None:
    """Refuse a program of which some statistics do not add up over batches.

    Raises:
        PlanError: naming the site.
    """
    plate, latents = engine.plate, engine.program.latents
    if plate is None:
        raise PlanError("fit_stream: expected a plate whose rows come in batches, got a model without one.")
    for name in engine.program.by_row:
        raise PlanError(
            f'Site "{name}": expected parameters that all rows share, got one with an entry for each row of plate '
            f'"{plate}". {REMEDY}'
        )
    for name, factor in engine.factors.items():
        if plate not in factor.plates:
            raise PlanError(
                f'Site "{name}": expected every site inside plate "{plate}", whose rows come in batches, got one '
                f"outside of it. {REMEDY}"
            )
        outside = [n for n in factor.names if n in latents and plate not in latents[n].plates]
        if outside:
            raise PlanError(
                f'Site "{outside[0]}": expected latents of single rows, got one that rows of plate "{plate}" share. '
                f"{REMEDY}"
            )
    for name in engine.moving:
        if plate in engine.absorbed.get(name, ()) or name in engine.factors and plate in engine.factors[name].names:
            raise PlanError(_kept(name, plate, "it is computed by the model itself"))
    for factor in (f for unit in engine.units for f in unit.factors):
        if factor.kept is not None and factor.parameters:
            raise PlanError(_kept(factor.name, plate, factor.stuck(plate)))


REMEDY = "Use fit, with all rows in memory."


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
