"""Means and whole covariance matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..charts import Chart
from .select import COLLAPSED, TINY, Params, Statistics


@dataclass(frozen=True)
class Whole:
    """Cells that select whole rows or matrices of one parameter."""

    parameter: str
    which: Tensor = field(repr=False)  # of every cell
    count: int  # in the parameter

    @cached_property
    def everything(self) -> bool:
        """Whether cell `i` selects the `i`-th."""
        return self.count == len(self.which) and bool(
            (self.which == torch.arange(self.count, device=self.which.device)).all()
        )

    def pool(self, values: Tensor, lead: int) -> Tensor:
        """Sum the cells that select the same."""
        if self.everything:
            return values
        shape = (*values.shape[:lead], self.count, *values.shape[lead + 1 :])
        return values.new_zeros(shape).index_add_(lead, self.which, values)

    def spread(self, values: Tensor, lead: int) -> Tensor:
        """What every cell selects."""
        return values if self.everything else values.index_select(lead, self.which)


@dataclass(frozen=True)
class MatrixUse:
    """One MultivariateNormal site of a block."""

    term: str
    shift: Tensor = field(repr=False)
    rows: Whole | None = field(repr=False)  # rows of a mean parameter
    loc: Tensor | None = field(repr=False)  # known locations, flat cells x D
    matrices: Whole | None = field(repr=False)  # matrices of a scale parameter
    tril: Tensor | None = field(repr=False)


@dataclass(frozen=True)
class MatrixBlock:
    """Means, then covariances around the new means."""

    locations: tuple[str, ...]
    scales: tuple[tuple[str, Chart], ...]
    uses: tuple[MatrixUse, ...] = field(repr=False)
    all_scales: Mapping[str, Chart] = field(repr=False)
    shared: bool  # a mean whose cells differ in covariance: precision-weighted
    pseudo: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """One pass: the means given the covariances, then the covariances given the means."""
        new = dict(params)
        for name in self.locations:
            new[name] = self._mean(name, statistics, new, lead)
        for name, chart in self.scales:
            new[name] = self._covariance(name, chart, statistics, new, lead)
        return {name: new[name] for name in (*self.locations, *(n for n, _ in self.scales))}

    def _sums(self, use: MatrixUse, statistics: Statistics, lead: int) -> tuple[Tensor, Tensor, Tensor]:
        n, first, second = statistics[use.term]
        dim = first.shape[-1]
        n, first = n.flatten(lead), first.flatten(lead, -2) if first.dim() > lead + 1 else first.unsqueeze(lead)
        flat = second.flatten(lead, -2) if second.dim() > lead + 1 else second.unsqueeze(lead)
        i, j = torch.triu_indices(dim, dim, device=flat.device)
        full = flat.new_zeros((*flat.shape[:-1], dim, dim))
        full[..., i, j] = flat
        full[..., j, i] = flat
        return n, first, full

    def _mean(self, name: str, statistics: Statistics, params: Params, lead: int) -> Tensor:
        old = params[name].double()
        dim = old.shape[-1]
        rows = old.reshape((*old.shape[:lead], -1, dim))
        weighted = self.shared or name in self.pseudo
        total: Tensor | float = 0.0
        weight: Tensor | float = 0.0
        for use in self.uses:
            if use.rows is None or use.rows.parameter != name:
                continue
            n, first, _ = self._sums(use, statistics, lead)
            first = first + n.unsqueeze(-1) * use.shift
            each = n.unsqueeze(-1)
            if weighted:
                precision = torch.cholesky_inverse(self._tril(use, params, lead))
                first = (precision @ first.unsqueeze(-1)).squeeze(-1)
                each = n[..., None, None] * precision
            total = total + use.rows.pool(first, lead)
            weight = weight + use.rows.pool(each, lead)
        assert isinstance(total, Tensor)
        assert isinstance(weight, Tensor)
        if not weighted:
            return torch.where(weight > 0, total / torch.where(weight > 0, weight, 1.0), rows).reshape(old.shape)
        if name in self.pseudo:
            total = total + self.pseudo[name][0].reshape(-1, dim)
            weight = weight + torch.diag_embed(self.pseudo[name][1].reshape(-1, dim))
        empty = weight.diagonal(dim1=-2, dim2=-1).amin(-1) <= 0
        eye = torch.eye(dim, dtype=torch.float64, device=rows.device)
        solved = torch.linalg.solve(torch.where(empty[..., None, None], eye, weight), total.unsqueeze(-1)).squeeze(-1)
        return torch.where(empty.unsqueeze(-1), rows, solved).reshape(old.shape)

    def _tril(self, use: MatrixUse, params: Params, lead: int) -> Tensor:
        if use.matrices is None:
            assert use.tril is not None
            return use.tril
        value = self.all_scales[use.matrices.parameter].forward(params[use.matrices.parameter].double())
        return use.matrices.spread(value.reshape((*value.shape[:lead], -1, *value.shape[-2:])), lead)

    def _covariance(self, name: str, chart: Chart, statistics: Statistics, params: Params, lead: int) -> Tensor:
        old = params[name].double()
        dim = old.shape[-1]
        scatter: Tensor | float = 0.0
        rows: Tensor | float = 0.0
        for use in self.uses:
            if use.matrices is None or use.matrices.parameter != name:
                continue
            n, first, second = self._sums(use, statistics, lead)
            m = use.loc
            if use.rows is not None:
                loc = params[use.rows.parameter].double()
                m = use.rows.spread(loc.reshape((*loc.shape[:lead], -1, dim)), lead)
            assert m is not None
            m = m - use.shift
            cross = m.unsqueeze(-1) * first.unsqueeze(-2)
            around = second - cross - cross.mT + n[..., None, None] * (m.unsqueeze(-1) * m.unsqueeze(-2))
            scatter = scatter + use.matrices.pool(around, lead)
            rows = rows + use.matrices.pool(n, lead)
        assert isinstance(scatter, Tensor)
        assert isinstance(rows, Tensor)
        covariance = scatter / torch.where(rows > 0, rows, 1.0)[..., None, None]
        tril, bad = torch.linalg.cholesky_ex(covariance)
        keep = (rows <= 0)[..., None, None]
        if bool(((bad != 0) & (rows > 0)).any()):  # on a line, or on a point: the loop names it a collapse
            size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
            eye = torch.eye(dim, dtype=torch.float64, device=covariance.device)
            raised, worse = torch.linalg.cholesky_ex(covariance + (COLLAPSED * size + TINY) * eye)
            tril = torch.where((bad != 0)[..., None, None], raised, tril)
            keep = keep | (worse != 0)[..., None, None]
        solved = chart.inverse(tril)
        return torch.where(keep, old.reshape(solved.shape), solved).reshape(old.shape)
