"""Data and small mixtures whose arguments the tests of recognition let be found."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from oracles.m_steps import Model
from torch import Tensor, tensor
from torch.distributions import constraints

N = 30
"""Rows of the programs."""

ROWS = tensor([[0.5, 1.0, -0.5], [0.2, 0.1, 0.9]], dtype=torch.float64)
"""Two rows of logits."""


def real(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normals."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def counts() -> Tensor:
    """Small counts."""
    return (real(N).abs() * 3).floor()


def bits() -> Tensor:
    """Zeros and ones."""
    return (real(N) > 0.2).double()


def mixture(law: Callable[[Tensor], Any]) -> Model:
    """Mix two components with known weights; `law(z)` is the distribution of a row in component `z`."""

    def model(x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", law(z), obs=x)

    return model


def positive(name: str, *values: float) -> Tensor:
    """Declare a positive parameter."""
    return pyro.param(name, tensor(values), constraint=constraints.positive)


def unit(name: str, *values: float) -> Tensor:
    """Declare probabilities."""
    return pyro.param(name, tensor(values), constraint=constraints.unit_interval)


def locations(z: Tensor) -> Tensor:
    """Known locations."""
    return tensor([-1.0, 1.0])[z]
