"""Laws of precisions beside those of means, against the same algorithm by hand and evidence that is known."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import variational as by_hand
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ObjectiveError, PlanError, VariationalEM, VariationalFit
from em_pyro.variational.laws import AtLaws
from em_pyro.variational.precisions import Precision

STEPS = 30
FAR = 1e-3
START = {"weights": tensor([0.4, 0.6]), "loc": tensor([-1.0, 3.0]), "precision": tensor([1.0, 0.5])}
X = torch.cat([torch.linspace(-2, 1, 9), torch.linspace(3, 5, 7) + 0.1]).double()


def sites(x: Tensor, scaled: Callable[[Tensor], Tensor], name: str = "precision", law: Any = dist.Gamma) -> None:
    """Two normals whose means, and precisions or variances, have priors in the program."""
    weights = pyro.sample("weights", dist.Dirichlet(tensor([1.5, 0.5])))
    loc = pyro.sample("loc", dist.Normal(0.5, 3.0).expand([2]).to_event(1))
    value = pyro.sample(name, law(2.0, 1.5).expand([2]).to_event(1))
    with pyro.plate("points", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scaled(value)[z]), obs=x)


variances = partial(sites, name="variance", law=dist.InverseGamma)


def fit_of(x: Tensor = X, scaled: Callable[[Tensor], Tensor] = torch.rsqrt, **options: Any) -> VariationalFit:
    """A fit from `START`."""
    pyro.clear_param_store()
    start = {name: value.double() for name, value in START.items()}
    return VariationalEM(sites, starts=start, **options).fit(x, scaled)


def hand() -> tuple[list[float], np.ndarray, Any]:
    """The same by hand, from the posterior of EM at the start."""
    start = {name: value.double() for name, value in START.items()}
    shares = EM(sites, starts=start).posterior(X, torch.rsqrt).marginal("z").numpy()
    emission = by_hand.normal_and_precision(X.numpy(), 0.5, 3.0, 2.0, 1.5, start["precision"].numpy())
    return by_hand.mixture(emission, np.array([1.5, 0.5]), shares, STEPS)


def test_every_step_is_that_by_hand() -> None:
    """The bound with all its constants, which never falls, and the laws at the end."""
    fit, (path, shapes, (loc, tau, shape, rate)) = fit_of(tol=0, max_steps=STEPS), hand()
    assert distance(tensor(fit.path), tensor(path)) < IDENTITY
    assert min(b - a for a, b in zip(fit.path, fit.path[1:], strict=False)) > -IDENTITY
    assert fit.path[-1] > fit.path[0] + FAR
    assert distance(fit.laws["weights"].concentration, torch.as_tensor(shapes)) < IDENTITY
    assert distance(fit.laws["loc"].loc, torch.as_tensor(loc)) < IDENTITY
    assert distance(fit.laws["loc"].scale ** -2, torch.as_tensor(tau)) < IDENTITY
    assert distance(fit.laws["precision"].concentration, torch.as_tensor(shape)) < IDENTITY
    assert distance(fit.laws["precision"].rate, torch.as_tensor(rate)) < IDENTITY


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A law that forgets that the mean is uncertain, or of which the logarithm is not taken."""
    with monkeypatch.context() as patch:
        patch.setattr(AtLaws, "variance", lambda *_: torch.zeros(()))
        with pytest.raises(ObjectiveError, match="expected the bound to rise"):
            fit_of(tol=0, max_steps=STEPS)
    monkeypatch.setattr(Precision, "excess", lambda *_: None)
    assert distance(tensor(fit_of(tol=0, max_steps=2).path), tensor(hand()[0][:3])) > FAR


def test_however_the_root_is_written() -> None:
    """And whatever known factor it has: numbers twice as large have a precision of a quarter."""
    fit, other = fit_of(), fit_of(scaled=lambda tau: 1 / tau.sqrt())
    assert fit.outcome == "converged"
    assert abs(fit.elbo - other.elbo) < 1e-6
    start = {"precision": tensor(1.0).double()}
    one, two = (
        VariationalEM(known_mean, {"precision": dist.Gamma(2.0, 1.5)}, starts=start).fit(c * X, c) for c in (1.0, 2.0)
    )
    assert distance(one.laws["precision"].rate, two.laws["precision"].rate) < IDENTITY
    assert distance(two.elbo, one.elbo - len(X) * torch.log(tensor(2.0)).item()) < IDENTITY


def known_mean(x: Tensor, factor: float = 1.0, prior: bool = False) -> None:  # noqa: FBT001, FBT002
    """One normal of which the precision alone is not known."""
    positive = {"constraint": constraints.positive}
    tau = pyro.sample("tau", dist.Exponential(1.5)) if prior else pyro.param("precision", tensor(1.0), **positive)
    with pyro.plate("points", len(x)):
        pyro.sample("x", dist.Normal(0.0, factor * tau**-0.5), obs=x)


def test_without_latents_the_bound_is_the_evidence() -> None:
    """`Gamma(a) / Gamma(a + n/2)` and so on, in one step; an Exponential is a Gamma."""
    n, a, b, squares = len(X), 1.0, 1.5, float((X**2).sum())
    a, b = tensor(a).double(), tensor(b).double()
    found = (a + n / 2).lgamma() - a.lgamma() + a * b.log() - (a + n / 2) * (b + squares / 2).log()
    evidence = float(found - n / 2 * torch.log(tensor(2 * torch.pi).double()))
    given = VariationalEM(known_mean, {"precision": dist.Gamma(a, b)}).fit(X)
    assert distance(given.elbo, evidence) < 1e-9
    pyro.clear_param_store()
    assert distance(VariationalEM(known_mean).fit(X, 1.0, prior=True).elbo, evidence) < 1e-9


@pytest.mark.parametrize("scaled", [torch.sqrt, lambda variance: variance**0.5], ids=["sqrt", "power"])
def test_a_variance_has_the_law_of_one_over_a_precision(scaled: Callable[[Tensor], Tensor]) -> None:
    """The same bound, step by step, and the same posterior of other rows; a start may be accelerated or disturbed."""
    pyro.clear_param_store()
    start = {name: value.double() for name, value in START.items()}
    start["variance"] = 1 / start.pop("precision")
    fit = VariationalEM(variances, starts=start).fit(X, scaled)
    other = fit_of()
    assert fit.outcome == other.outcome == "converged"
    assert fit.num_steps == other.num_steps
    assert distance(tensor(fit.path), tensor(other.path)) < IDENTITY
    law, tau = fit.laws["variance"], other.laws["precision"]
    assert isinstance(law, torch.distributions.InverseGamma)
    assert distance(law.concentration, tau.concentration) < IDENTITY
    assert distance(law.rate, tau.rate) < IDENTITY
    assert distance(fit.params["variance"], 1 / tau.mean) < IDENTITY
    shares = fit.posterior_on(X[:4], scaled).marginal("z")
    assert distance(shares, other.posterior_on(X[:4], torch.rsqrt).marginal("z")) < IDENTITY


def test_an_inverse_gamma_of_anything_else_is_refused() -> None:
    """Of the scale itself, or of a precision."""
    for scaled in (torch.clone, torch.rsqrt):
        pyro.clear_param_store()
        with pytest.raises(PlanError, match='prior of "(variance|loc)", got a'):
            VariationalEM(variances).fit(X, scaled)


def test_other_rows_have_the_laws() -> None:
    """Of the latents, at the laws fitted."""
    fit = fit_of()
    shares = fit.posterior_on(X[:4], torch.rsqrt).marginal("z")
    assert distance(shares, fit.posterior.marginal("z")[:4]) < IDENTITY


def test_what_has_no_law_is_refused() -> None:
    """A Gamma on the scale itself; means with covariates."""
    with pytest.raises(PlanError, match=r'prior of "loc", got a Normal: the scale of site "x" is a parameter too'):
        fit_of(scaled=lambda scale: scale)

    def line(x: Tensor) -> None:
        slopes = pyro.sample("slopes", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        tau = pyro.sample("tau", dist.Gamma(tensor(2.0), 1.0))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.Normal(slopes[0] + slopes[1] * torch.arange(float(len(x))), tau**-0.5), obs=x)

    with pytest.raises(PlanError, match=r'the scale of site "x" is a parameter too'):
        VariationalEM(line).fit(X)
