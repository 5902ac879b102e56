"""Covariates, responses to them, and programs all of whose arguments are predictors through a link."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

N = 40

PROGRAMS = (
    "poisson_regressions",
    "binomial_items",
    "three_experts",
    "gamma_regressions",
    "gamma_means",
    "multiplicative_rates",
    "negative_binomial_regressions",
    "unequal_spread",
    "shrunken_regressions",
    "transitions_with_a_covariate",
)


def design(columns: int = 2) -> Tensor:
    """An intercept and standard normals."""
    x = torch.randn((N, columns), generator=torch.Generator().manual_seed(0))
    x[:, 0] = 1
    return x


def counts() -> Tensor:
    """Counts that grow with the covariate."""
    noise = torch.randn(N, generator=torch.Generator().manual_seed(1))
    return (design()[:, 1] + noise).exp().floor()


def bits() -> Tensor:
    """Zeros and ones that no covariate separates."""
    noise = torch.randn(N, generator=torch.Generator().manual_seed(1))
    return (design()[:, 1] + 1.5 * noise > 0).double()


def logistic(x: Tensor, y: Tensor) -> None:
    """A logistic regression, without latents."""
    b = pyro.param("b", torch.full(x.shape[1:], 0.1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)
