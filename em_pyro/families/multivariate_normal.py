"""MultivariateNormal with whole covariances, by whichever argument they are written; also with lines for a location."""

from __future__ import annotations

import math
from functools import cache
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..program.named import unexpand
from .base import Args, Family, Role, register


@register(dist.MultivariateNormal)
class MultivariateNormal(Family):
    """`-(x - loc)' P (x - loc) / 2 + log det(P) / 2`, linear in `(1, x, x_i x_j for i <= j)`.

    The half of the products is half the work of the Cholesky form; off-diagonal entries of `P` count twice.
    """

    summed = "1, x, x_i x_j for i <= j (row by row)"
    solver = "multivariate_normal"
    counting = frozenset({0})
    location = "loc"
    quadratic = True
    event_dim = 1
    roles = {"loc": Role("real", event_dim=1), "scale_tril": Role("scale_tril", event_dim=2)}

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        tril = distribution._unbroadcasted_scale_tril  # type: ignore[attr-defined]
        return {"loc": unexpand(distribution.loc, 1), "scale_tril": unexpand(tril, 2)}  # type: ignore[attr-defined]

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        i, j = torch.triu_indices(value.shape[-1], value.shape[-1], device=value.device)
        return torch.ones_like(value[..., 0]), value, value[..., i] * value[..., j]

    def columns(self, value: Tensor, known: Args, out: Tensor) -> bool:
        dim = value.shape[-1]
        if value.dim() > 2 or len(out) != 1 + dim + dim * (dim + 1) // 2:
            return False
        out[0] = 1
        x = out[1 : 1 + dim]
        x.copy_(value.mT)
        at = 1 + dim
        for i in range(dim):
            torch.mul(x[i], x[i:], out=out[at : at + dim - i])
            at += dim - i
        return True

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        loc, tril = args["loc"], args["scale_tril"]
        precision = _precision(tril)
        linear = (precision * loc.unsqueeze(-2)).sum(-1)
        log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        places, factor = _upper(loc.shape[-1], loc.device)
        half = precision.flatten(-2).index_select(-1, places) * factor
        return torch.add(log_det, (loc * linear).sum(-1), alpha=0.5).neg_(), linear, half

    def whitening(self, args: Args) -> tuple[Tensor, Tensor]:
        tril = args["scale_tril"]
        return _inverse(tril), -tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def whitened(self, deviation: Tensor, factor: Tensor, room: Tensor) -> Tensor:
        return torch.matmul(factor, deviation, out=room)

    def moments(self, deviation: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        weighted = deviation * weights.unsqueeze(-2)
        second = (weighted @ deviation.mT).flatten(-2)
        places = _upper(deviation.shape[-2], deviation.device)[0]
        return weights.sum(-1), weighted.sum(-1), second.index_select(-1, places)

    def shifted(self, statistics: tuple[Tensor, ...], by: Tensor) -> tuple[Tensor, ...]:
        n, first, second = statistics
        moved = torch.addcmul(first, n.unsqueeze(-1), by, value=-1)
        change = first.unsqueeze(-1) * by.unsqueeze(-2)
        change = change.addcmul_(by.unsqueeze(-1), moved.unsqueeze(-2)).flatten(-2)
        return n, moved, second - change.index_select(-1, _upper(by.shape[-1], by.device)[0])

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return value.new_full((), -0.5 * value.shape[-1] * math.log(2 * math.pi))


class LinesNormal(Family):
    """Coordinates `x_e' loc_e`, each a line of its own: with residuals `r`, linear in `(1, x_e x_f', x_e r_f, r r')`.

    References:
        Zellner (1962), An efficient method of estimating seemingly unrelated regressions. JASA 57.
    """

    summed = "1, x_e x_f', x_e y_f, y y'"
    solver = "multivariate_normal"
    event_dim = 1
    location: ClassVar[str | None] = "loc"
    roles = {"loc": Role("real", event_dim=2), "scale_tril": Role("scale_tril", event_dim=2)}

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        loc, inverse = args["loc"], _inverse(args["scale_tril"])
        precision = inverse.mT @ inverse
        linear = loc.unsqueeze(-1) * precision.unsqueeze(-2)  # (e, J, e)
        gram = -0.5 * linear.unsqueeze(-1) * loc.unsqueeze(-3).unsqueeze(-3)
        return inverse.diagonal(dim1=-2, dim2=-1).log().sum(-1), gram, linear, -0.5 * precision

    def shifted(self, statistics: tuple[Tensor, ...], by: Tensor) -> tuple[Tensor, ...]:
        n, gram, first, second = statistics
        moved = first - torch.einsum("...eifj,...fj->...eif", gram, by)
        before, after = (torch.einsum("...ei,...eif->...ef", by, part) for part in (first, moved))
        return n, gram, moved, second - before - after.mT


LINES = LinesNormal()
"""What a MultivariateNormal is where its location multiplies covariates by parameters."""


def _precision(tril: Tensor) -> Tensor:
    """Return the inverse of a covariance by its Cholesky factor.

    The gradient of torch's own goes through the precision twice, and loses the digits of a covariance that is much
    narrower in one direction than in another.
    """
    if not tril.requires_grad:
        return torch.cholesky_inverse(tril)
    inverse = _inverse(tril)
    return inverse.mT @ inverse


def _inverse(tril: Tensor) -> Tensor:
    """Return the inverse of a Cholesky factor."""
    unit = torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device)
    return torch.linalg.solve_triangular(tril, unit, upper=False)


@cache
def _upper(dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of the upper triangle in a flattened matrix, and what its entries of `P` count for."""
    i, j = torch.triu_indices(dim, dim, device=device)
    return i * dim + j, torch.where(i == j, -0.5, -1.0).double()
