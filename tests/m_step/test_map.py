"""Sites with a prior: conjugate pairs in closed form, torch for the rest, and no prize for an unbounded density."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.evidence import log_evidence
from oracles.m_steps import Model, how, same
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

N, C = 30, 3


def real(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normals."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bits() -> Tensor:
    """Zeros and ones."""
    return (real(N) > 0.2).double()


def counts() -> Tensor:
    """Small counts."""
    return (real(N).abs() * 3).floor()


def kinds() -> Tensor:
    """Three categories."""
    return (real(N).abs() * 2).long().clamp(max=C - 1)


def tables() -> Tensor:
    """Rows of three counts that sum to nine."""
    first = counts().clamp(max=4)
    return torch.stack([first, 5 - first, torch.full((N,), 4.0)], -1)


def hierarchy(prior: Callable[[], Any], law: Callable[[Tensor], Any], *, plate: bool) -> Model:
    """Two components; the argument of component k is row k of a site with a prior, in a plate or as one event."""

    def model(x: Tensor) -> None:
        if plate:
            with pyro.plate("components", 2):
                argument = pyro.sample("argument", prior())
        else:
            argument = pyro.sample("argument", prior().expand((2,)).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", law(argument[z]), obs=x)

    return model


DIRICHLET = tensor([2.0, 1.5, 3.0], dtype=torch.float64)

Pair = tuple[Callable[[], Any], Callable[[Tensor], Any], Callable[[], Tensor]]
"""A prior, the law whose argument it is of, and the data."""

PAIRS: dict[str, Pair] = {
    "Dirichlet, Categorical": (lambda: dist.Dirichlet(DIRICHLET), lambda a: dist.Categorical(a), kinds),
    "Dirichlet, OneHotCategorical": (
        lambda: dist.Dirichlet(DIRICHLET), lambda a: dist.OneHotCategorical(a),
        lambda: torch.nn.functional.one_hot(kinds(), C).double(),
    ),
    "Dirichlet, Multinomial": (
        lambda: dist.Dirichlet(DIRICHLET), lambda a: dist.Multinomial(9, a), tables,
    ),
    "Beta, Bernoulli": (lambda: dist.Beta(2.0, 3.5), lambda a: dist.Bernoulli(a), bits),
    "Beta, Binomial": (lambda: dist.Beta(2.0, 3.5), lambda a: dist.Binomial(torch.arange(N) % 3 + 7, a), counts),
    "Beta, Geometric": (lambda: dist.Beta(2.0, 3.5), lambda a: dist.Geometric(a), counts),
    "Gamma, Poisson": (lambda: dist.Gamma(2.0, 1.7), lambda a: dist.Poisson(a), counts),
    "Gamma, Poisson with exposures": (
        lambda: dist.Gamma(2.0, 1.7), lambda a: dist.Poisson(a * (1 + torch.arange(N) % 3)), counts,
    ),
    "Gamma, Exponential": (lambda: dist.Gamma(2.0, 1.7), lambda a: dist.Exponential(a), lambda: real(N).exp()),
    "Normal, Normal": (lambda: dist.Normal(1.0, 0.5), lambda a: dist.Normal(a, 0.8), lambda: 2 * real(N)),
    "Normal, Normal with scales by row": (
        lambda: dist.Normal(1.0, 0.5), lambda a: dist.Normal(a, 1.0 + torch.arange(N) % 3), lambda: 2 * real(N),
    ),
    "Normal, LogNormal": (lambda: dist.Normal(1.0, 0.5), lambda a: dist.LogNormal(a, 0.8), lambda: real(N).exp()),
}  # fmt: skip


@pytest.mark.laws
@pytest.mark.parametrize("plate", [True, False], ids=["plate", "event"])
@pytest.mark.parametrize("name", PAIRS)
def test_conjugate_pairs(name: str, plate: bool) -> None:  # noqa: FBT001
    """Pseudo-counts enter the closed form, whose maximum torch finds too."""
    prior, law, data = PAIRS[name]
    model, x = hierarchy(prior, law, plate=plate), data()
    if name == "Beta, Binomial":
        x = x.clamp(max=7)
    assert how(model, x) == {"argument": "closed form"}
    check_conjugate(model, x)


def check_conjugate(model: Model, x: Tensor) -> None:
    """Compare the closed M-step with torch's, from a start that is not the answer."""
    values = EM(model, max_steps=0).fit(x).params["argument"]
    start = {"argument": 0.5 * values + 0.5 * values.flip(0) if values.dim() == 1 else values.flip(0)}
    options: dict[str, Any] = {"starts": start, "max_steps": 1, "tol": 0}
    closed = EM(model, **options).fit(x)
    solved = EM(model, m_step={"argument": "torch"}, **options).fit(x)
    same(closed.params["argument"], solved.params["argument"], 1e-6)
    assert not torch.allclose(closed.params["argument"], start["argument"], rtol=1e-3)


@pytest.mark.laws
@pytest.mark.parametrize("name", PAIRS)
def test_the_objective_is_evidence_plus_prior(name: str) -> None:
    """Both are measured by Pyro; the prior's density is of the constrained value, as in AutoDelta."""
    prior, law, data = PAIRS[name]
    x = data().clamp(max=7) if name == "Beta, Binomial" else data()
    model = hierarchy(prior, law, plate=True)
    fit = EM(model).fit(x)
    assert fit.converged
    value = fit.params["argument"]
    log_prior = prior().log_prob(value).sum()
    given = log_evidence(model, x, params={"argument": value})  # the conditioned site is counted in
    same(tensor(fit.objective), tensor(given))
    same(tensor(fit.log_likelihood), given - log_prior)
    assert fit.objective == fit.path[-1] or abs(fit.objective - fit.path[-1]) < 1e-9 * (1 + abs(fit.objective))


NOT_CONJUGATE: dict[str, Pair] = {
    "LogNormal, scale": (lambda: dist.LogNormal(0.0, 1.0), lambda a: dist.Normal(0.0, a), lambda: 2 * real(N)),
    "Gamma, scale": (lambda: dist.Gamma(2.0, 1.0), lambda a: dist.Normal(0.0, a), lambda: 2 * real(N)),
    "LogNormal, rate": (lambda: dist.LogNormal(0.0, 1.0), lambda a: dist.Poisson(a), counts),
    "Normal, logit": (lambda: dist.Normal(0.0, 1.0), lambda a: dist.Bernoulli(logits=a), bits),
    "Gamma, 1 / mean": (lambda: dist.Gamma(2.0, 1.0), lambda a: dist.Exponential(1 / a), lambda: real(N).exp()),
    "Laplace, location": (lambda: dist.Laplace(0.0, 1.0), lambda a: dist.Normal(a, 1.0), lambda: 2 * real(N)),
    "Uniform, probability": (lambda: dist.Uniform(0.2, 0.9), lambda a: dist.Bernoulli(a), bits),
}


@pytest.mark.laws
@pytest.mark.parametrize("name", NOT_CONJUGATE)
def test_without_conjugacy(name: str) -> None:
    """Torch, and the objective still never falls."""
    prior, law, data = NOT_CONJUGATE[name]
    model = hierarchy(prior, law, plate=True)
    assert how(model, data()) == {"argument": "torch"}
    fit = EM(model).fit(data())
    assert all(b >= a - 1e-10 * (1 + abs(a)) for a, b in zip(fit.path, fit.path[1:], strict=False))
    same(tensor(fit.objective), tensor(log_evidence(model, data(), params=fit.params)))


UNBOUNDED: dict[str, Pair] = {
    "Dirichlet": (lambda: dist.Dirichlet(torch.full((C,), 0.5)), lambda a: dist.Categorical(a), lambda: kinds() % 2),
    "Beta": (lambda: dist.Beta(0.5, 0.5), lambda a: dist.Bernoulli(a), lambda: torch.ones(N)),
    "Gamma": (lambda: dist.Gamma(0.5, 1.0), lambda a: dist.Poisson(a), lambda: torch.zeros(N)),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_priors_unbounded_at_the_boundary(name: str) -> None:
    """A shape below one and data that do not outweigh it: a named outcome, at finite values."""
    prior, law, data = UNBOUNDED[name]
    fit = EM(hierarchy(prior, law, plate=True)).fit(data())
    assert fit.outcome == "prior unbounded"
    assert not fit.converged
    assert "unbounded" in str(fit)
    assert torch.isfinite(tensor(fit.objective))
    assert 'site "argument"' in " ".join(fit.notes)


# ---- beyond the pairs ------------------------------------------------------------------------------------------------


def test_all_conjugate_priors_of_one_model() -> None:
    """A prior on everything; scales and means with free precision are swept."""

    def model(x: Tensor, n: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(tensor([1.5, 2.5])))
        with pyro.plate("components", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        scale = pyro.param("scale", tensor([1.0, 2.0]), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)
            pyro.sample("n", dist.Poisson(rate[z]), obs=n)

    found = how(model, 2 * real(N), counts())
    assert found == {"weights": "closed form", "loc": "swept", "rate": "closed form", "scale": "swept"}
    fit = EM(model).fit(torch.cat([real(15) - 3, real(15, seed=1) + 3]), counts())
    assert fit.converged


def test_a_flat_prior_changes_nothing() -> None:
    """Beta(1, 1), Dirichlet(1) and a very wide Normal give the maximum of the likelihood."""

    def with_priors(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        bias = pyro.sample("bias", dist.Beta(torch.ones(2), torch.ones(2)).to_event(1))
        mixture(x, weights, bias)

    def without(x: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
        mixture(x, weights, pyro.param("bias", tensor([0.3, 0.6]), constraint=constraints.unit_interval))

    def mixture(x: Tensor, weights: Tensor, bias: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Binomial(10, bias[z]), obs=x)

    x = tensor([1.0, 2.0, 3.0, 8.0, 9.0, 7.0, 2.0])
    start = {"weights": tensor([0.5, 0.5]), "bias": tensor([0.3, 0.6])}
    got, want = (EM(model, starts=start, tol=1e-12).fit(x) for model in (with_priors, without))
    for name in start:
        same(got.params[name], want.params[name], 1e-6)
    assert got.num_steps == want.num_steps


def test_a_prior_on_a_multivariate_mean() -> None:
    """Normal priors on the coordinates of a mean under known covariances: not among the conjugate pairs, yet exact."""

    def model(x: Tensor) -> None:
        with pyro.plate("components", 2):
            loc = pyro.sample("loc", dist.Normal(tensor([1.0, -1.0]), 0.5).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.MultivariateNormal(loc[z], torch.eye(2) + 0.3), obs=x)

    x = 2 * real(N, 2)
    fit = EM(model, tol=1e-12).fit(x)
    assert fit.converged
    same(tensor(fit.objective), tensor(log_evidence(model, x, params=fit.params)))
    w = fit.posterior.marginal("z")
    P, prior = torch.linalg.inv(torch.eye(2) + 0.3), 4 * torch.eye(2)
    for k in range(2):
        left, right = w[:, k].sum() * P + prior, P @ (w[:, k] @ x) + prior @ tensor([1.0, -1.0])
        same(fit.params["loc"][k], torch.linalg.solve(left, right), 1e-6)


def test_the_prior_of_a_prior_is_replayed() -> None:
    """A location whose prior has a free mean and scale: everything above it is torch, and nothing falls."""

    def model(x: Tensor) -> None:
        centre = pyro.sample("centre", dist.Normal(0.0, 3.0))
        spread = pyro.param("spread", tensor(1.8), constraint=constraints.greater_than(0.5))
        with pyro.plate("components", 2):
            loc = pyro.sample("loc", dist.Normal(centre, spread))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    assert set(how(model, real(N)).values()) == {"torch"}
    fit = EM(model).fit(torch.cat([real(15) - 2, real(15, seed=1) + 2]))
    precision = fit.params["spread"] ** -2
    same(fit.params["centre"], precision * fit.params["loc"].sum() / (2 * precision + 1 / 9), 1e-4)
