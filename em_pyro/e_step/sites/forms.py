"""In which form a site's factor is computed: a row of the table `FORMS` each.

Every form leads from arguments to log-densities and from posterior weights to statistics of one kind. Sites of a form
with `together` may share one matrix product with others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..chunks import LEAST, WHOLE, Chunk
from .groups import groups_of
from .lookup import sparse_of, table_of
from .natural import Natural
from .product import InnerProduct
from .site_factor import Form, SiteFactor

BLOCK = 1 << 17  # numbers of all cells that are taken together: a share of the second-level cache
SHARE = 1.5  # numbers by features for each without them from which these are left out: all that is counted is not alike
ADDED = 32  # multiplications and additions for each number that is moved


@dataclass(frozen=True)
class Indicator(InnerProduct):
    """The features are the identity: a product with a latent's own support is a copy, and none is made."""

    together: bool = False

    def log_density(self, factor: SiteFactor, natural: Natural, features: Any, chunk: Chunk) -> Tensor:
        """The natural parameters themselves."""
        return natural.eta

    def weighted(
        self, factor: SiteFactor, weights: Tensor, natural: Natural | None, features: Any, chunk: Chunk
    ) -> Tensor:
        """The weights themselves."""
        return weights


def indicator_of(factor: SiteFactor) -> Indicator | None:
    """Return a latent of one dimension whose features are the identity."""
    layout = factor.layout
    if factor.role != "latent" or layout.batch or layout.cells or len(layout.columns) != 1:
        return None
    features = factor.data.features(WHOLE)
    square = features.shape[0] == features.shape[1]
    return Indicator() if square and torch.equal(features, torch.eye(len(features)).to(features)) else None


class Values(NamedTuple):
    """Values of some rows as they stand, for products of each with itself.

    Attributes:
        values: less the shift, (D, columns).
        weight: of the rows, (columns,).
        features: makes all features, (F, columns), once: where so many cells share them that this pays.
        room: where to write numbers of all cells.
    """

    values: Tensor
    weight: Tensor | None
    features: Callable[[], Tensor]
    room: Callable[[tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class Quadratic(InnerProduct):
    """Statistics `(1, x, x_i x_j)` of wide values and few cells: no feature `x_i x_j` is written down.

    With `H` the triangle of the natural parameters of the products, and the rows as columns of a matrix `X`, the
    log-densities of a cell are `1' (X * (H X + h)) + c`, and its statistics `(X * w) X'`: two matrix products of full
    width. They are twice the work of those with features, which are `D (D + 3) / 2 + 1` numbers a row that must be
    made and read again in every step.
    """

    together: bool = False

    def features(self, factor: SiteFactor, chunk: Chunk) -> Values:
        """The values of a chunk, and how to make the features."""
        data, key = factor.data, chunk if chunk.plate in factor.data.plates else WHOLE
        values, weight = data.columns(key, centred=True)

        @cache
        def features() -> Tensor:
            width, columns = data.width, values.shape[-1]
            return data.features(key, lambda: data.room("features", (width, columns)))

        weight = None if weight is None else weight.flatten()
        return Values(values.flatten(1), weight, features, partial(data.room, "products"))

    def row(self, factor: SiteFactor) -> int:
        """The values; what the cells hold of them is taken in blocks."""
        return len(_shift(factor))

    def beside(self, features: Sequence[Values]) -> tuple[Values, int]:
        """Columns beside columns."""
        values = torch.cat([rows.values for rows in features], -1)
        weights = [rows.weight for rows in features]
        known = [torch.ones_like(rows.values[0]) if rows.weight is None else rows.weight for rows in features]
        weight = None if all(part is None for part in weights) else torch.cat(known)
        made = cache(lambda: torch.cat([rows.features() for rows in features], -1))
        return Values(values, weight, made, features[0].room), _count(len(values)) * values.shape[-1]

    def densities(self, eta: Tensor, features: Values) -> Tensor:
        """Quadratic forms of all cells, block by block of the rows."""
        flat, (values, weight, _, room) = eta.flatten(0, -2), features
        dim, cells = len(values), len(flat)
        if not pays(dim, cells):
            return eta @ features.features()
        triangle = flat.new_zeros((cells, dim * dim)).index_copy_(-1, _upper(dim, eta.device), flat[:, 1 + dim :])
        triangle, linear = triangle.view(-1, dim), flat[:, 1 : 1 + dim].reshape(-1, 1)
        found = flat.new_empty((cells, values.shape[-1]))
        for rows in _blocks(cells * dim, values.shape[-1]):
            x = values[:, rows]
            product = torch.addmm(linear, triangle, x, out=room((cells * dim, x.shape[-1])))
            torch.sum(product.view(cells, dim, -1).mul_(x), 1, out=found[:, rows])
        found += flat[:, :1]
        found = found if weight is None else found.mul_(weight)
        return found.view((*eta.shape[:-1], -1))

    def statistics(self, weights: Tensor, features: Values, width: int) -> Tensor:
        """Weights, weighted values and their products with the values."""
        flat, (values, weight, _, room) = weights.flatten(0, -2), features
        dim, cells = len(values), len(flat)
        if not pays(dim, cells):
            return weights @ features.features().mT
        flat = flat if weight is None else flat * weight
        second = flat.new_zeros((cells * dim, dim))
        for rows in _blocks(cells * dim, values.shape[-1]):
            x = values[:, rows]
            weighted = torch.mul(flat[:, None, rows], x, out=room((cells, *x.shape)))
            second.addmm_(weighted.view(cells * dim, -1), x.mT)
        upper = second.view(cells, -1).index_select(-1, _upper(dim, values.device))
        return torch.cat((flat.sum(-1, keepdim=True), flat @ values.mT, upper), -1).view((*weights.shape[:-1], width))


def pays(dim: int, cells: int) -> bool:
    """Tell whether products of values with themselves cost less than features of them: numbers that are moved, a row.

    A feature is written, and read by both products. Without them `D` numbers a cell are written, multiplied and summed,
    and written and read again; and of the `D^2` products in each cell there is the other half to add, twice.
    """
    return SHARE * cells * (5 * dim + dim * dim / ADDED) < 3 * _count(dim)


def _count(dim: int) -> int:
    """How many features a row has."""
    return 1 + dim * (dim + 3) // 2


def quadratic_of(factor: SiteFactor) -> Quadratic | None:
    """Return a site with quadratic statistics of wide values: its features are too many to be kept, or worth making."""
    data, layout, cells = factor.data, factor.layout, prod(factor.cell_shape)
    if not factor.family.quadratic or not factor.moves or layout.batch or data.folded or data.event_shape:
        return None
    return None if data.kept() or not pays(len(_shift(factor)), cells) else Quadratic()


def _shift(factor: SiteFactor) -> Tensor:
    """The shift of the data, of the shape of a value."""
    assert factor.data.shift is not None
    return factor.data.shift


def _blocks(entries: int, columns: int) -> Iterator[slice]:
    """Columns in blocks, so few that what all cells hold of them stays in cache."""
    size = max(LEAST, BLOCK // entries)
    return (slice(start, start + size) for start in range(0, columns, size))


@cache
def _upper(dim: int, device: torch.device) -> Tensor:
    """Places of the upper triangle in a flattened matrix."""
    i, j = torch.triu_indices(dim, dim, device=device)
    return i * dim + j


FORMS: tuple[Callable[[SiteFactor], Form | None], ...] = (
    indicator_of,
    groups_of,
    table_of,
    sparse_of,
    quadratic_of,
)
"""Forms of a factor of its own, the first that takes it; `InnerProduct` is for all.

`rows.by_row`, for families without finite statistics, is asked for by name.
"""


def form_of(factor: SiteFactor) -> Form:
    """Return the form of a recognised site."""
    return next((form for take in FORMS if (form := take(factor)) is not None), factor.form)
