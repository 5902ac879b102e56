"""Conjugate laws of means, and of means with their scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from typing import Any

import torch
import torch.distributions as dist
from torch import Tensor

from ..e_step.sites.site_factor import SiteFactor
from ..e_step.sums import Sums
from ..families.charts import Chart
from ..m_step.least_squares.scalar import Moments
from ..m_step.least_squares.solver import Site
from ..m_step.pooling import added, pool
from ..program.named import Params
from ..reading.bank import Bank, bound_once
from ..reading.bound import Bound
from ..records.frozen import frozen
from .conjugate import Draw, Real
from .entering import known, places, positions, selected
from .normal_wishart import NormalWishart


@frozen
class Mean(Real):
    """A mean with a known scale: precisions add up, as Normals or, of vectors, as MultivariateNormals."""

    name: str
    prior: dist.Normal | dist.MultivariateNormal
    sites: tuple[Site, ...] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The one."""
        return (self.name,)

    @property
    def vector(self) -> bool:
        """Whether values are vectors with a covariance matrix."""
        return isinstance(self.prior, dist.MultivariateNormal)

    def updated(self, sums: Mapping[str, Sums], about: Bound, law: Any) -> Any:
        """Precisions, and means times precisions, added to those of the prior."""
        prior, size = self.prior, self.prior.batch_shape.numel()
        parts = []
        for site in self.sites:
            total, weight = site.weighted(site.moments(sums[site.name]), about.batch)
            parts += [(pool(total, p.where, size), pool(weight, p.where, size)) for p in places(site.loc, self.name)]
        total, weight = (added(part) for part in zip(*parts, strict=True))
        if isinstance(prior, dist.Normal):
            own = prior.scale**-2
            precision = own + weight.reshape(own.shape)
            return dist.Normal((own * prior.loc + total.reshape(own.shape)) / precision, precision.rsqrt())
        own = prior.precision_matrix
        precision = own + weight.reshape(own.shape)
        pull = (own @ prior.loc.unsqueeze(-1)) + total.reshape(prior.loc.shape).unsqueeze(-1)
        root = torch.linalg.cholesky(precision)
        loc = torch.cholesky_solve(pull, root).squeeze(-1)
        return dist.MultivariateNormal(loc, covariance_matrix=torch.cholesky_inverse(root))

    def points(self, law: Any) -> Params:
        """The means."""
        return {self.name: law.mean}

    means = points

    def divergence(self, law: Any, other: Any = None) -> Tensor:
        """Of all entries, or rows."""
        return dist.kl_divergence(law, self.prior if other is None else other).sum()

    def disturbed(self, law: Any, nats: float, draw: Draw) -> Any:
        """The means, by standard deviations of the law."""
        far = (2 * nats) ** 0.5
        if isinstance(law, dist.Normal):
            return dist.Normal(law.loc + far * law.scale * draw(law.loc), law.scale)
        root = law.scale_tril
        return dist.MultivariateNormal(
            law.loc + far * (root @ draw(law.loc).unsqueeze(-1)).squeeze(-1), scale_tril=root
        )

    def variance(self, law: Any, factor: SiteFactor, bank: Bank) -> Tensor | None:
        """That of the entry that every cell selects, in the units of its location."""
        if (found := selected(law.variance, self.name, "loc", factor, bank)) is None:
            return None
        c = factor.roles["loc"].coefficient
        return found if c is None else found * c**2

    def excess(self, law: Any, factor: SiteFactor, about: Bound) -> Tensor | None:
        """`-tr(P Var mu) / 2`: the mean is uncertain."""
        if not isinstance(law, dist.MultivariateNormal):
            if (variance := self.variance(law, factor, about.bank)) is None:
                return None
            return -0.5 * variance / bound_once(factor.roles["scale"], about.entries, about.batch).double() ** 2
        at = positions(self.name, "loc", factor, about.bank)
        if at is None:
            return None
        spread = law.covariance_matrix.reshape((-1, *law.covariance_matrix.shape[-2:]))
        precision = torch.cholesky_inverse(known(factor, "scale_tril"))
        rows = at[..., 0] // at.shape[-1]
        return torch.where(rows < 0, 0.0, -0.5 * (precision * spread[rows.clamp(min=0)]).sum((-2, -1)))


@frozen
class MeanAndScale(Real):
    """A mean and its scale: `NormalWishart`, in one dimension a normal and a Gamma.

    Where means share a scale, the law of each with it is a `NormalWishart`, of which the precision is the same.

    Attributes:
        loc: parameter of the means.
        scale: of the scales, or of covariance matrices in whatever form.
        prior: batch dimensions are those of the means.
        sites: all that they enter.
        chart: from the parameter of the scales to Cholesky factors.
        shapes: of the two parameters.
        of: which scale every mean has, shape (means,).
    """

    loc: str
    scale: str
    prior: NormalWishart
    sites: tuple[Site, ...] = field(repr=False)
    chart: Chart = field(repr=False)
    shapes: tuple[torch.Size, torch.Size]
    of: Tensor = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The two."""
        return self.loc, self.scale

    @cached_property
    def first(self) -> Tensor:
        """Of every scale the first mean that has it, shape (scales,)."""
        return torch.stack([(self.of == k).nonzero()[0, 0] for k in range(int(self.of.max()) + 1)])

    @cached_property
    def counted(self) -> Tensor:
        """One for the first mean of every scale, zero for the others, in the batch shape of the prior."""
        return torch.zeros_like(self.prior.df).reshape(-1).index_fill(0, self.first, 1.0).reshape(self.prior.df.shape)

    def shared(self, part: Tensor) -> Tensor:
        """Of every mean the sum of a part over all means with its scale; batch dimensions first."""
        batch = self.prior.df.dim()
        flat = part.reshape((len(self.of), *part.shape[batch:]))
        total = flat.new_zeros((len(self.first), *flat.shape[1:])).index_add(0, self.of, flat)
        return total[self.of].reshape(part.shape)

    def updated(self, sums: Mapping[str, Sums], about: Bound, law: Any) -> NormalWishart:
        """Sums around the values so far, added to the prior's."""
        prior, size = self.prior, self.prior.batch_shape.numel()
        here = about.batch[self.loc].double().reshape((1, size, prior.dim))
        parts = []
        for site in self.sites:
            moments = site.moments(sums[site.name])
            for place in places(site.loc, self.loc):
                moved = _around(moments, here[:, place.where.entries], place.where.cells)
                parts.append([pool(part, place.where, size).squeeze(0) for part in moved])
        n, first, second = (added(part) for part in zip(*parts, strict=True))
        shape = tuple(prior.batch_shape)
        return prior.updated(
            here.reshape((*shape, prior.dim)),
            n.reshape(shape),
            first.reshape((*shape, prior.dim)),
            second.reshape((*shape, prior.dim, prior.dim)),
            self.shared,
        )

    def points(self, law: NormalWishart) -> Params:
        """The means, and the scale of the expected precision."""
        root = torch.linalg.cholesky(law.covariance.reshape((-1, law.dim, law.dim))[self.first])
        scale = root.reshape(self.shapes[1])
        return {self.loc: law.loc.reshape(self.shapes[0]), self.scale: self.chart.inverse(scale)}

    means = points

    def divergence(self, law: NormalWishart, other: Any = None) -> Tensor:
        """Of all means given their precisions, and of every precision once."""
        return law.divergence(self.prior if other is None else other, self.counted).sum()

    def disturbed(self, law: NormalWishart, nats: float, draw: Draw) -> NormalWishart:
        """Means, and the axes of every precision."""
        axes = draw(law.loc.reshape((-1, law.dim))[self.first])
        return law.disturbed(nats, draw(law.loc), axes[self.of].reshape(law.loc.shape))

    def excess(self, law: NormalWishart, factor: SiteFactor, about: Bound) -> Tensor | None:
        """`(E log |P| - log |E P| - D / kappa) / 2`."""
        each = law.excess.reshape(-1)
        at = positions(self.loc, "loc", factor, about.bank)
        if at is None:
            return None
        at = at[..., 0] // law.dim if factor.family.event_dim else at
        return torch.where(at < 0, 0.0, each[at.clamp(min=0)])


def _around(moments: Moments, here: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, sum and products of some cells, of values less `here`: numbers as vectors of one coordinate.

    Returns:
        Of all cells, (1, cells), (1, cells, D) and (1, cells, D, D): zero in the others.
    """
    n, first, second = moments.n, moments.first, moments.second
    around = torch.zeros_like(first) if moments.around is None else moments.around.expand_as(first)
    if first.dim() == n.dim():
        first, second, around = first.unsqueeze(-1), second[..., None, None], around.unsqueeze(-1)
    by = torch.zeros_like(first)
    by[:, cells] = around[:, cells] - here
    moved = first + n.unsqueeze(-1) * by
    return n, moved, second + by.unsqueeze(-1) * first.unsqueeze(-2) + moved.unsqueeze(-1) * by.unsqueeze(-2)
