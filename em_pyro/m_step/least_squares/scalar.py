"""Sites of a Normal family: every value is a number with a variance of its own."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.sites.site_factor import SiteFactor
from ...e_step.sums import Sums
from ...families.charts import Chart
from ...program.named import Batch
from ...records.frozen import frozen
from ..pooling import Refused, flat
from .arguments import Argument, Predictor, Selection, selection_of


class Moments(NamedTuple):
    """Weight, sum and products of values less `around` in every flat cell.

    Of numbers all have shape (S, cells); of vectors `n` has, `first` and `around` are (S, cells, D), and `second` is
    (S, cells, D, D). Of lines `first` and `around` are (S, cells, J), and `gram` is (S, cells, J, J).
    """

    n: Tensor
    first: Tensor
    second: Tensor
    around: Tensor | None
    gram: Tensor | None = None


@frozen
class ScalarSite:
    """One Normal site of a block."""

    scale_role: ClassVar[str] = "scale"

    name: str
    loc: Argument
    scale: Selection = field(repr=False)

    @classmethod
    def of(cls, engine: Engine, factor: SiteFactor) -> ScalarSite:
        """Read the arguments of a site."""
        loc, scale = factor.roles["loc"], factor.roles["scale"]
        if scale.affine is not None or (loc.affine is not None and loc.affine.coordinates):
            raise Refused("a scale, or the logarithm of a parameter in a location, is affine: no least squares")
        if loc.affine is None:
            return cls(factor.name, selection_of(engine, factor, "loc"), selection_of(engine, factor, "scale"))
        predictor = Predictor(loc.affine, (*factor.cell_shape, *factor.event_shape), ())
        return cls(factor.name, predictor, selection_of(engine, factor, "scale"))

    def moments(self, sums: Sums) -> Moments:
        """Lay the statistics out over flat cells."""
        n, first, second = (flat(part) for part in sums.parts)
        return Moments(n, first, second, None if sums.around is None else flat(sums.around))

    def plain(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Sum of the values, and weight, of every cell: the equations of locations where precisions cancel."""
        n, first, _, around, _ = moments
        return self._multiplied(first if around is None else torch.addcmul(first, n, around), n)

    def weighted(self, moments: Moments, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same times the precision of every cell."""
        total, weight = self.plain(moments)
        tau = self.scale.at(batch) ** -2
        return tau * total, tau * weight

    def pulled(self, moments: Moments, rest: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Precision times what of the values is not in `rest`, (S, cells, 1), and times weight, (S, cells, 1, 1)."""
        n, first, _, around, _ = moments
        tau = self.scale.at(batch) ** -2
        total = first + n * (-rest if around is None else around - rest)
        return (tau * total).unsqueeze(-1), (tau * n)[..., None, None]

    def _multiplied(self, total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        c = self.loc.coefficient
        return (total, weight) if c is None else (c * total, c * c * weight)

    @staticmethod
    def solved(total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Locations by divided equations, and where there is one."""
        some = weight > 0
        return total / torch.where(some, weight, 1.0), some

    def scatter(self, moments: Moments, batch: Batch) -> Tensor:
        """Squares around the current locations, in units of the known factors of the scale: (S, cells)."""
        n, first, second, around, _ = moments
        m = self.loc.at(batch) if around is None else self.loc.at(batch) - around
        found = second - 2 * m * first + m * m * n
        return found if self.scale.coefficient is None else found / self.scale.coefficient**2

    @staticmethod
    def scale_of(scatter: Tensor, n: Tensor, chart: Chart, old: Tensor) -> Tensor:
        """The parameter at the pooled scatter (S, entries) over the pooled weight; without weight it stays."""
        some = n > 0
        root = (scatter / torch.where(some, n, 1.0)).clamp(min=0).sqrt()
        return torch.where(some.reshape(old.shape), chart.inverse(root.reshape(old.shape)), old)
