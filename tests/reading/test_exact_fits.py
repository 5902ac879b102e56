"""Latents outside of plates that take all that is observed: integrated where their joint density has no bound."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import MultivariateNormal, constraints

from em_pyro import EM, Plan

N = 12
PLACES = torch.linspace(0.0, 3.0, N).double()
KERNEL = torch.exp(-0.5 * (PLACES - PLACES[:, None]) ** 2) + 1e-4 * torch.eye(N).double()
EYE = torch.eye(N).double()
X = torch.randn((N, N + 3), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
Y = torch.linalg.cholesky(KERNEL) @ X[:, 0] + 0.4 * X[:, 1] + 1.0

Model = Callable[[Tensor], None]


def noise(name: str = "noise", value: Any = 0.6) -> Tensor:
    """A free positive number."""
    return pyro.param(name, tensor(value).double(), constraint=constraints.positive)


def mean() -> Tensor:
    """A free number."""
    return pyro.param("mean", tensor(0.0).double())


def at_places(
    scale: Callable[[], Any] = noise, times: int = 1, curve: Callable[[Tensor], Tensor] = lambda f: f
) -> Model:
    """A Gaussian process with a known kernel, seen so many times at every place."""

    def model(y: Tensor) -> None:
        f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(N).double(), KERNEL))
        spread = scale()
        with pyro.plate("places", N):
            for k in range(times):
                pyro.sample(f"y_{k}", dist.Normal(mean() + curve(f), spread), obs=y + 0.1 * k)

    return model


def regression(y: Tensor) -> None:
    """More coefficients than rows."""
    b = pyro.sample("b", dist.Normal(torch.zeros(N + 3).double(), 0.5).to_event(1))
    with pyro.plate("rows", N):
        pyro.sample("y", dist.Normal(mean() + X @ b, noise()), obs=y)


def walk(y: Tensor) -> None:
    """Steps of a known size, seen with noise."""
    z = torch.zeros(()).double()
    for t in pyro.markov(range(N)):
        z = pyro.sample(f"z_{t}", dist.Normal(z, 0.5))
        pyro.sample(f"y_{t}", dist.Normal(mean() + z, noise()), obs=y[t])


def two_groups(y: Tensor) -> None:
    """Noise of two kinds, by its logarithm: by one of them the density has no bound."""
    of = (torch.arange(N) > 2).long()
    b = pyro.sample("b", dist.Normal(torch.zeros(4).double(), 0.5).to_event(1))
    with pyro.plate("rows", N):
        pyro.sample(
            "y", dist.Normal(mean() + X[:, :4] @ b, pyro.param("noise", torch.zeros(2).double())[of].exp()), obs=y
        )


STEPS = 0.25 * torch.minimum(torch.arange(N), torch.arange(N)[:, None]).double() + 0.25
WIDE = 0.25 * X @ X.T
FEW = 0.25 * X[:, :4] @ X[:, :4].T
INTEGRATED: dict[str, tuple[Model, Tensor]] = {
    "a process": (at_places(), KERNEL),
    "a regression": (regression, WIDE),
    "a walk": (walk, STEPS),
    "two groups": (two_groups, FEW),
}


@pytest.mark.parametrize("name", INTEGRATED)
def test_the_density_has_no_bound(name: str) -> None:
    """The plan says why they are integrated; the likelihood is that of the dense normal, at its maximum."""
    model, common = INTEGRATED[name]
    assert 'it takes all that is observed with scale "noise", which may go to zero' in str(EM(model).plan(Y))
    pyro.clear_param_store()
    fit = EM(model, tol=1e-10).fit(Y)
    own = fit.params["noise"].double()
    if own.dim():
        own = own[(torch.arange(N) > 2).long()].exp()
    at = torch.cat([fit.params["mean"].double().reshape(1), own.log().reshape(-1)]).requires_grad_()
    law = MultivariateNormal(at[0].expand(N), common + (2 * at[1:]).exp() * EYE)
    evidence = law.log_prob(Y)
    same(tensor(fit.log_likelihood), evidence.detach())
    (slope,) = torch.autograd.grad(evidence, at)
    assert float(slope[:1].abs().max()) < SOLVERS * 100
    if own.dim() == 0:
        assert float(slope.abs().max()) < SOLVERS * 100


def curved(f: Tensor) -> Tensor:
    """What has no exact integral."""
    return f + 0.1 * f**3


def too_many(y: Tensor) -> None:
    """More coefficients than can be integrated together."""
    wide = torch.cat([X, torch.ones((N, 5000)).double()], 1)
    f = pyro.sample("f", dist.Normal(torch.zeros(wide.shape[1]).double(), 0.5).to_event(1))
    with pyro.plate("rows", N):
        pyro.sample("y", dist.Normal(mean() + wide @ f, noise()), obs=y)


def of_two(y: Tensor) -> None:
    """Locations of a mixture, with a prior each."""
    loc = pyro.sample("loc", dist.Normal(torch.zeros(N + 1).double(), 5.0).to_event(1))
    with pyro.plate("rows", N):
        z = pyro.sample("z", dist.Categorical(torch.ones(N + 1) / (N + 1)))
        pyro.sample("y", dist.Normal(loc[z], noise()), obs=y)


MAXIMISED: dict[str, tuple[Model, dict[str, str]]] = {
    "seen twice": (at_places(times=2), {}),
    "noise that is known": (at_places(lambda: 0.5), {}),
    "noise with a bound": (at_places(lambda: 0.1 + noise()), {}),
    "noise with a light tail": (at_places(lambda: pyro.sample("noise", dist.LogNormal(0.0, 1.0))), {}),
    "as the user says": (at_places(), {"f": "maximise"}),
    "a curve": (at_places(curve=curved), {}),
    "a mixture": (of_two, {}),
    "too many": (too_many, {}),
}


@pytest.mark.parametrize("name", MAXIMISED)
def test_a_bound_is_there(name: str) -> None:
    """They stay parameters with a prior; so do those of which the user says so, and what has no exact integral."""
    model, chosen = MAXIMISED[name]
    plan = EM(model, continuous=chosen).plan(Y)
    assert isinstance(plan, Plan)
    assert {"f", "loc"} & plan.lines.keys()
    assert "continuous latent" not in str(plan)


def beside_a_level(among: Tensor) -> Model:
    """A process, beside a common level of some of the observations."""

    def model(y: Tensor) -> None:
        f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(N).double(), KERNEL))
        level = pyro.sample("level", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("places", N):
            pyro.sample("y", dist.Normal(f + among * level, noise()), obs=y)

    return model


def loaded(y: Tensor) -> None:
    """A walk, times a number with a prior."""
    level = z = torch.zeros(()).double()
    a = pyro.sample("a", dist.Normal(level, 1.5))
    b = pyro.sample("b", dist.Normal(level, 1.5))
    for t in pyro.markov(range(4)):
        z = pyro.sample("level" if t == 0 else f"z_{t}", dist.Normal(z, 0.5))
        pyro.sample(f"y_{t}", dist.Normal(a + b * z, noise()), obs=y[t])


EVERY, SOME = torch.ones(N).double(), (torch.arange(N) > 2).double()
SPREAD: dict[str, tuple[Model, bool]] = {
    "all": (beside_a_level(EVERY), False),
    "some": (beside_a_level(SOME), True),
    "times a number": (loaded, False),
}


@pytest.mark.parametrize("name", SPREAD)
def test_what_an_integrated_latent_spreads_has_a_bound(name: str) -> None:
    """Observations that no such latent reaches can still be taken."""
    model, unbounded = SPREAD[name]
    plan = str(EM(model, continuous={"level": "integrate"}).plan(Y))
    assert ("it takes all that is observed" in plan) == unbounded
