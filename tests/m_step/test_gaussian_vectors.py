"""Vectors around locations with latents inside: where their covariance cancels, and where the two are alternated."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.integrated import Integrated
from oracles.steps import em_step
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro.fit.problem import Problem, prepare
from em_pyro.m_step.least_squares import solver

TRIL: dict[str, Any] = {"constraint": constraints.lower_cholesky}


def columns(x: Tensor) -> None:
    """Factors with correlated noise: all coordinates have the same factors."""
    W = pyro.param("W", tensor([[0.5, -0.2], [0.3, 0.8], [-0.6, 0.1]]))
    mean = pyro.param("mean", torch.zeros(3))
    noise = pyro.param("noise", torch.eye(3), **TRIL)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.MultivariateNormal(z @ W.T + mean, scale_tril=noise), obs=x)


def system(x: Tensor) -> None:
    """A linear dynamical system, all of it free; the first state has the covariance of the others."""
    F, H = pyro.param("F", tensor([[0.5, 0.1], [-0.2, 0.6]])), pyro.param("H", torch.ones(3, 2) - torch.eye(3)[:, :2])
    move = pyro.param("move", torch.eye(2), **TRIL)
    noise = pyro.param("noise", torch.eye(3), constraint=constraints.positive_definite)
    z = torch.zeros(2)
    for t in pyro.markov(range(len(x))):
        z = pyro.sample(f"z_{t}", dist.MultivariateNormal(z @ F.T, scale_tril=move))
        pyro.sample(f"x_{t}", dist.MultivariateNormal(z @ H.T, noise), obs=x[t])


def unrelated(x: Tensor) -> None:
    """Coordinates that have a factor each."""
    W = pyro.param("W", tensor([0.5, 0.3, -0.6]))
    noise = pyro.param("noise", torch.eye(3), **TRIL)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.MultivariateNormal(z[..., tensor([0, 1, 1])] * W, scale_tril=noise), obs=x)


def tied(x: Tensor) -> None:
    """Coordinates that have a coefficient in common."""
    W = pyro.param("W", tensor([0.5, 0.3]))
    noise = pyro.param("noise", torch.eye(3), **TRIL)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.MultivariateNormal(z[:, None] * W[tensor([0, 1, 1])], scale_tril=noise), obs=x)


def shared(x: Tensor) -> None:
    """Coordinates that one effect enters alike."""
    mean = pyro.param("mean", torch.zeros(3))
    spread = pyro.param("spread", tensor(0.7), constraint=constraints.positive)
    noise = pyro.param("noise", torch.eye(3), **TRIL)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, spread))
        pyro.sample("x", dist.MultivariateNormal(mean + z[:, None], scale_tril=noise), obs=x)


def around(x: Tensor) -> None:
    """The same, where the effect has the mean."""
    mean = pyro.param("mean", tensor(0.3))
    spread = pyro.param("spread", tensor(0.7), constraint=constraints.positive)
    noise = pyro.param("noise", torch.eye(3), **TRIL)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(mean, spread))
        pyro.sample("x", dist.MultivariateNormal(z[:, None].expand(len(x), 3), scale_tril=noise), obs=x)


def triangular(x: Tensor, *, free: bool = True) -> None:
    """Loadings that are a Cholesky factor: each coordinate has other factors, and some entries are positive."""
    root = pyro.param("root", tensor([[0.9, 0.0, 0.0], [0.3, 0.8, 0.0], [-0.6, 0.1, 0.5]]), **TRIL)
    mean = pyro.param("mean", torch.zeros(3))
    known = tensor([[1.0, 0.0, 0.0], [0.4, 0.9, 0.0], [0.2, -0.3, 1.1]])
    noise = pyro.param("noise", torch.eye(3), **TRIL) if free else known
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.MultivariateNormal(z @ root.T + mean, scale_tril=noise), obs=x)


def triangular_beside_known(x: Tensor) -> None:
    """The same with a covariance that is known."""
    triangular(x, free=False)


def mixed(x: Tensor, *, apart: bool) -> None:
    """Factors of two states, around one mean: with one covariance, or with one each."""
    W = pyro.param("W", tensor([[[0.5], [0.3], [-0.6]], [[0.4], [-0.8], [0.1]]]))
    mean = pyro.param("mean", torch.zeros(3))
    start = tensor([[1.0, 0.0, 0.0], [0.2, 0.9, 0.0], [0.0, -0.3, 1.2]])
    noise = pyro.param("noise", start * tensor([1.0, 1.5])[:, None, None] if apart else start, **TRIL)
    with pyro.plate("rows", len(x)):
        c = pyro.sample("c", dist.Categorical(tensor([0.4, 0.6])))
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        loc = (W[c] @ z[..., None])[..., 0] + mean
        pyro.sample("x", dist.MultivariateNormal(loc, scale_tril=noise[c] if apart else noise), obs=x)


def one(x: Tensor) -> None:
    """One covariance for both states."""
    mixed(x, apart=False)


def two(x: Tensor) -> None:
    """One for each."""
    mixed(x, apart=True)


HOW: dict[str, tuple[Callable[[Tensor], None], str, int]] = {
    "columns": (columns, "closed form", 8),
    "system": (system, "closed form", 8),
    "shared": (shared, "closed form", 8),
    "around": (around, "closed form", 8),
    "triangular": (triangular, "swept", 8),
    "triangular, known": (triangular_beside_known, "closed form", 8),
    "unrelated": (unrelated, "swept", 8),
    "tied": (tied, "swept", 8),
    "one covariance": (one, "closed form", 5),
    "two covariances": (two, "swept", 5),
}
"""Programs, how their coefficients are maximised, and rows."""


def observations(rows: int) -> Tensor:
    """Rows of three correlated numbers."""
    generator = torch.Generator().manual_seed(7)
    mix = tensor([[1.0, 0.5, 0.0], [0.0, 1.2, -0.7], [0.3, 0.0, 0.9]])
    return torch.randn((rows, 3), generator=generator, dtype=torch.float64) @ mix


def planned(name: str) -> tuple[Problem, Integrated]:
    """Plan a program, and integrate it by brute force."""
    model, _, rows = HOW[name]
    x = observations(rows)
    pyro.clear_param_store()
    return prepare(model, (), {"x": x}, {}, check=True), Integrated(model, {"x": x}, ("z",))


def check_step(name: str) -> None:
    """No direction climbs from where one step has led."""
    problem, brute = planned(name)
    new, _ = em_step(problem.engine, problem.plan, brute.start)
    given, point = brute.given(brute.start), brute.point(new).requires_grad_()
    height = brute.q(brute.params(point), given)
    (slope,) = torch.autograd.grad(height, point)
    swept = "swept" in {line.how for line in problem.plan.lines.values()}
    assert float(slope.abs().max()) <= (SOLVERS if swept else IDENTITY) * (1 + abs(float(height.detach())))


@pytest.mark.parametrize("name", HOW)
def test_how(name: str) -> None:
    """Coefficients with a design in common, one covariance and no two sites are a closed form; others are swept."""
    problem, _ = planned(name)
    assert {line.how for line in problem.plan.lines.values()} == {HOW[name][1]}


@pytest.mark.parametrize("name", HOW)
def test_step(name: str) -> None:
    """One step is the maximum of `Q`."""
    check_step(name)


@pytest.mark.parametrize("name", ["unrelated", "tied", "triangular", "two covariances"])
def test_a_covariance_that_does_not_cancel_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it left out, one pass would not be the maximum."""
    monkeypatch.setattr(solver, "why_swept", lambda *_: "")
    with pytest.raises(AssertionError):
        check_step(name)
