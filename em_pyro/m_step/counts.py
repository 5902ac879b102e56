"""Probabilities and rates: counts over totals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.sums import Sums
from ..families.charts import Chart, domain_of
from ..program.named import Batch
from ..reading.priors import Prior
from ..records.frozen import frozen
from .pooling import Selected, added, flat, pool, refuse_unbounded, select, shaped
from .uses import CONDITIONAL, Block, chart_of, segments_of


@frozen
class Counts:
    """`a log p + b log(1 - p)`: `p = a / (a + b)`, or `a / sum(a)` along the rows of a simplex."""

    how: ClassVar[str] = "closed form"
    separable: ClassVar[bool] = True
    absorbs: ClassVar[bool] = False

    parameter: str
    size: int
    chart: Chart
    simplex: bool
    uses: tuple[tuple[str, Selected, bool], ...] = field(repr=False)  # site, where, has failures
    prior: Prior | None = field(default=None, repr=False)

    @classmethod
    def of(cls, engine: Engine, block: Block) -> Counts:
        """Collect the uses of a probability."""
        (name,) = block.names
        places = []
        for factor, key, role in block.uses[name]:
            unit = factor.family.roles[key].domain == "unit"
            for where in select(role, segments_of(engine.recognition.bank, factor, key), name):
                places.append((factor.name, where, unit))
        chart = chart_of(engine, name, block.uses[name])
        simplex = chart.domains[domain_of(engine.program.parameters[name].constraint)] == "simplex"
        size = engine.program.parameters[name].initial.numel()
        return cls(name, size, chart, simplex, tuple(places), engine.priors.get(name))

    @property
    def swept(self) -> str:
        """Why the maximum is only conditional, or empty."""
        return _meets(self.prior)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The one that is solved for."""
        return (self.parameter,)

    def solve(self, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Tensor]:
        """Maximise over the probabilities, and map back."""
        old = batch[self.parameter]
        pseudo = None if self.prior is None else self.prior.counts(batch)
        a, b = self.pooled(sums, old, pseudo)
        both = a.sum(-1, keepdim=True) if self.simplex else a if b is None else a + b
        return {self.parameter: torch.where(both > 0, self.chart.inverse(a / both), old)}

    def pooled(
        self, sums: Mapping[str, Sums], old: Tensor, pseudo: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return `(a, b)` of every entry, of the shape of `old`; no `b` where nothing fails."""
        pooled: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, where, failures in self.uses:
            parts = sums[name].parts
            pooled[where.complement].append(pool(flat(parts[0]), where, self.size))
            if failures:
                pooled[not where.complement].append(pool(flat(parts[1]), where, self.size))
        for parts_of, of_prior in zip(pooled, pseudo or (), strict=False):
            parts_of.append(of_prior.expand((len(old), self.size)))
            refuse_unbounded(self.parameter, added(parts_of), of_prior, old.shape[1:])
        hits, misses = (shaped(added(parts_of), old) if parts_of else None for parts_of in pooled)
        return torch.zeros_like(old) if hits is None else hits, misses


@frozen
class Rates:
    """`a log(rate) - b rate`: `rate = a / b`."""

    how: ClassVar[str] = "closed form"
    separable: ClassVar[bool] = True
    absorbs: ClassVar[bool] = False

    parameter: str
    size: int
    chart: Chart
    uses: tuple[tuple[str, Selected, Tensor | None], ...] = field(repr=False)  # site, where, known factor
    prior: Prior | None = field(default=None, repr=False)

    @classmethod
    def of(cls, engine: Engine, block: Block) -> Rates:
        """Collect the uses of a rate."""
        (name,) = block.names
        places = []
        for factor, key, role in block.uses[name]:
            coefficient = None if role.coefficient is None else role.coefficient.reshape(-1)
            for where in select(role, segments_of(engine.recognition.bank, factor, key), name):
                places.append((factor.name, where, coefficient))
        size, chart = engine.program.parameters[name].initial.numel(), chart_of(engine, name, block.uses[name])
        return cls(name, size, chart, tuple(places), engine.priors.get(name))

    @property
    def swept(self) -> str:
        """Why the maximum is only conditional, or empty."""
        return _meets(self.prior)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The one that is solved for."""
        return (self.parameter,)

    def solve(self, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Tensor]:
        """Maximise over the rates, and map back."""
        old = batch[self.parameter]
        a, b = self.pooled(sums)
        pseudo = None if self.prior is None else self.prior.counts(batch)
        if pseudo is not None:
            a, b = a + pseudo[0], b + pseudo[1]
            refuse_unbounded(self.parameter, a, pseudo[0], old.shape[1:])
        a, b = shaped(a, old), shaped(b, old)
        solved = self.chart.inverse(a / torch.where(b > 0, b, 1.0))
        return {self.parameter: torch.where(b > 0, solved, old)}

    def pooled(self, sums: Mapping[str, Sums]) -> tuple[Tensor, Tensor]:
        """Return `(a, b)` of every entry, (starts, entries)."""
        hits, exposures = list[Tensor](), list[Tensor]()
        for name, where, coefficient in self.uses:
            events, exposure = (flat(part) for part in sums[name].parts[:2])
            hits.append(pool(events, where, self.size))
            exposures.append(pool(exposure if coefficient is None else exposure * coefficient, where, self.size))
        return added(hits), added(exposures)


def _meets(prior: Prior | None) -> str:
    """Say that a prior changes with other parameters, so that the maximum is conditional; empty if it does not."""
    if prior is None or prior.shapes is None:
        return ""
    return f"its {prior.kind} prior has parameters{CONDITIONAL}"
