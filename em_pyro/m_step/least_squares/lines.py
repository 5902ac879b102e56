"""Normal sites whose locations are lines: sums of products of their covariates lead to the coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.sites.site_factor import SiteFactor
from ...e_step.sums import Sums
from ...program.named import Batch
from ...reading.predictor import Affine
from ...records.frozen import frozen
from ..pooling import flat
from .arguments import Predictor, selection_of
from .matrix import MatrixSite, matrices
from .scalar import Moments, ScalarSite


@frozen
class Coefficients(Predictor):
    """The coefficients of every cell, one predictor for each covariate.

    Attributes:
        affine: which entries meet in a cell, whatever covariate they multiply.
        each: with a dimension for the covariates.
    """

    each: Affine = field(kw_only=True)

    def at(self, batch: Batch) -> Tensor:
        """Bind every cell: (S, cells, J)."""
        found = self.each.predictor(batch)
        return found.expand((len(found), *self.shape, *self.unit)).reshape((len(found), -1, *self.unit))

    def designs(self, first: Mapping[str, int]) -> list[Affine]:
        """One, of all coefficients together."""
        at = self._unknowns(first)
        return [replace(self.each.moved(at), offset=self.each.offset.new_zeros(()).expand((*self.shape, *self.unit)))]

    def met(self, first: Mapping[str, int]) -> list[Affine]:
        """All entries of a cell together."""
        return [self.affine.moved(self._unknowns(first))]

    def _unknowns(self, first: Mapping[str, int]) -> Tensor:
        """The unknown that every entry is, -1 for none."""
        return torch.tensor([first[n] + i if n in first else -1 for n, i in self.each.entries])


@frozen
class LineSite(ScalarSite):
    """One Normal site whose locations are `x' b`, by the sums `(n, G, b, C) = sum w (1, x x', x r, r^2)`."""

    loc: Coefficients

    @classmethod
    def of(cls, engine: Engine, factor: SiteFactor) -> LineSite:
        """Read the arguments of a site."""
        affine = factor.roles["loc"].affine
        assert affine is not None
        met = affine.changed(lambda part, slots: part.flatten(-2) if slots else part[..., 0])
        shape = (*factor.cell_shape, *factor.event_shape)
        loc = Coefficients(met, shape, affine.offset.shape[-1:], each=affine)
        return cls(factor.name, loc, selection_of(engine, factor, "scale"))

    def moments(self, sums: Sums) -> Moments:
        """Lay the statistics out over flat cells."""
        n, gram, first, second = sums.parts
        J = first.shape[-1]
        vector = (len(first), -1, J)
        around = None if sums.around is None else sums.around.reshape(vector)
        return Moments(flat(n), first.reshape(vector), flat(second), around, gram.reshape((*vector, J)))

    def pulled(self, moments: Moments, rest: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Precision times what of the products is not in `rest`, (S, cells, J), and times theirs, (S, cells, J, J)."""
        tau, gram = self.scale.at(batch).unsqueeze(-1) ** -2, moments.gram
        assert gram is not None
        by = -rest if moments.around is None else moments.around - rest
        return tau * (moments.first + _times(gram, by)), tau.unsqueeze(-1) * gram

    def scatter(self, moments: Moments, batch: Batch) -> Tensor:
        """Squared residuals of the current locations, in units of the known factors of the scale: (S, cells)."""
        m = self.loc.at(batch) if moments.around is None else self.loc.at(batch) - moments.around
        assert moments.gram is not None
        found = moments.second - (m * (2 * moments.first - _times(moments.gram, m))).sum(-1)
        return found if self.scale.coefficient is None else found / self.scale.coefficient**2


@frozen
class MatrixLineSite(MatrixSite):
    """One MultivariateNormal site whose coordinates are lines: all their coefficients side by side, (S, cells, D J)."""

    loc: Coefficients

    @classmethod
    def of(cls, engine: Engine, factor: SiteFactor) -> MatrixLineSite:
        """Read the arguments of a site."""
        affine = factor.roles["loc"].affine
        assert affine is not None
        dim = affine.offset.shape[-2]
        each = affine.changed(lambda part, slots: part.flatten(-2 - slots, -1 - slots))
        met = each.changed(lambda part, slots: part.flatten(-2) if slots else part[..., 0])
        loc = Coefficients(met, factor.cell_shape, each.offset.shape[-1:], each=each)
        return cls(factor.name, loc, matrices(engine, factor, dim))

    def moments(self, sums: Sums) -> Moments:
        """Lay the statistics out over flat cells, coefficients side by side."""
        n, gram, first, second = sums.parts
        starts, dim, width = len(n), second.shape[-1], gram.shape[-1] * gram.shape[-2]
        around = None if sums.around is None else sums.around.reshape((len(sums.around), -1, width))
        gram = gram.reshape((starts, -1, width, width))
        first, second = first.reshape((starts, -1, width, dim)), second.reshape((starts, -1, dim, dim))
        return Moments(n.reshape((starts, -1)), first, second, around, gram)

    def pulled(self, moments: Moments, rest: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Precision times what of the products is not in `rest`, (S, cells, D J), and times theirs, a matrix."""
        precision, gram = self.scale.at(batch, torch.cholesky_inverse), moments.gram
        assert gram is not None
        size = gram.shape[-1] // precision.shape[-1]
        weight = precision.repeat_interleave(size, -1).repeat_interleave(size, -2) * gram
        own = precision.repeat_interleave(size, -2)
        by = -rest if moments.around is None else moments.around - rest
        return (own * moments.first).sum(-1) + _times(weight, by), weight

    def scatter(self, moments: Moments, batch: Batch) -> Tensor:
        """Products of residuals of the current locations, (S, cells, D, D)."""
        m, gram = self.loc.at(batch), moments.gram
        assert gram is not None
        m = m if moments.around is None else m - moments.around
        dim = moments.second.shape[-1]
        m = m.unflatten(-1, (dim, -1))
        before = torch.einsum("...ei,...eif->...ef", m, moments.first.unflatten(-2, (dim, -1)))
        gram = gram.unflatten(-1, (dim, -1)).unflatten(-3, (dim, -1))
        both = torch.einsum("...ei,...eifj,...fj->...ef", m, gram, m)
        return moments.second - before - before.mT + both


def _times(gram: Tensor, vector: Tensor) -> Tensor:
    return (gram @ vector.unsqueeze(-1)).squeeze(-1)
