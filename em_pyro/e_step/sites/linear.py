"""A location that is affine in parameters: the covariates lie by row, their coefficients are what a cell has.

The location `x_n' b_c` differs by row, and yet sums over rows suffice: with residuals `r = y - x' b`,

    log p(y_n | c) = -r^2 / (2 scale_c^2) - log(scale_c)   and   S_c = sum of W_cn (1, x x', x r, r^2).

Residuals are taken at the coefficients of the step, so that no digit cancels however far the values lie from zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import ClassVar, cast

import torch
from torch import Tensor

from ...program.named import Named, align
from ...reading.bank import RoleMap, gather
from ...reading.bound import Bound
from ...reading.predictor import pairs, squared
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from ..second.common import Common
from ..sums import Sums
from .centring import FARTHEST
from .natural import Lines, Natural
from .product import InnerProduct
from .site_factor import SiteFactor


@frozen
class Observations:
    """Covariates and responses of the rows of a chunk, those of columns and folded plates in one dimension.

    Attributes:
        x: covariates, (J, rows).
        y: responses, (events, rows); zero where the value is masked.
        weight: mask and exponent, (events, rows); None is one.
    """

    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    weight: Tensor | None = field(repr=False)


@dataclass(frozen=True)
class Linear(InnerProduct):
    """Products of coefficients and covariates, not of natural parameters and features.

    Attributes:
        covariates: dimensions of the rows as far as they vary, then `(J,)`.
        most: the largest of each in all sites that are one function, `(J,)`.
    """

    covariates: Named = field(kw_only=True, repr=False)
    most: Tensor | None = field(default=None, kw_only=True, repr=False)
    together: bool = False
    in_product: ClassVar[bool] = False

    def lines(self, factor: SiteFactor) -> RoleMap:
        """Those of the covariates."""
        return factor.roles["loc"]

    @property
    def count(self) -> int:
        """Number of covariates."""
        return self.covariates.tensor.shape[-1]

    @property
    def pairs(self) -> int:
        """Number of their products."""
        return self.count * (self.count + 1) // 2

    def events(self, factor: SiteFactor) -> tuple[tuple[int, ...], ...]:
        """What a cell holds of every statistic."""
        return (), (self.count, self.count), (self.count,), ()

    def row(self, factor: SiteFactor) -> int:
        """Covariates, their products and the response, and a residual of every cell, in all rows of folded plates."""
        data = factor.data
        cells = prod(factor.cell_shape) * prod(data.event_shape)
        return (self.pairs + self.count + prod(data.event_shape) + 3 * cells) * prod(data.sizes[n] for n in data.folded)

    # ---- digits ----

    @cached_property
    def reach(self) -> Tensor:
        """The largest of each covariate, (J,)."""
        return self.most if self.most is not None else self.covariates.tensor.abs().reshape((-1, self.count)).amax(0)

    def digits(self, factor: SiteFactor, bound: Bound, near: Bound) -> Tensor | None:
        """They run short where a location may have moved by too many of the new scales."""
        moved = (factor.locations(near) - factor.locations(bound)).abs() @ self.reach
        scale = gather(factor.roles["scale"], near.entries, near.batch).double().expand(moved.shape)
        short = (moved / (FARTHEST * scale)).reshape((len(moved), -1)).amax(-1)
        return torch.stack((short, torch.zeros_like(short)))

    # ---- the rows ----

    def features(self, factor: SiteFactor, chunk: Chunk) -> Observations:
        """Covariates and responses."""
        data = factor.data
        value, _, weight = data.rows(chunk)
        response = data.family.response(value).double()
        names = (*data.layout.columns, *data.folded)
        shape = [chunk.size(n, data.sizes[n]) for n in names]
        x = align(chunk.cut(self.covariates), self.covariates.names, names, 1).movedim(-1, 0)

        def flat(part: Tensor) -> Tensor:
            return part.expand((*shape, *data.event_shape)).reshape((prod(shape), prod(data.event_shape))).mT

        if weight is not None:
            response, weight = torch.where(weight == 0, 0.0, response), flat(weight)
        return Observations(x.expand((self.count, *shape)).reshape((self.count, -1)), flat(response), weight)

    def by_features(self, factor: SiteFactor) -> Common:
        """By residuals at coefficients in common."""
        return Residuals(factor, self)

    def agreed(self, members: Sequence[SiteFactor]) -> list[SiteFactor]:
        """Sites that are one function: its covariates reach as far as those of all."""
        forms = [cast(Linear, factor.form) for factor in members]
        most = torch.stack([form.reach for form in forms]).amax(0)
        pairs = zip(members, forms, strict=True)
        return [replace(factor, form=replace(form, most=most)) for factor, form in pairs]

    def beside(self, features: Sequence[Observations]) -> tuple[Observations, int]:
        """Rows beside rows."""
        x, y = torch.cat([rows.x for rows in features], -1), torch.cat([rows.y for rows in features], -1)
        weights = [rows.weight for rows in features]
        known = [torch.ones_like(rows.y) if rows.weight is None else rows.weight for rows in features]
        weight = None if all(part is None for part in weights) else torch.cat(known, -1)
        return Observations(x, y, weight), x.numel() + y.numel()

    # ---- the two products ----

    def natural(self, factor: SiteFactor, bound: Bound, about: Bound | None) -> Natural:
        """Bind coefficients and scales."""
        wanted = factor.locations(bound if about is None else about)
        starts, inner = bound.starts, (*factor.cell_shape, *factor.event_shape)
        scale = gather(factor.roles["scale"], bound.entries, bound.batch).double().expand((starts, *inner))
        centre = wanted.reshape((starts, -1, self.count))
        eta = centre if about is None else factor.locations(bound).reshape(centre.shape)
        spread = bound.spread(factor)
        if spread is not None:
            spread = spread.expand((*inner, self.count, self.count)).reshape((-1, self.count, self.count))
        return Natural(eta, wanted, lines=Lines(scale.reshape((starts, -1, 1)), centre, spread))

    def log_density(self, factor: SiteFactor, natural: Natural, features: Observations, chunk: Chunk) -> Tensor:
        """Log-densities of all rows in all cells, events and folded plates summed."""
        found, sizes = self.columns(factor, natural, features), factor.laid_out_sizes(chunk)
        return align(found.reshape((len(found), *sizes)), factor.laid_out, factor.names)

    def columns(self, factor: SiteFactor, natural: Natural, features: Observations) -> Tensor:
        """The same of rows of several sites, (starts, cells, columns of all)."""
        assert natural.lines is not None
        scale = natural.lines.scale
        found = _residual(natural.eta, features).div_(scale).square_()
        if natural.lines.spread is not None:  # E (y - x' b)^2 = (y - x' E b)^2 + x' (Var b) x
            found = found.add_(torch.einsum("jn,cjk,kn->cn", features.x, natural.lines.spread, features.x) / scale**2)
        found = found.mul_(-0.5).sub_(scale.log())
        found = found.unflatten(1, (-1, len(features.y)))
        found = found.squeeze(2) if features.weight is None and len(features.y) == 1 else _weighed(found, features)
        folded = prod(factor.data.sizes[n] for n in factor.data.folded)
        return found.unflatten(-1, (-1, folded)).sum(-1) if factor.data.folded else found

    def weighted(
        self, factor: SiteFactor, weights: Tensor, natural: Natural | None, features: Observations, chunk: Chunk
    ) -> Tensor:
        """`sum W (1, x x', x r, r^2)` of every cell and event side by side; of `x x'` what is above the diagonal."""
        weights = align(weights, factor.names, factor.laid_out)
        kept = weights.shape[: 1 + len(factor.cells)]
        flat = weights.reshape((len(weights), prod(kept[1:]), -1))
        return self.totals(factor, flat, natural, features).reshape((*kept, -1))

    def totals(self, factor: SiteFactor, weights: Tensor, natural: Natural | None, features: Observations) -> Tensor:
        """The same of rows of several sites, under weights (starts, cells, columns of all)."""
        x, y = features.x, features.y
        w = weights.unsqueeze(2).unsqueeze(-1)
        w = w.expand((*w.shape[:2], len(y), w.shape[3], y.shape[-1] // w.shape[3])).flatten(3)
        w = (w if features.weight is None else w * features.weight).flatten(1, 2)
        if natural is None or natural.lines is None:
            residual = y.expand((*w.shape[:1], w.shape[1] // len(y), *y.shape)).flatten(1, 2)
        else:
            residual = _residual(natural.lines.centre, features)
        pull = w * residual
        found = w.sum(-1, keepdim=True), w @ pairs(x).mT, pull @ x.mT, (pull * residual).sum(-1, keepdim=True)
        return torch.cat(found, -1).unflatten(1, (-1, len(y))).flatten(2)

    def finish(self, factor: SiteFactor, found: Tensor, natural: Natural | None) -> Sums:
        """Cut into the statistics, around the coefficients at the parameters."""
        found = found.reshape((*found.shape[: 1 + len(factor.cells)], *factor.event_shape, -1))
        n, upper, first, second = found.split((1, self.pairs, self.count, 1), -1)
        around = torch.zeros_like(first) if natural is None else natural.wanted
        parts = n.squeeze(-1), squared(upper, self.count), first, second.squeeze(-1)
        return Sums(factor.name, factor.family, parts, around)


@dataclass(frozen=True)
class Residuals:
    """A site by `(1, x x', x r, r^2)` of the residuals that some coefficients leave; see `Common`."""

    site: SiteFactor
    form: Linear

    def columns(self, chunk: Chunk, centre: Tensor | None) -> Tensor:
        """These, of every event; folded plates summed."""
        assert centre is not None
        rows = self.form.features(self.site, chunk)
        residual = rows.y - centre.reshape((-1, self.form.count)) @ rows.x
        parts = torch.ones_like(residual).unsqueeze(1), pairs(rows.x).expand((len(residual), -1, -1))
        made = torch.cat((*parts, residual.unsqueeze(1) * rows.x, residual.square().unsqueeze(1)), 1)
        made = made if rows.weight is None else made * rows.weight.unsqueeze(1)
        columns = prod(chunk.size(n, self.site.sizes[n]) for n in self.site.layout.columns)
        return made.flatten(0, 1).unflatten(-1, (columns, -1)).sum(-1)

    def eta(self, bound: Bound, centre: Tensor | None) -> Tensor:
        """Of `log p = -(r - x' d)^2 / (2 scale^2) - log(scale)`, coefficients being `d` further on."""
        assert centre is not None
        further = self.site.locations(bound) - centre
        scale = self._scale(bound).expand(further.shape[:-1]).unsqueeze(-1)
        i, j = torch.triu_indices(self.form.count, self.form.count)
        twice = torch.where(i == j, 1.0, 2.0) * further[..., i] * further[..., j]
        parts = -scale.log(), twice / (-2 * scale**2), further / scale**2, -1 / (2 * scale**2)
        return torch.cat(parts, -1).flatten(1 + len(self.site.cells))

    def middle(self, bound: Bound) -> Tensor:
        """The mean of all cells."""
        return self.site.locations(bound).mean(tuple(range(1 + len(self.site.cells))))

    def centres(self, bound: Bound) -> Tensor:
        """The coefficients."""
        return self.site.locations(bound)

    def narrowness(self, bound: Bound) -> Tensor:
        """The largest residual at the middle, by the smallest scale of a cell."""
        rows, cells = self.form.features(self.site, WHOLE), (bound.starts, *self.site.cell_shape)
        residual = rows.y - self.middle(bound).reshape((-1, self.form.count)) @ rows.x
        most = (residual if rows.weight is None else residual * (rows.weight != 0)).abs().amax()
        scale = self._scale(bound).expand((*cells, *self.site.event_shape))
        return most / scale.reshape((*cells, -1)).amin(-1)

    def _scale(self, bound: Bound) -> Tensor:
        return gather(self.site.roles["scale"], bound.entries, bound.batch).double()


def _residual(coefficients: Tensor, rows: Observations) -> Tensor:
    """What of every response the coefficients leave: (starts) + (cells x events, rows)."""
    location = coefficients @ rows.x
    by_event = location.unflatten(1, (-1, len(rows.y)))
    torch.sub(rows.y, by_event, out=by_event)
    return location


def _weighed(found: Tensor, rows: Observations) -> Tensor:
    """Sum log-densities (starts, cells, events, rows) over the events, times the weight of each."""
    return found.sum(2) if rows.weight is None else (found * rows.weight).sum(2)
