"""The conjugate law of the coefficients of linear regressions whose noise is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import torch
import torch.distributions as dist
from torch import Tensor

from ..e_step.sites.site_factor import SiteFactor
from ..e_step.sums import Sums
from ..m_step.least_squares.equations import Equations
from ..m_step.least_squares.lines import LineSite
from ..m_step.pooling import Refused
from ..program.named import Params
from ..reading.bound import Bound
from ..reading.predictor import together
from ..records.frozen import frozen
from .conjugate import Draw, Real


@frozen
class Coefficients(Real):
    """Rows of coefficients `b`, each a MultivariateNormal: precision `P + X'X / scale^2`.

    Attributes:
        name: of the parameter, whose last dimension is that of the covariates.
        prior: of every row.
        sites: regressions.
    """

    name: str
    prior: dist.MultivariateNormal
    sites: tuple[LineSite, ...] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The one."""
        return (self.name,)

    def updated(self, sums: Mapping[str, Sums], about: Bound, law: Any) -> dist.MultivariateNormal:
        """The normal equations, with those of the prior."""
        prior, dim = self.prior, self.prior.event_shape[0]
        equations, system = Equations.over({self.name: prior.loc.numel()}), None
        at_zero = {**about.batch, self.name: torch.zeros_like(about.batch[self.name])}  # what is left is all of it
        for site in self.sites:
            pull, weight = site.pulled(site.moments(sums[site.name]), site.loc.at(at_zero), about.batch)
            system = equations.entered(system, equations.design(site.loc), pull, weight)
        assert system is not None
        (matrix,), right = equations.form.blocks(system[0]), system[1][0]
        matrix = matrix[0, 0]
        rows = torch.arange(prior.loc.numel(), device=matrix.device).reshape((-1, dim))
        own = matrix[rows.unsqueeze(-1), rows.unsqueeze(-2)].reshape((*prior.loc.shape, dim))
        precision = prior.precision_matrix + (own + own.mT) / 2
        pull = (prior.precision_matrix @ prior.loc.unsqueeze(-1)) + right.reshape(prior.loc.shape).unsqueeze(-1)
        root = torch.linalg.cholesky(precision)
        loc = torch.cholesky_solve(pull, root).squeeze(-1)
        return dist.MultivariateNormal(loc, covariance_matrix=torch.cholesky_inverse(root))

    def points(self, law: dist.MultivariateNormal) -> Params:
        """The means."""
        return {self.name: law.mean}

    means = points

    def divergence(self, law: dist.MultivariateNormal, other: Any = None) -> Tensor:
        """Of all rows."""
        return dist.kl_divergence(law, self.prior if other is None else other).sum()

    def disturbed(self, law: dist.MultivariateNormal, nats: float, draw: Draw) -> dist.MultivariateNormal:
        """The means, by standard deviations of the law."""
        away = (law.scale_tril @ draw(law.loc).unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(law.loc + (2 * nats) ** 0.5 * away, scale_tril=law.scale_tril)

    def excess(self, law: Any, factor: SiteFactor, about: Bound) -> Tensor | None:
        """None: what their covariance adds differs by row."""
        return None

    def spread(self, law: dist.MultivariateNormal, factor: SiteFactor) -> Tensor | None:
        """`Var b` of the coefficients of every cell: cells + events + (J, J)."""
        affine = factor.roles["loc"].affine if "loc" in factor.roles else None
        if affine is None or self.name not in factor.parameters:
            return None
        linear = replace(affine, offset=torch.zeros_like(affine.offset))
        unit = linear.at(torch.eye(len(affine.entries), dtype=torch.float64, device=affine.offset.device))
        at = torch.tensor([entry for _, entry in affine.entries], device=unit.device)
        blocks = law.covariance_matrix.reshape((-1, *law.covariance_matrix.shape[-2:]))
        covariance = torch.block_diag(*blocks)[at.unsqueeze(-1), at]
        return torch.einsum("e...j,ef,f...k->...jk", unit, covariance, unit)


def check_alone(site: LineSite, name: str, shape: Sequence[int]) -> None:
    """Refuse a predictor that joins other parameters, or several rows of one: their laws would not be independent.

    Raises:
        Refused: naming the site.
    """
    others = sorted({n for n, _ in site.loc.each.entries} - {name})
    if others:
        raise Refused(f'at site "{site.name}" it is added to "{others[0]}": make them one parameter')
    if not shape:
        raise Refused(f'at site "{site.name}" it is a number that is added to others: make it a row of one')
    entries = torch.tensor([entry for _, entry in site.loc.each.entries])
    if any(len({int(entries[k]) // shape[-1] for k in some}) > 1 for some in together(site.loc.affine)):
        raise Refused(f'at site "{site.name}" several of its rows are added: make them one row')
