"""Sites that Gaussian latents enter, as the M-step sees them: cells are classes of rows, statistics are expected.

A location is `x' b` with covariates that may be latent, so that sums of products of covariates and residuals suffice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...families import Family
from ...families.charts import CHARTS
from ...families.multivariate_normal import LINES
from ...families.normal import LINEAR
from ...program.named import Named
from ...reading.bank import RoleMap
from ...reading.bound import Bound
from ...reading.predictor import Affine, Piece
from ...reading.reading import Reading
from ..sites.product import InnerProduct
from ..sites.site_data import Layout, SiteData
from ..sites.site_factor import SiteFactor
from ..sums import Sums
from .moments import Products
from .rows import Rows


@dataclass(frozen=True)
class Expected(InnerProduct):
    """Coefficients of covariates: `(n, sum x x', sum x r, sum r r')`.

    Attributes:
        count: covariates.
        size: coordinates with a covariance matrix in common; 0 is a number with a scale of its own.
    """

    together: bool = False
    in_product: ClassVar[bool] = False
    count: int = 0
    size: int = 0

    def events(self, factor: SiteFactor) -> tuple[tuple[int, ...], ...]:
        """What a cell holds of every statistic."""
        J, e = self.count, self.size
        return ((), (e, J, e, J), (e, J, e), (e, e)) if e else ((), (J, J), (J,), ())

    def coefficients(self, factor: SiteFactor, bound: Bound) -> Tensor:
        """Of every cell, (s, cells) + event."""
        affine = factor.roles["loc"].affine
        shape = (*factor.cell_shape, *((self.size, self.count) if self.size else (self.count,)))
        if affine is None or not affine.entries:
            return torch.zeros((1, *shape), dtype=torch.float64)
        return affine.predictor(bound.sources).reshape((bound.starts, *shape))

    def centre(self, factor: SiteFactor, coefficients: Tensor) -> Tensor:
        """Around what statistics are taken, as the family has it."""
        return coefficients

    def sums(self, factor: SiteFactor, parts: Products, at: Tensor) -> Sums:
        """Statistics of the family, around the coefficients `at`."""
        return Sums(factor.name, factor.family, tuple(parts[:4]), at)

    def digits(self, factor: SiteFactor, bound: Bound, near: Bound) -> Tensor | None:
        """Residuals are taken at the coefficients."""
        return None


@dataclass(frozen=True)
class Plain(Expected):
    """Locations that are selected from parameters, or known: the statistics are those of the site's own family."""

    def events(self, factor: SiteFactor) -> tuple[tuple[int, ...], ...]:
        """What a cell holds of every statistic."""
        e = self.size
        return ((), (e,), (e * (e + 1) // 2,)) if e else ((), (), ())

    def centre(self, factor: SiteFactor, coefficients: Tensor) -> Tensor:
        """The location itself."""
        return coefficients.sum(-1)  # of one covariate that is one, or of none

    def sums(self, factor: SiteFactor, parts: Products, at: Tensor) -> Sums:
        """Sums of values less the location."""
        centre = self.centre(factor, at)
        if not self.size:
            return Sums(factor.name, factor.family, (parts.n, parts.total, parts.second), centre)
        i, j = torch.triu_indices(self.size, self.size)
        return Sums(factor.name, factor.family, (parts.n, parts.total, parts.second[..., i, j]), centre)


def factor_of(reading: Reading, sizes: Mapping[str, int], rows: Rows, constants: Sequence[bool]) -> SiteFactor:
    """The site factor of a site that Gaussian latents enter.

    Args:
        reading: of the site, in the program in which the latents are given.
        sizes: of all latents and plates.
        rows: of the site.
        constants: of every covariate whether it is one everywhere.
    """
    cells, cell = len(rows.index), f"{rows.site} (cells)"
    size = rows.layout.sizes[2] if rows.joint else 0
    event = (size,) if size else ()
    plain = rows.count == 0 or (rows.joint and rows.count == 1 and all(constants) and bool((rows.index >= 0).all()))
    family = reading.family if plain else LINES if size else LINEAR
    shape = (cells, *event) if plain else (cells, *event, rows.count)
    nothing = torch.zeros((), dtype=torch.float64)
    affine = _affine(rows, shape, plain=plain) if rows.count else None
    loc = RoleMap((cell,), torch.full((), -1).expand(shape), constant=nothing.expand(shape), affine=affine)
    known = rows.known.expand((cells, *rows.known.shape)) if bool((rows.scale < 0).any()) else None
    scale = RoleMap((cell,), rows.scale, constant=known, rows=size or None)
    form = (Plain if plain else Expected)(count=rows.count, size=size)
    return SiteFactor(
        reading.site.name,
        family,
        "latent",
        frozenset(),
        {"loc": loc, "scale_tril" if size else "scale": scale},
        (cell,),
        (cells,),
        _no_data(reading.family, {**sizes, cell: cells}, cell, event),
        form,
        reading.parameters,
    )


def _affine(rows: Rows, shape: tuple[int, ...], *, plain: bool) -> Affine:
    """Coefficients as entries of parameters, one a covariate; the location itself where that is one.

    What multiplies them is in the statistics, and is one here: for every coordinate if their covariates differ.
    """
    index = rows.index[..., 0] if plain else rows.index
    covariates = [part for parts in (rows.constants, *rows.slopes) for part in parts[:-1] if part is not None]
    common = plain or all(part.shape[2] == 1 for part in covariates)
    size = (1,) * index.dim() if common else (1, *index.shape[1:])
    piece = Piece(index.unsqueeze(-1), torch.ones((*size, 1), dtype=torch.float64))
    return Affine(rows.entries, torch.zeros(shape, dtype=torch.float64), (piece,), CHARTS[0])


def _no_data(family: Family, sizes: Mapping[str, int], cell: str, event: tuple[int, ...]) -> SiteData:
    """Data without a row: the unit has all rows."""
    nothing = torch.zeros((), dtype=torch.float64)
    return SiteData(
        family,
        "latent",
        Layout((), (cell,), (), ()),
        (),
        (),
        Named(nothing.expand(event), ()),
        {},
        Named(nothing, ()),
        None,
        sizes,
    )
