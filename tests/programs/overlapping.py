"""Two normals that overlap, and fits that begin in an empty store."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit


def fitted(model: Callable[..., None], *args: Any, **options: Any) -> Fit:
    """Fit from an empty store."""
    with pyro.get_param_store().scope():
        return EM(model, **options).fit(*args)


def slow(x: Tensor) -> None:
    """Two normals of one scale that overlap."""
    weights = pyro.param("weights", tensor([0.3, 0.7]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.5, 1.5]))
    scale = pyro.param("scale", tensor(0.8), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


def overlapping() -> Tensor:
    """Draw 300 rows of it."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(300, generator=generator) * 0.7 + 2.0 * (torch.rand(300, generator=generator) < 0.6)
