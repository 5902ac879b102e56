"""Normal laws, every way to write them, every tying: the closed form is the maximum that torch finds too."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from m_steps import check_closed
from ties import TIES, D, K, N, draw, matrix, mixture, pick, real, start
from torch import Tensor, tensor
from torch.distributions import constraints


def meets_several(locs: str, scales: str) -> bool:
    """Whether components that share a location differ in scale."""
    pairs = set(zip(TIES[locs], TIES[scales], strict=True))
    return len(pairs) > len(set(TIES[locs]))


@pytest.mark.parametrize("scales", TIES)
@pytest.mark.parametrize("locs", TIES)
@pytest.mark.parametrize("law", [dist.Normal, dist.LogNormal])
def test_normal(law: Any, locs: str, scales: str) -> None:
    """Location and scale, each tied in its own way; where a shared location meets several scales it is swept."""

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", start(locs, lambda k: 1.5 * k - 1))
        scale = pyro.param("scale", start(scales, lambda k: 0.7 + 0.4 * k), constraint=constraints.positive)
        return law(pick(loc, locs, z), pick(scale, scales, z))

    x = real(N) * 2 + 0.5
    swept = ("loc", "scale") if meets_several(locs, scales) else ()
    check_closed(mixture(of), x.exp() if law is dist.LogNormal else x, swept=swept)


@pytest.mark.parametrize("scales", ["each", "by component", "by coordinate", "one"])
def test_normal_events(scales: str) -> None:
    """Rows of coordinates: a scale for each, for each component, for each coordinate, and one for all."""
    shape = {"each": (K, D), "by component": (K, 1), "by coordinate": (D,), "one": ()}[scales]

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", real(K, D, seed=2))
        scale = pyro.param("scale", 0.8 + 0.1 * torch.rand(shape, generator=draw()), constraint=constraints.positive)
        return dist.Normal(loc[z], scale[z] if len(shape) == 2 else scale).to_event(1)

    check_closed(mixture(of), real(N, D) * 2)


MATRICES = {
    "scale_tril": constraints.lower_cholesky,
    "covariance_matrix": constraints.positive_definite,
    "precision_matrix": constraints.positive_definite,
}


@pytest.mark.parametrize("scales", TIES)
@pytest.mark.parametrize("locs", TIES)
@pytest.mark.parametrize("argument", MATRICES)
def test_multivariate_normal(argument: str, locs: str, scales: str) -> None:
    """Three ways to write the covariance, and three tyings of each argument."""

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", start(locs, lambda k: tensor([1.5, -0.5]) * k - 1))
        value = pyro.param(argument, start(scales, matrix(argument)), constraint=MATRICES[argument])
        return dist.MultivariateNormal(pick(loc, locs, z), **{argument: pick(value, scales, z)})

    x = real(N, D) @ tensor([[1.0, 0.5], [0.0, 1.3]])
    check_closed(mixture(of), x, swept=("loc", argument) if meets_several(locs, scales) else ())
