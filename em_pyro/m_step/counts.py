"""Probabilities and rates: counts over totals."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..families.charts import Chart
from ..program.named import Params
from .pooling import Selected, Statistics, added, flat, pool, refuse_unbounded


@dataclass(frozen=True)
class Counts:
    """`a log p + b log(1 - p)`: `p = a / (a + b)`, or `a / sum(a)` along the rows of a simplex."""

    parameter: str
    chart: Chart
    simplex: bool
    uses: tuple[tuple[str, Selected, bool], ...] = field(repr=False)  # term, where, has failures
    pseudo: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def counts(self, statistics: Statistics, params: Params, lead: int = 0) -> tuple[Tensor, Tensor | None]:
        """Pooled `(a, b)`, shape of the parameter; no `b` where nothing fails."""
        shape = params[self.parameter].shape
        size = shape[lead:].numel()
        pooled: list[list[Tensor]] = [[], []]
        for term, where, failures in self.uses:
            for k, part in enumerate(statistics[term][: 1 + failures]):
                pooled[k ^ where.complement].append(pool(part, where, size, lead))
        if self.pseudo is not None:
            for parts, pseudo in zip(pooled, self.pseudo, strict=True):
                parts.append(pseudo.reshape(-1))
        sums = [added(parts) if parts else None for parts in pooled]
        if self.pseudo is not None:
            for pooled_sum, pseudo in zip(sums, self.pseudo, strict=True):
                assert pooled_sum is not None
                refuse_unbounded(self.parameter, pooled_sum, pseudo)
        full = (*shape[:lead], size)
        hits, misses = (p if p is None or p.shape == shape else p.expand(full).reshape(shape) for p in sums)
        return torch.zeros(shape, dtype=torch.float64) if hits is None else hits, misses

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Maximise over the probabilities, and map back."""
        a, b = self.counts(statistics, params, lead)
        both = a.sum(-1, keepdim=True) if self.simplex else a if b is None else a + b
        return {self.parameter: torch.where(both > 0, self.chart.inverse(a / both), params[self.parameter])}


@dataclass(frozen=True)
class Rates:
    """`a log(rate) - b rate`: `rate = a / b`."""

    parameter: str
    chart: Chart
    uses: tuple[tuple[str, Selected, Tensor], ...] = field(repr=False)  # term, where, known factor
    pseudo: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Maximise over the rates, and map back."""
        old = params[self.parameter]
        size = old.shape[lead:].numel()
        hits, exposures = list[Tensor](), list[Tensor]()
        for term, where, factor in self.uses:
            events, exposure = flat(statistics[term][0], lead), flat(statistics[term][1], lead)
            hits.append(pool(events, where, size, lead))
            exposures.append(pool(exposure * factor, where, size, lead))
        if self.pseudo is not None:
            hits.append(self.pseudo[0].reshape(-1))
            exposures.append(self.pseudo[1].reshape(-1))
        a, b = added(hits), added(exposures)
        if self.pseudo is not None:
            refuse_unbounded(self.parameter, a, self.pseudo[0])
        solved = self.chart.inverse((a / torch.where(b > 0, b, 1.0)).reshape(old.shape))
        return {self.parameter: torch.where((b > 0).reshape(old.shape), solved, old)}
