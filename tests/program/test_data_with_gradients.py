"""Data that another computation differentiates by are data as any other."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from em_pyro import EM


def normal(x: Tensor) -> None:
    """One normal."""
    loc = pyro.param("loc", torch.tensor(0.3, dtype=torch.float64))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def weighted(x: Tensor) -> None:
    """Weights that are computed of the data."""
    loc = pyro.param("loc", torch.tensor(0.3, dtype=torch.float64))
    with pyro.plate("rows", len(x)), pyro.poutine.scale(scale=x**2):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def heavy_tailed(x: Tensor) -> None:
    """Data by row."""
    loc = pyro.param("loc", torch.tensor([0.3, 2.0], dtype=torch.float64))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2, dtype=torch.float64) / 2))
        pyro.sample("x", dist.StudentT(3.0, loc[z], 1.0), obs=2 * x)


def random_effects(x: Tensor) -> None:
    """A latent that is integrated."""
    loc = pyro.param("loc", torch.tensor(0.3, dtype=torch.float64))
    with pyro.plate("rows", len(x)):
        u = pyro.sample("u", dist.Normal(loc, torch.ones((), dtype=torch.float64)))
        pyro.sample("x", dist.Normal(u, 0.5), obs=x)


@pytest.mark.parametrize("model", [normal, weighted, heavy_tailed, random_effects])
def test_data_that_want_a_gradient_are_data(model: Callable[[Tensor], None]) -> None:
    """A tensor that another computation differentiates by is fitted as any other; its gradient stays as it was."""
    x = torch.tensor([0.1, 0.4, -0.3, 2.0, 2.5, 1.8], dtype=torch.float64)
    plain = EM(model).fit(x)
    pyro.clear_param_store()
    leaf = x.clone().requires_grad_()
    fit = EM(model).fit(leaf)
    assert fit.objective == plain.objective
    assert fit.outcome == plain.outcome == "converged"
    assert leaf.grad is None
    assert fit.posterior.log_evidence == plain.posterior.log_evidence
