"""Small models that the tests of the loop fit, and what they look at."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro.m_step.least_squares.solver import LeastSquares


def points(n: int = 60, seed: int = 0) -> Tensor:
    """Two clusters on the line."""
    return gaussian_mixture.simulate(n=n, D=0, seed=seed)


def mixture(x: Tensor, K: int = 2) -> None:
    """Mix Normals from a start that is not symmetric."""
    weights = pyro.param("weights", torch.ones(K) / K, constraint=constraints.simplex)
    loc = pyro.param("loc", torch.linspace(-1.0, 3.0, K))
    scale = pyro.param("scale", 1.5 * torch.ones(K), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def symmetric(x: Tensor) -> None:
    """Mix two Normals that start as one: a saddle."""
    weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([2.0, 2.0]))
    scale = pyro.param("scale", tensor([1.0, 1.0]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def stored() -> dict[str, Tensor]:
    """Everything in the store, unconstrained, bit for bit."""
    return {name: value.detach().clone() for name, value in pyro.get_param_store().named_parameters()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two stores are the same, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def plant(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Multiply every location by a factor after each M-step."""
    right = LeastSquares.solve

    def wrong(self: LeastSquares, *args: Any) -> dict[str, Tensor]:
        return {name: factor * v if name == "loc" else v for name, v in right(self, *args).items()}

    monkeypatch.setattr(LeastSquares, "solve", wrong)
