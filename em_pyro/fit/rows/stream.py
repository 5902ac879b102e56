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
from ...e_step.rebind import Centres, OtherCovariates, rebound, widened
from ...e_step.shares import SUMS, Collect
from ...errors import DataError, EMError, PlanError
from ...m_step.plan import Plan
from ...m_step.regression.steps import Steps
from ...program.data.check import check_data
from ...program.site import Site
from ...reading.bound import Bound
from ...records.frozen import frozen
from .held import Remembered, Sharing, expanded, soft
from .seals import Call, Source, changed, fewer

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
            more = part.expect(bound, about, collect, shares(part))
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


def read_on(engine: Engine, k: int, call: Call) -> tuple[Engine, Engine]:
    """Return the engine of batch `k` when it is first read, around centres of its own, and that of the plan.

    Where the batch shows covariates that no batch before did, the latter has these too.

    Raises:
        DataError: it has no rows, or they are of another kind.
        PlanError: an argument or a prior depends on which rows are at hand.
    """
    try:
        part, engine = _covered(engine, call)
    except EMError as error:
        raise _at(k, _wrong(engine, call) or error) from error
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"Batch {k}: expected arguments like those of the first batch, got some on which the model raises "
            f"{type(error).__name__}: {error}. Pass rows of the same kind in every batch."
        ) from error
    here, there = engine.program.plates, part.program.plates
    _check_arguments(engine, part, k)
    for plate, size in here.items():
        if plate != engine.plate and there[plate] != size:
            raise DataError(
                f'Batch {k}: expected {size} rows in plate "{plate}", as in the first batch, got {there[plate]}. Rows '
                f'of plate "{engine.plate}" alone may be more or fewer.'
            )
    for name, site in part.recognition.runs[0].items():
        first = engine.recognition.runs[0][name]
        shapes = [_without_rows(one, engine.plate) for one in (first, site)]
        if site.role == "observed" and shapes[0] != shapes[1]:
            raise DataError(
                f'Batch {k}: site "{name}": expected values of shape {tuple(first.value.shape)} but for the rows of '
                f'plate "{engine.plate}", as in the first batch, got {tuple(site.value.shape)}. Pass rows of the same '
                f"kind in every batch."
            )
    return part, engine


def _covered(engine: Engine, call: Call) -> tuple[Engine, Engine]:
    """Return the engine of a batch, and that of the plan with all covariates of the batch.

    Raises:
        PlanError: there is none that serves for both.
    """
    try:
        return rebound(engine, *call, {}), engine
    except OtherCovariates as other:
        engine = widened(engine, other.found)
    return rebound(engine, *call, {}), engine


def _wrong(engine: Engine, call: Call) -> EMError | None:
    """Say what is wrong with the data themselves, over which more than one thing may stumble; None if nothing is."""
    values = engine.recognition.values
    try:
        there, run = engine.program.run_on(*call, values)
        check_data(run, values, there.plates, there.states)
    except DataError as error:
        return error
    except (EMError, RuntimeError, ValueError, TypeError, LookupError, AttributeError):
        return None
    return None


def _check_arguments(engine: Engine, part: Engine, k: int) -> None:
    """Refuse arguments of another shape than in the first batch, but for the rows.

    Raises:
        DataError: naming the argument.
    """
    plate = engine.plate or ""
    rows = engine.program.plates.get(plate), part.program.plates.get(plate)
    (args, there), named = (engine.program.args, part.program.args), part.program.kwargs
    pairs: dict[int | str, tuple[Any, Any]] = {
        at: (one, there[at] if at < len(there) else None) for at, one in enumerate(args)
    }
    pairs |= {name: (one, named.get(name)) for name, one in engine.program.kwargs.items()}
    for name, pair in pairs.items():
        first, other = (tuple(getattr(one, "shape", ())) for one in pair)
        alike = len(first) == len(other) and all(n == m or (n, m) == rows for n, m in zip(first, other, strict=True))
        if not alike:
            raise DataError(
                f"Batch {k}: expected argument {name!r} of shape {first} but for the rows of plate "
                f'"{plate}", as in the first batch, got {other}. Pass rows of the same kind in every batch.'
            )


def _without_rows(site: Site, plate: str | None) -> list[int]:
    """The shape of a site's value but for one plate."""
    event = site.fn.event_dim  # type: ignore[attr-defined]
    shape = list(site.value.shape)
    return [n for i, n in enumerate(shape) if site.dims.get(i - len(shape) + event) != plate]


def _at(k: int, error: EMError) -> EMError:
    """Say of an error in which batch it was met."""
    kind = DataError if not isinstance(error, PlanError) else PlanError
    return kind(f"Batch {k}: {error}")


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
