"""Coefficients of Gaussian latents that are constrained parameters: taken apart as they are, and climbed by torch."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.gaussian_steps import check_step
from torch import Tensor, tensor
from torch.distributions import constraints

ROWS = 7


def numbers(*shape: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def param(name: str, value: Any, constraint: Any = constraints.real) -> Tensor:
    """Declare a parameter."""
    return pyro.param(name, tensor(value).double(), constraint=constraint)


def rows(location: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    """Write a program of rows with two latents each."""

    def model(x: Tensor) -> None:
        scale = param("scale", [1.0, 1.5], constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(location(z), scale).to_event(1), obs=x)

    return model


def steps(coefficient: Callable[[], Tensor]) -> Callable[[Tensor], None]:
    """Write an autoregression that is seen with noise."""

    def model(x: Tensor) -> None:
        z, keep = torch.zeros(()).double(), coefficient()
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z_{t}", dist.Normal(keep * z, param("step", 1.0, constraints.positive)))
            pyro.sample(f"x_{t}", dist.Normal(z, 0.7), obs=x[t, 0])

    return model


def table(constraint: Any) -> Tensor:
    """A whole matrix of loadings."""
    return param("W", [[0.3, 0.2], [0.4, 0.7]], constraint).T


PROGRAMS: Mapping[str, Callable[[Tensor], None]] = {
    "positive": rows(lambda z: z @ table(constraints.positive)),
    "between bounds": rows(lambda z: z @ table(constraints.interval(-1.0, 1.0))),
    "rows that add up to one": rows(lambda z: z @ param("W", [[0.3, 0.7], [0.4, 0.6]], constraints.simplex).T),
    "a root": rows(lambda z: z @ param("L", [[0.9, 0.0], [0.3, 0.4]], constraints.lower_cholesky).T),
    "a root around a mean": rows(
        lambda z: param("mean", [0.1, -0.2]) + z @ param("L", [[0.9, 0.0], [0.3, 0.4]], constraints.lower_cholesky).T
    ),
    "a covariance": rows(lambda z: z @ param("V", [[0.9, 0.2], [0.2, 0.4]], constraints.positive_definite)),
    "a share and what is left": rows(
        lambda z: z * torch.stack([param("r", 0.3, constraints.unit_interval), 1 - param("r", 0.3)])
    ),
    "constants and parameters": rows(
        lambda z: z[..., :1] * torch.cat([torch.ones(1).double(), param("marker", [0.6], constraints.positive)])
    ),
    "a stationary step": steps(lambda: param("keep", 0.4, constraints.interval(-1.0, 1.0))),
    "a share of a step": steps(lambda: 2 * param("keep", 0.7, constraints.unit_interval) - 1),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_constrained_coefficients(name: str) -> None:
    """Evidence, its gradient, and a step to the maximum of `Q`, by brute force."""
    check_step(PROGRAMS[name], {"x": numbers(ROWS, 2) + numbers(ROWS, 1)})
