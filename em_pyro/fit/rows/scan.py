"""The first pass over a stream: what is agreed on before the fit begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.rebind import centred
from ...e_step.sites.site_factor import SiteFactor
from ...errors import DataError
from ...m_step.plan import choose
from ...program.data.check import check_data
from ...program.devices import beside
from ...reading.reading import Centre
from ..notes import notes_of
from ..problem import Problem
from ..scales import POOLED, thinned
from .seals import Source, seal, source_of
from .stream import Stream, check_additive, check_streamed, read_on

Prepare = Callable[[tuple[Any, ...], Mapping[str, Any]], Problem]


@dataclass
class Seen:
    """What is known of the batches read so far."""

    seals: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    places: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)  # mean and reach, by site and batch
    samples: dict[str, Tensor] = field(default_factory=dict)
    stride: int = 1

    def add(self, part: Engine) -> None:
        """Take in one batch."""
        assert part.plate is not None
        self.rows.append(part.program.plates[part.plate])
        for factor in _located(part):
            if factor.data.shift is not None:
                self.places.setdefault(factor.name, []).append((factor.data.shift.double(), factor.data.reach))
            more = thinned(factor, self.stride)
            self.samples[factor.name] = torch.cat([self.samples[factor.name], more]) if self.samples.get(
                factor.name
            ) is not None else more
        while any(len(values) > 2 * POOLED for values in self.samples.values()):
            self.stride *= 2
            self.samples = {name: values[::2] for name, values in self.samples.items()}

    def centres(self) -> dict[str, Centre]:
        """The mean over all batches, and the largest distance of any value from it, by site."""
        found, rows = dict[str, Centre](), torch.tensor(self.rows, dtype=torch.float64)
        for name, places in self.places.items():
            shifts = torch.stack([shift for shift, _ in places])
            mean = torch.tensordot(rows / rows.sum(), shifts, 1)
            away = (shifts - mean).abs().reshape((len(shifts), -1)).amax(-1)
            found[name] = Centre(mean, (torch.stack([reach for _, reach in places]) + away).amax())
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
    problem = prepare(*first).of_all_rows
    check_streamed(problem.engine)
    with beside(problem.program.device):
        stream, engine = _scanned(source, problem.engine)
        values = engine.recognition.values
        check_additive(engine, engine.expect(engine.bind({n: v.double().unsqueeze(0) for n, v in values.items()})))
    plan = choose(engine, problem.options, problem.withdrawn)
    rows = f"{len(stream.seals)} batches, read again in every pass"
    plan = replace(plan, notes=notes_of(engine, rows), seconds=problem.plan.seconds)
    return replace(problem, engine=engine, plan=plan, collapse=False, rows=stream)


def _scanned(source: Source, engine: Engine) -> tuple[Stream, Engine]:
    """Read all batches once: check them, and find what is agreed on."""
    seen = Seen()
    for k, call in enumerate(source.read()):
        seen.seals.append(seal(call))
        part = read_on(engine, k, call)
        run = part.recognition.runs[0]
        try:
            check_data(run, part.recognition.values, part.program.plates, part.program.states)
        except DataError as error:
            raise DataError(f"Batch {k}: {error}") from error
        seen.add(part)
        del part, run
    if not seen.rows:
        raise DataError(
            "fit_stream: expected the same batches in every pass, got none in the second one. A function must return a "
            "new iterator whenever it is called."
        )
    centres = seen.centres()
    times = sum(seen.rows) / seen.rows[0]
    stream = Stream(source, tuple(seen.seals), times, centres, seen.samples)
    return stream, centred(engine, centres)
