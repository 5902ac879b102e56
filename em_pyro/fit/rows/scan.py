"""The first pass over a stream: what is agreed on before the fit begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.make import engine_of
from ...e_step.rebind import centred
from ...e_step.sites.site_factor import SiteFactor
from ...errors import DataError, EMError, PlanError
from ...m_step.plan import choose
from ...program.data.check import check_data, nothing_counts, uncounted
from ...program.devices import beside
from ...program.lookups import check_lookups
from ...program.site import Site
from ...reading.reading import Centre
from ..collapse.watched import POOLED, thinned
from ..notes import notes_of
from ..problem import Problem
from .read_on import ShownLater, read_on
from .seals import Call, Source, source_of
from .stream import Stream, check_streamed, outside_of

Prepare = Callable[[tuple[Any, ...], Mapping[str, Any]], Problem]


@dataclass
class Seen:
    """What is known of the batches read so far."""

    seals: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    # Mean and reach, by site and batch: as Python's numbers, for a small tensor that stays from every batch pins the
    # memory around it, and the next batch needs more.
    places: dict[str, list[tuple[Any, float]]] = field(default_factory=dict)
    samples: dict[str, Tensor] = field(default_factory=dict)
    stride: int = 1
    counted: bool = False  # whether any row counts

    def add(self, part: Engine) -> None:
        """Take in one batch."""
        assert part.plate is not None
        self.rows.append(part.program.plates[part.plate])
        self.counted = self.counted or not uncounted(part.recognition.runs[0])
        for factor in _located(part):
            if factor.data.shift is not None:
                place = factor.data.shift.double().tolist(), float(factor.data.reach)
                self.places.setdefault(factor.name, []).append(place)
            more = thinned(factor, self.stride)
            known = self.samples.get(factor.name)
            self.samples[factor.name] = more if known is None else torch.cat([known, more])
        while any(len(values) > 2 * POOLED for values in self.samples.values()):
            self.stride *= 2
            self.samples = {name: values[::2] for name, values in self.samples.items()}

    def check_counted(self, engine: Engine) -> None:
        """Refuse rows none of which counts.

        Raises:
            DataError: naming a site.
        """
        if not self.counted:
            raise nothing_counts(next(n for n, s in engine.recognition.runs[0].items() if s.role == "observed"))

    def centres(self) -> dict[str, Centre]:
        """The mean over all batches, and the largest distance of any value from it, by site."""
        found, rows = dict[str, Centre](), torch.tensor(self.rows, dtype=torch.float64)
        for name, places in self.places.items():
            shifts = torch.tensor([shift for shift, _ in places], dtype=torch.float64)
            mean = torch.tensordot(rows / rows.sum(), shifts, 1)
            away = (shifts - mean).abs().reshape((len(shifts), -1)).amax(-1)
            reach = torch.tensor([reach for _, reach in places], dtype=torch.float64)
            found[name] = Centre(mean, (reach + away).amax())
        return found


def _located(engine: Engine) -> Iterable[SiteFactor]:
    """Observed sites with a location or a scale."""
    every = (factor for unit in engine.units for factor in unit.every)
    return (f for f in every if f.role == "observed" and ("scale" in f.roles or "scale_tril" in f.roles))


def streamed(prepare: Prepare, batches: Any) -> Problem:
    """Plan on the first batch, look at all of them once, and return the problem of all rows.

    Raises:
        ParameterError: the batches can be read only once.
        PlanError: the program is one whose statistics do not add up over batches; naming the site.
        DataError: a batch is empty or of another shape than the first; there is none.
    """
    source = source_of(batches)
    first = next(source.read(), None)
    if first is None:
        raise DataError("fit_stream: expected at least one batch, got none. Pass data.")
    try:
        return _planned_on(first, prepare, source)
    except ShownLater as later:
        return _planned_on(later.call, prepare, source)


def _planned_on(call: Call, prepare: Prepare, source: Source) -> Problem:
    """Plan on one batch, or on the first of more than one row, and look at all."""
    problem = prepare(*call).of_all_rows
    with beside(problem.program.device):
        engine = along(problem.engine, split_plate(sizes_of(problem.engine, source)))
        if engine.program.plates.get(engine.plate or "") == 1 and (larger := _larger(engine, source)):
            return _planned_on(larger, prepare, source)
        check_streamed(engine, choose(engine, problem.options, problem.withdrawn, at_hand=False))
        check_apart(engine, call)
        stream, engine = scanned(source, engine)
        plan = choose(engine, problem.options, problem.withdrawn, at_hand=False)
    rows = f"{len(stream.seals)} batches, read again in every pass"
    plan = replace(plan, notes=notes_of(engine, rows), seconds=problem.plan.seconds)
    return replace(problem, engine=engine, plan=plan, collapse=False, rows=replace(stream, steps=plan.steps))


def _larger(engine: Engine, source: Source) -> Call | None:
    """Return the first batch of more than one row, by which it is seen what differs by row; None if there is none."""
    for call in source.read():
        with suppress(EMError, RuntimeError, ValueError, TypeError, LookupError, AttributeError):  # is said later
            if engine.program.on(*call).plates[str(engine.plate)] > 1:
                return call
    return None


Sizes = Mapping[str, int]
"""Of the plates around all sites."""


def sizes_of(engine: Engine, source: Source | None) -> list[Sizes]:
    """Return how many rows each plate around all sites has here, and in the second batch where that may tell."""
    plates = engine.program.plates
    around = [plate for plate in plates if not outside_of(engine, plate)]
    found: list[Sizes] = [{plate: plates[plate] for plate in around}]
    second = None if source is None or len(around) < 2 else next(islice(source.read(), 1, None), None)
    if second is not None:
        with suppress(EMError):  # is said when all batches are read
            there = engine.program.on(*second).plates
            found.append({plate: there[plate] for plate in around})
    return found


def split_plate(sizes: Sequence[Sizes]) -> str | None:
    """Name the plate whose rows are split: of those around all sites, the one that differs; else the largest."""
    first = sizes[0]
    order = sorted(first, key=lambda plate: -first[plate])
    return next((plate for plate in order if any(one[plate] != first[plate] for one in sizes)), next(iter(order), None))


def along(engine: Engine, plate: str | None) -> Engine:
    """Return the engine whose rows of a plate may be split."""
    if plate is None or plate == engine.plate:
        return engine
    return engine_of(replace(engine.program, view=None), engine.recognition, merge=False, plate=plate)[0]


def check_apart(engine: Engine, call: Call) -> None:
    """Refuse a model whose rows are not treated one by one: it subtracts their mean, say, which is that of a batch.

    The first half of the rows of a batch, where its arguments can be cut, must have the values that it has in it.

    Raises:
        PlanError: naming a site.
    """
    plate = engine.plate
    assert plate is not None
    rows = engine.program.plates[plate]
    half = (rows + 1) // 2
    args, kwargs = call
    cut = [_cut(value, rows, half) for value in (*args, *kwargs.values())]
    named = dict(zip(kwargs, cut[len(args) :], strict=True))
    values = engine.recognition.values
    whole = engine.program.run_on(*call, values)[1]
    latents = {name: _first(whole[name], plate, half) for name in engine.program.integrated if name in whole}
    try:
        there, run = engine.program.run_on(tuple(cut[: len(args)]), named, values, latents)
    except (EMError, RuntimeError, ValueError, TypeError, LookupError, AttributeError):
        return
    if there.plates.get(plate) != half or half == rows:
        return
    for name, site in whole.items():
        short = run[name]
        axis = _axis(short, plate)
        if site.role != "observed" or axis is None or site.value.shape[axis] != rows:
            continue
        if not torch.allclose(
            site.value.narrow(axis, 0, half).double(), short.value.double(), rtol=1e-6, equal_nan=True
        ):
            raise PlanError(
                f'Site "{name}": expected rows that are treated one by one, got values that depend on which other rows '
                f"are at hand (their mean, say). Compute it of all rows beforehand."
            )


def _first(site: Site, plate: str, half: int) -> Tensor:
    """Return the value of a latent in the first rows, where it has rows of the plate."""
    axis = _axis(site, plate)
    return site.value if axis is None else site.value.narrow(axis, 0, min(half, site.value.shape[axis]))


def _axis(site: Site, plate: str) -> int | None:
    """Which dimension of a site's value has the rows of a plate."""
    event = site.fn.event_dim  # type: ignore[attr-defined]
    return next((i for i in range(-site.value.dim(), 0) if site.dims.get(i + event) == plate), None)


def _cut(value: Any, rows: int, half: int) -> Any:
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim and len(value) == rows:
        return value[:half]
    return value


def scanned(source: Source, engine: Engine) -> tuple[Stream, Engine]:
    """Read all batches once: check them, and find what is agreed on."""
    seen, engine = looked(source, engine)
    seen.check_counted(engine)
    centres = seen.centres()
    return stream_of(source, engine, seen, centres, seen.samples), centred(engine, centres)


def looked(source: Source, engine: Engine) -> tuple[Seen, Engine]:
    """Read all batches once, and check them; return the engine with the covariates that any of them shows."""
    seen = Seen()
    for k, (call, seal) in enumerate(source.sealed()):
        seen.seals.append(seal)
        part, wider = read_on(engine, k, call)
        run = part.recognition.runs[0]
        try:
            check_data(run, part.recognition.values, part.program.plates, part.program.states)
            check_lookups(part.program, part.recognition.values)
        except DataError as error:
            raise DataError(f"Batch {k}: {error}") from error
        if wider.program.args is not engine.program.args and k:  # in a form that the batches before must have, too
            return looked(source, wider)
        engine = wider
        seen.add(part)
        del part, run
    if not seen.rows:
        raise DataError(
            "fit_stream: expected the same batches in every pass, got none in the second one. A function must return a "
            "new iterator whenever it is called."
        )
    return seen, engine


def stream_of(
    source: Source, engine: Engine, seen: Seen, centres: Mapping[str, Centre], samples: Mapping[str, Tensor]
) -> Stream:
    """Return the rows of the batches that were seen, around centres that all who hold rows have agreed on."""
    assert engine.plate is not None
    rows = sum(seen.rows)
    return Stream(source, tuple(seen.seals), rows, rows / engine.program.plates[engine.plate], centres, samples)
