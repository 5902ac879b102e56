"""Laws as points of a space without constraints: their hyperparameters, by logarithms where they are positive.

To add a law, give it a row in `CHARTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributions as dist
from torch import Tensor

from ..laws import Held
from ..normal_wishart import NormalWishart
from ..stick_breaking import Sticks


class Chart(NamedTuple):
    """The way there and back.

    Attributes:
        parts: real numbers of a law.
        law: the law at such numbers, given one of the same kind and shape.
    """

    parts: Callable[[Any], tuple[Tensor, ...]]
    law: Callable[[Sequence[Tensor], Any], Any]


def vector(held: Held) -> Tensor:
    """Lay the hyperparameters of all laws that steps move out in one dimension, shape (D,)."""
    parts = [part.reshape(-1) for each, law in held if each.moves for part in CHARTS[type(law)].parts(law)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def laws_at(point: Tensor, like: Held) -> Held:
    """Return the laws at a point, of the kinds and shapes of others; those that no step moves are these."""
    found, at = list[Any](), 0
    for each, law in like:
        if not each.moves:
            found.append((each, law))
            continue
        chart, parts = CHARTS[type(law)], list[Tensor]()
        for part in chart.parts(law):
            parts.append(point[at : at + part.numel()].reshape(part.shape))
            at += part.numel()
        found.append((each, chart.law(parts, law)))
    return found


def _factor(matrix: Tensor) -> Tensor:
    """The Cholesky factor with the logarithm of its diagonal."""
    root = torch.linalg.cholesky(matrix)
    return root.tril(-1) + root.diagonal(dim1=-2, dim2=-1).log().diag_embed()


def _root(factor: Tensor) -> Tensor:
    """The Cholesky factor itself."""
    return factor.tril(-1) + factor.diagonal(dim1=-2, dim2=-1).exp().diag_embed()


def _normal_wishart(law: NormalWishart) -> tuple[Tensor, ...]:
    return law.loc, law.kappa.log(), _factor(law.scale_matrix_inverse), (law.df - law.dim + 1).log()


def _to_normal_wishart(parts: Sequence[Tensor], like: NormalWishart) -> NormalWishart:
    loc, kappa, factor, df = parts
    root = _root(factor)
    return NormalWishart(loc, kappa.exp(), root @ root.mT, df.exp() + like.dim - 1)


CHARTS: Mapping[type, Chart] = {
    dist.Dirichlet: Chart(lambda law: (law.concentration.log(),), lambda parts, _: dist.Dirichlet(parts[0].exp())),
    dist.Beta: Chart(
        lambda law: (law.concentration1.log(), law.concentration0.log()),
        lambda parts, _: dist.Beta(parts[0].exp(), parts[1].exp()),
    ),
    dist.Gamma: Chart(
        lambda law: (law.concentration.log(), law.rate.log()),
        lambda parts, _: dist.Gamma(parts[0].exp(), parts[1].exp()),
    ),
    dist.InverseGamma: Chart(
        lambda law: (law.concentration.log(), law.rate.log()),
        lambda parts, _: dist.InverseGamma(parts[0].exp(), parts[1].exp()),
    ),
    dist.Normal: Chart(lambda law: (law.loc, law.scale.log()), lambda parts, _: dist.Normal(parts[0], parts[1].exp())),
    dist.MultivariateNormal: Chart(
        lambda law: (law.loc, _factor(law.covariance_matrix)),
        lambda parts, _: dist.MultivariateNormal(parts[0], scale_tril=_root(parts[1])),
    ),
    NormalWishart: Chart(_normal_wishart, _to_normal_wishart),
    Sticks: Chart(
        lambda law: (law.ones.log(), law.rest.log()),
        lambda parts, like: replace(like, ones=parts[0].exp(), rest=parts[1].exp()),
    ),
}
"""By the law: its hyperparameters as real numbers."""
