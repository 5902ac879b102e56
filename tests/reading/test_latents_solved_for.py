"""Latents on the right side of equations: a spatial autoregression is linear in its shocks, however it is solved."""

from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints

from em_pyro import EM, ModelError
from em_pyro.reading.latents import degree

N = 6
NEAR = 0.5 * (torch.ones(N - 1).diag(1) + torch.ones(N - 1).diag(-1)).double()
Y = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_solve(matrix: Tensor, shocks: Tensor) -> Tensor:
    """As it stands."""
    return torch.linalg.solve(matrix, shocks)


def by_triangles(matrix: Tensor, shocks: Tensor) -> Tensor:
    """By the factor of a symmetric matrix, one triangle after the other."""
    root = torch.linalg.cholesky(matrix)
    half = torch.linalg.solve_triangular(root, shocks.unsqueeze(-1), upper=False)
    return torch.linalg.solve_triangular(root.mT, half, upper=True).squeeze(-1)


def by_factor(matrix: Tensor, shocks: Tensor) -> Tensor:
    """By the same factor, at once."""
    return torch.cholesky_solve(shocks.unsqueeze(-1), torch.linalg.cholesky(matrix)).squeeze(-1)


def by_elimination(matrix: Tensor, shocks: Tensor) -> Tensor:
    """By rows that are put in order."""
    return torch.linalg.lu_solve(*torch.linalg.lu_factor(matrix), shocks.unsqueeze(-1)).squeeze(-1)


WAYS = [by_solve, by_triangles, by_factor, by_elimination]


def spatial(solve: Callable[[Tensor, Tensor], Tensor], y: Tensor) -> None:
    """What is seen at a place hangs on the shocks at all places."""
    rho = pyro.param("rho", torch.tensor(0.4).double(), constraint=constraints.interval(-0.9, 0.9))
    spread = pyro.param("spread", torch.tensor(1.2).double(), constraint=constraints.positive)
    scale = pyro.param("scale", torch.tensor(0.5).double(), constraint=constraints.positive)
    with pyro.plate("shocks", N):
        e = pyro.sample("e", dist.Normal(torch.zeros(()).double(), spread))
    with pyro.plate("places", N):
        pyro.sample("y", dist.Normal(solve(torch.eye(N).double() - rho * NEAR, e), scale), obs=y)


@pytest.mark.parametrize("solve", WAYS)
def test_evidence_is_that_of_a_dense_normal_law(solve: Callable[[Tensor, Tensor], Tensor]) -> None:
    """At the start, and after some steps."""
    for steps in (0, 4):
        pyro.clear_param_store()
        fit = EM(partial(spatial, solve), max_steps=steps).fit(Y)
        p = {name: float(value) for name, value in fit.params.items()}
        inverse = torch.linalg.inv(torch.eye(N).double() - p["rho"] * NEAR)
        covariance = p["spread"] ** 2 * inverse @ inverse.mT + p["scale"] ** 2 * torch.eye(N).double()
        want = MultivariateNormal(torch.zeros(N).double(), covariance).log_prob(Y)
        assert distance(torch.tensor(fit.log_likelihood), want) < IDENTITY


@pytest.mark.parametrize("solve", WAYS)
def test_without_the_table_it_is_refused(
    solve: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else proves that it is linear."""
    monkeypatch.setattr(degree, "SOLVES", {})
    pyro.clear_param_store()
    with pytest.raises(ModelError, match="solve"):
        EM(partial(spatial, solve)).plan(Y)


@pytest.mark.parametrize("solve", [by_solve, by_triangles])
def test_latents_inside_of_the_matrix_are_refused(solve: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Solutions are not linear in it."""
    pyro.clear_param_store()
    with pytest.raises(ModelError, match="affine in the continuous latents"):
        EM(partial(spatial, lambda matrix, e: solve(matrix + 0.1 * e.diag(), torch.ones(N).double()))).plan(Y)
