"""Means and whole covariance matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

import torch
from torch import Tensor

from ...families.charts import CHARTS, Chart
from ...program.named import Params
from ...reading.predictor import Affine, Piece, adjoint, gram
from ..pooling import COLLAPSED, TINY, Statistics, added
from .unknowns import Unknowns


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
    affine: Affine | None = field(default=None, repr=False)  # locations affine in their parameters
    shape: tuple[int, ...] = ()  # cells + (D,)


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
        sums = {use.term: self._sums(use, statistics[use.term], lead) for use in self.uses}
        if any(use.affine is not None for use in self.uses):
            new |= self._regression(sums, new, lead) if self.locations else {}
        else:
            for name in self.locations:
                new[name] = self._mean(name, sums, new, lead)
        for name, chart in self.scales:
            new[name] = self._covariance(name, chart, sums, new, lead)
        return {name: new[name] for name in (*self.locations, *(n for n, _ in self.scales))}

    def _sums(self, use: MatrixUse, parts: tuple[Tensor, ...], lead: int) -> tuple[Tensor, ...]:
        """Weight, sum and products of every flat cell, and what its values were less by.

        Shapes (cells,), (cells, D), (cells, D, D) and (cells, D).
        """
        n, first, second, *centre = parts
        cells, dim = n.shape[lead:].numel(), first.shape[-1]
        rows, flat = (*n.shape[:lead], cells), second.reshape((*n.shape[:lead], cells, -1))
        shift = centre[0].reshape((*rows, dim)) if centre else use.shift
        return n.reshape(rows), first.reshape((*rows, dim)), flat[..., square(dim, flat.device)], shift

    def _mean(self, name: str, sums: Mapping[str, tuple[Tensor, ...]], params: Params, lead: int) -> Tensor:
        old = params[name].double()
        dim = old.shape[-1]
        rows = old.reshape((*old.shape[:lead], -1, dim))
        weighted = self.shared or name in self.pseudo
        firsts, weights = list[Tensor](), list[Tensor]()
        for use in self.uses:
            if use.rows is None or use.rows.parameter != name:
                continue
            n, first, _, shift = sums[use.term]
            each = n.unsqueeze(-1)
            first = torch.addcmul(first, each, shift)
            if weighted:
                precision = self._precision(use, params, lead)
                first = (precision @ first.unsqueeze(-1)).squeeze(-1)
                each = n[..., None, None] * precision
            firsts.append(use.rows.pool(first, lead))
            weights.append(use.rows.pool(each, lead))
        total, weight = added(firsts), added(weights)
        if not weighted:
            return torch.where(weight > 0, total / weight, rows).reshape(old.shape)
        if name in self.pseudo:
            total = total + self.pseudo[name][0].reshape(-1, dim)
            weight = weight + torch.diag_embed(self.pseudo[name][1].reshape(-1, dim))
        empty = weight.diagonal(dim1=-2, dim2=-1).amin(-1) <= 0
        weight = torch.where(empty[..., None, None], identity(dim, rows.device), weight)
        solved = torch.linalg.solve(weight, total.unsqueeze(-1)).squeeze(-1)
        return torch.where(empty.unsqueeze(-1), rows, solved).reshape(old.shape)

    def _regression(self, sums: Mapping[str, tuple[Tensor, ...]], params: Params, lead: int) -> dict[str, Tensor]:
        """Generalised least squares over all location entries of the block together."""
        unknowns = Unknowns(self.locations, params, lead)
        matrix, right = unknowns.equations()
        for use in self.uses:
            n, first, _, shift = sums[use.term]
            precision = self._precision(use, params, lead)
            rest = first + n.unsqueeze(-1) * (shift - self._location_of(use, unknowns.at_zero, lead))
            design = self._design(use, unknowns)
            dims = design[0].offset.shape
            pull = (precision @ rest.unsqueeze(-1)).squeeze(-1)
            weight = n[..., None, None] * precision
            for i, one in enumerate(design):
                right = right + adjoint(one, pull[..., i].reshape(-1, *dims), unknowns.count)
                for j, other in enumerate(design[i:], i):
                    block = gram(one, other, weight[..., i, j].reshape(-1, *dims), unknowns.count)
                    matrix = matrix + (block if i == j else block + block.mT)
        return unknowns.solve(matrix, right, self.pseudo)

    def _design(self, use: MatrixUse, unknowns: Unknowns) -> list[Affine]:
        """The design of every coordinate over the entries that the block solves for."""
        dim = use.shape[-1]
        if use.affine is not None:
            return unknowns.design(use.affine, use.shape).by_row
        index = torch.full((len(use.shift), dim), -1)
        if use.rows is not None and use.rows.parameter in unknowns.start:
            index = unknowns.start[use.rows.parameter] + use.rows.which.unsqueeze(-1) * dim + torch.arange(dim)
        piece = Piece(index.unsqueeze(-1), torch.ones((1, 1, 1), dtype=torch.float64))
        return Affine((), torch.zeros(index.shape, dtype=torch.float64), (piece,), CHARTS[0]).by_row

    def _location_of(self, use: MatrixUse, params: Params, lead: int) -> Tensor:
        """Location of every flat cell."""
        if use.affine is not None:
            found = use.affine.predictor(params, lead)
            found = found.expand((*found.shape[:lead], *use.shape))
            return found.reshape((*found.shape[:lead], -1, use.shape[-1]))
        if use.rows is not None:
            loc = params[use.rows.parameter].double()
            return use.rows.spread(loc.reshape((*loc.shape[:lead], -1, loc.shape[-1])), lead)
        assert use.loc is not None
        return use.loc

    def _precision(self, use: MatrixUse, params: Params, lead: int) -> Tensor:
        """Inverse covariance of every flat cell."""
        if use.matrices is None:
            assert use.tril is not None
            return torch.cholesky_inverse(use.tril)
        value = self.all_scales[use.matrices.parameter].forward(params[use.matrices.parameter].double())
        inverse = torch.cholesky_inverse(value.reshape((*value.shape[:lead], -1, *value.shape[-2:])))
        return use.matrices.spread(inverse, lead)

    def _covariance(
        self, name: str, chart: Chart, sums: Mapping[str, tuple[Tensor, ...]], params: Params, lead: int
    ) -> Tensor:
        """Scatter around the current means, over the weight.

        `sum w (x - m)(x - m)'` is `second - m v' - v m'` with `v = first - n m / 2`.
        """
        old = params[name].double()
        dim = old.shape[-1]
        scatters, weights = list[Tensor](), list[Tensor]()
        for use in self.uses:
            if use.matrices is None or use.matrices.parameter != name:
                continue
            n, first, second, shift = sums[use.term]
            m = self._location_of(use, params, lead) - shift
            cross = m.unsqueeze(-1) * torch.addcmul(first, n.unsqueeze(-1), m, value=-0.5).unsqueeze(-2)
            scatters.append(use.matrices.pool(second - cross - cross.mT, lead))
            weights.append(use.matrices.pool(n, lead))
        scatter, rows = added(scatters), _whole(added(weights))
        covariance = scatter / rows
        tril, bad = torch.linalg.cholesky_ex(covariance)
        # On a line, or on a point, there is no factor; nearly on it there is one, which the loop names a collapse. Both
        # are computed, because to look which is needed would be a synchronisation.
        little = covariance.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).mul_(COLLAPSED).clamp_(min=TINY)
        unit = identity(dim, covariance.device)
        raised, worse = torch.linalg.cholesky_ex(torch.addcmul(covariance, little.unsqueeze(-1), unit))
        solved = chart.inverse(torch.where(_whole(bad) == 0, tril, raised))
        found = (rows > 0) & (_whole(worse) == 0)
        return torch.where(found, solved, old.reshape(solved.shape)).reshape(old.shape)


def _whole(each: Tensor) -> Tensor:
    """A number of every matrix, to be broadcast over it."""
    return each.view((*each.shape, 1, 1))


@cache
def square(dim: int, device: torch.device) -> Tensor:
    """Where each entry of a symmetric matrix stands among its upper triangle, row by row: shape (D, D)."""
    i, j = torch.triu_indices(dim, dim, device=device)
    place = torch.empty((dim, dim), dtype=torch.long, device=device)
    place[i, j] = place[j, i] = torch.arange(len(i), device=device)
    return place


@cache
def identity(dim: int, device: torch.device) -> Tensor:
    """The identity matrix."""
    return torch.eye(dim, dtype=torch.float64, device=device)
