"""Priors that have no joint maximum with what is free in them, and latents in the place of missing values."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from oracles.refusals import refuse
from test_priors import N, real
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM


def effects(y: Tensor, spread: Callable[[], Any], law: Callable[[Any], Any]) -> None:
    """Groups whose effects have a prior with something free in it."""
    inside = spread()
    with pyro.plate("group", 3):
        b = pyro.sample("b", law(inside))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(b[torch.arange(len(y)) % 3], 1.0), obs=y)


def positive(name: str = "tau") -> Tensor:
    """A free positive number."""
    return pyro.param(name, tensor(1.0), constraint=constraints.positive)


UNBOUNDED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], str]] = {
    "Laplace": (positive, lambda t: dist.Laplace(0.0, t), "scale.*tau"),
    "LogNormal": (positive, lambda t: dist.LogNormal(0.0, t), "scale.*tau"),
    "concentration": (positive, lambda t: dist.Gamma(t, t), "concentration.*tau"),
    "Gamma, rate": (positive, lambda t: dist.Gamma(2.0, t), "rate.*tau.*to infinity"),
    "Exponential": (positive, lambda t: dist.Exponential(t), "rate.*tau.*to infinity"),
    "InverseGamma, rate": (positive, lambda t: dist.InverseGamma(2.0, t), "rate.*tau.*to zero"),
    "Beta": (positive, lambda t: dist.Beta(t, 2 * t), "concentration1.*tau"),
    "a prior with a heavy tail": (
        lambda: pyro.sample("tau", dist.HalfCauchy(1.0)), lambda t: dist.Laplace(0.0, t), "scale.*tau",
    ),
    "a prior that is dropped": (
        lambda: pyro.sample("tau", dist.LogNormal(0.0, 1.0).mask(False)),  # noqa: FBT003
        lambda t: dist.Laplace(0.0, t), "scale.*tau",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_free_scale_of_a_prior(name: str) -> None:
    """The site, its argument and the parameter are named, at planning."""
    spread, law, what = UNBOUNDED[name]
    refuse("model", f'^Site "b": expected a prior of known {what}', effects, real(N), spread, law)


NORMAL: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Tensor], Tensor]]] = {
    "scale": (positive, lambda t: dist.Normal(0.0, t), lambda t: t**2),
    "scale through exp": (
        lambda: pyro.param("tau", tensor(0.0)), lambda t: dist.Normal(0.0, t.exp()), lambda t: (2 * t).exp(),
    ),
    "a prior with a heavy tail": (
        lambda: pyro.sample("tau", dist.HalfCauchy(1.0)), lambda t: dist.Normal(0.0, t), lambda t: t**2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMAL)
def test_a_normal_latent_with_a_free_scale_is_integrated(name: str) -> None:
    """Its joint density has no bound, its marginal one has: that of correlated rows."""
    spread, law, variance = NORMAL[name]
    y = real(N)
    fit = EM(effects).fit(y, spread, law)
    group = torch.arange(N) % 3
    covariance = (group == group[:, None]) * variance(fit.params["tau"].double()) + torch.eye(N).double()
    marginal = dist.MultivariateNormal(torch.zeros(N).double(), covariance)
    same(tensor(fit.log_likelihood), marginal.log_prob(y))


def test_the_same_by_a_name() -> None:
    """The user has the last word: it is a parameter then, and refused as one."""
    spread, law, _ = NORMAL["scale"]
    refuse(
        "model",
        '^Site "b": expected a prior of known scale',
        effects,
        real(N),
        spread,
        law,
        continuous={"b": "maximise"},
    )


def test_a_free_covariance_of_a_prior() -> None:
    """Vectors are integrated likewise."""

    def model(y: Tensor) -> None:
        L = pyro.param("L", torch.eye(2).double(), constraint=constraints.lower_cholesky)
        with pyro.plate("group", 3):
            b = pyro.sample("b", dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=L))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(b[torch.arange(len(y)) % 3, 0], 1.0), obs=y)

    y = real(N)
    fit = EM(model, max_steps=5, tol=0).fit(y)
    group = torch.arange(N) % 3
    L = fit.params["L"]
    covariance = (group == group[:, None]) * (L @ L.T)[0, 0] + torch.eye(N).double()
    same(tensor(fit.objective), dist.MultivariateNormal(torch.zeros(N).double(), covariance).log_prob(y))


HELD: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a location": (lambda: pyro.param("tau", tensor(0.0)), lambda t: dist.Normal(t, 1.0)),
    "bounds": (
        lambda: pyro.param("tau", tensor(1.0), constraint=constraints.interval(0.5, 3.0)),
        lambda t: dist.Normal(0.0, t),
    ),
    "a constant": (positive, lambda t: dist.Normal(0.0, 0.1 + t)),
    "a light tail": (lambda: pyro.sample("tau", dist.LogNormal(0.0, 1.0)), lambda t: dist.Normal(0.0, t)),
    "a logarithm": (lambda: pyro.sample("tau", dist.Normal(0.0, 1.0)), lambda t: dist.Normal(0.0, t.exp())),
    "a precision": (lambda: pyro.sample("tau", dist.Gamma(2.0, 1.0)), lambda t: dist.Normal(0.0, t.rsqrt())),
    "a mask": (positive, lambda t: dist.Normal(0.0, t).mask(False)),  # noqa: FBT003
}  # fmt: skip


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_back_stays_a_maximum(name: str) -> None:
    """Bounds, or a prior of its own that falls fast enough, keep a scale apart from where there is no maximum."""
    spread, law = HELD[name]
    fit = EM(effects, max_steps=20).fit(real(N), spread, law)
    assert all(bool(torch.isfinite(value).all()) for value in fit.params.values())


def test_a_fixed_scale_is_no_free_one() -> None:
    """What the plan is told to keep does not shrink."""
    law = NORMAL["scale"][1]
    assert EM(effects, m_step={"tau": "fixed"}, continuous={"b": "maximise"}).fit(real(N), positive, law).converged


LAWS = {"Gamma": (dist.Gamma, (0.2, 1.0)), "Beta": (dist.Beta, (0.3, 1.0)), "Weibull": (dist.Weibull, (1.0, 0.3))}


@pytest.mark.parametrize("m_step", ["torch", None])
@pytest.mark.parametrize("law", LAWS)
def test_a_prior_of_a_precision_without_bound(law: str, m_step: str | None) -> None:
    """One row does not outweigh what rises at zero: torch ends where its slopes overflow, and that is no maximum."""

    def model(x: Tensor) -> None:
        t = pyro.sample("t", LAWS[law][0](*tensor(LAWS[law][1]).double()))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(tensor(0.0).double(), t**-0.5), obs=x)

    fit = EM(model, m_step={} if m_step is None else {"t": m_step}).fit(tensor([1.3]).double())
    assert fit.outcome in ("unconfirmed", "prior unbounded")
    assert any("the slope is not zero" in note or "its prior is unbounded" in note for note in fit.notes)


# ---- missing values as latents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [False, True])
def test_a_latent_inside_an_observed_value(vectors: bool) -> None:  # noqa: FBT001
    """The imputation idiom: what is missing is integrated, so that the density is that of what is seen."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2 if vectors else ()).double())
        holes = x.isnan().nonzero(as_tuple=True)
        v = pyro.sample("v", dist.Normal(0.0, 1.0).expand([len(holes[0])]).to_event(1).mask(False))  # noqa: FBT003
        full = x.index_put(holes, v.double())
        law = dist.MultivariateNormal(loc, torch.eye(2).double()) if vectors else dist.Normal(loc, 1.0)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", law, obs=full)

    x = real(6, 2) if vectors else real(6)
    x.reshape(-1)[3] = torch.nan
    fit = EM(model, tol=0, max_steps=60).fit(x)
    seen = ~x.isnan()
    same(fit.params["loc"], x.nanmean(0))
    same(tensor(fit.objective), dist.Normal(fit.params["loc"], 1.0).log_prob(torch.where(seen, x, 0.0))[seen].sum())
    refuse("model", '^Site "v": .*mask\\(False\\) inside the value of "x"', model, x, continuous={"v": "maximise"})
