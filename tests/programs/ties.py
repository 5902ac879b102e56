"""Mixtures of three components that share the rows of their parameters, and data for them."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from oracles.m_steps import Model
from torch import Tensor, tensor
from torch.distributions import constraints

N, K, C, D = 40, 3, 4, 2
"""Rows, components, categories, coordinates."""

TIES = {"none": [0, 1, 2], "some": [0, 0, 1], "all": [0, 0, 0]}
"""Which row of its parameter each of three components uses."""

TOTALS = (torch.arange(N) % 5 + 3).double()
"""Known total counts of the rows."""


def draw(seed: int = 0) -> torch.Generator:
    """Seed a generator."""
    return torch.Generator().manual_seed(seed)


def real(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normals."""
    return torch.randn(shape, generator=draw(seed))


def counted() -> Tensor:
    """Draw small counts."""
    return (real(N, seed=1).abs() * 3).floor()


def heads() -> Tensor:
    """Draw heads among `TOTALS` tosses."""
    return (TOTALS * torch.sigmoid(real(N))).floor()


def start(tie: str, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Make one row for each level 0, 1, ... of a tying; a parameter that all share has no rows at all."""
    levels = torch.arange(1.0 + max(TIES[tie]))
    return make(levels[0]) if tie == "all" else torch.stack([make(level) for level in levels])


def pick(value: Tensor, tie: str, z: Tensor) -> Tensor:
    """Select the rows of the components `z`."""
    return value if tie == "all" else value[tensor(TIES[tie])[z]]


def matrix(argument: str) -> Callable[[Tensor], Tensor]:
    """One matrix by level."""
    shape = tensor([[1.0, 0.0], [0.4, 1.2]])
    return lambda k: (1 + k / 3) * (shape if argument == "scale_tril" else shape @ shape.T)


def mixture(law: Callable[[Tensor], Any]) -> Model:
    """Mix three components with free weights; `law(z)` is the distribution of a row in component `z`."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", law(z), obs=x)

    return model
