"""A batch as it is first read: in the plan of another, or with what is wrong with it."""

from __future__ import annotations

from typing import Any

from ...e_step.engine import Engine
from ...e_step.rebind import OtherCovariates, rebound, widened
from ...errors import DataError, EMError, PlanError
from ...program.data.check import check_data
from ...program.site import Site
from .in_common import apart, constants, differing, exposed
from .seals import Call


class ShownLater(PlanError):
    """A batch shows to differ by row what is the same in all rows of the one that was planned on.

    Attributes:
        call: of the batch.
    """

    def __init__(self, error: EMError, call: Call) -> None:
        """Say what the error says."""
        super().__init__(str(error))
        self.call = call


def read_on(engine: Engine, k: int, call: Call) -> tuple[Engine, Engine]:
    """Return the engine of batch `k` when it is first read, around centres of its own, and that of the plan.

    Where the batch shows covariates that no batch before did, the latter has these too.

    Raises:
        DataError: it has no rows, or they are of another kind.
        PlanError: an argument or a prior depends on which rows are at hand.
    """
    try:
        part, engine = _covered(engine, call)
    except OtherCovariates as error:
        raise ShownLater(_at(k, error), call) from error
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
        part = rebound(engine, *call, {})
    except OtherCovariates as other:
        engine = widened(engine, other.found)
        part = rebound(engine, *call, {})
    values = engine.recognition.values
    while names := differing(constants(engine, values), constants(part, values)):
        engine = exposed(engine, names, {})
        part = rebound(engine, *call, {})
    for name in sorted(apart(part) - apart(engine)):  # of latents, too
        raise OtherCovariates(name, part)
    return part, engine


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
