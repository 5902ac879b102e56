"""Regressions with a link, whose statistics keep their rows, and rows for them in uneven batches."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

Batch = tuple[Tensor, Tensor]


def rows(many: int = 120) -> Batch:
    """A constant and a covariate, and counts of two kinds of rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.stack([torch.ones(many), torch.randn(many, generator=generator)], -1).double()
    slopes = tensor([[0.5, 0.3], [2.2, -0.5]]).double()[(torch.rand(many, generator=generator) < 0.4).long()]
    return x, torch.poisson((x * slopes).sum(-1).exp(), generator=generator)


def batches(ends: tuple[int, ...] = (0, 50, 57, 120)) -> list[Batch]:
    """Uneven ones."""
    x, y = rows(ends[-1])
    return [(x[a:b], y[a:b]) for a, b in zip(ends, ends[1:], strict=False)]


def poissons(x: Tensor, y: Tensor) -> None:
    """Mix two Poisson regressions."""
    weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
    b = pyro.param("b", tensor([[0.1, 0.0], [1.5, 0.0]]))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson((x * b[z]).sum(-1).exp()), obs=y)


def logistic(x: Tensor, y: Tensor) -> None:
    """One logistic regression, with a prior."""
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=(y > 2).double())


def gamma(x: Tensor, y: Tensor) -> None:
    """A shape beside the coefficients of the mean."""
    b, a = pyro.param("b", torch.zeros(2)), pyro.param("a", tensor(1.0), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Gamma(a, a * (-(x @ b)).exp()), obs=y + 0.5)


def experts(x: Tensor, y: Tensor) -> None:
    """Weights that depend on the row, too."""
    g = pyro.param("g", tensor([0.1, 0.0]))
    b = pyro.param("b", tensor([[0.1, 0.0], [1.5, 0.0]]))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Bernoulli(logits=x @ g)).long()
        pyro.sample("y", dist.Poisson((x * b[z]).sum(-1).exp()), obs=y)


def spread(x: Tensor, y: Tensor) -> None:
    """A location and a scale by regression."""
    b, c = pyro.param("b", torch.zeros(2)), pyro.param("c", torch.zeros(2))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ b, (x @ c).exp()), obs=y)


PROGRAMS: dict[str, Callable[..., Any]] = {
    model.__name__: model for model in (poissons, logistic, gamma, experts, spread)
}
