"""Rows of components factored orthogonally: the same law, and digits where a step of a chain goes to zero."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import state_space
from oracles.m_steps import same
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.gaussian.precision import orthogonal

SEEN = torch.arange(14).reshape(7, 2) % 3 != 0


def level(y: Tensor) -> None:
    """A level that moves by `step`, seen by `noise`."""
    step = pyro.param("step", tensor(1.0), constraint=constraints.positive)
    noise = pyro.param("noise", tensor(1.0), constraint=constraints.positive)
    z = torch.zeros((), dtype=torch.float64)
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Normal(z, step if t else 1.0))
        pyro.sample(f"y_{t}", dist.Normal(z, noise), obs=y[t])


def vectors(x: Tensor) -> None:
    """Rows of which some coordinates are seen, of two kinds."""
    share = pyro.param("share", tensor([0.4, 0.6]), constraint=constraints.simplex)
    tril = pyro.param("tril", torch.eye(2).double(), constraint=constraints.lower_cholesky)
    loc = pyro.param("loc", tensor([[0.0, 1.0], [2.0, -1.0]]))
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Categorical(share))
        row = pyro.sample("row", dist.MultivariateNormal(loc[kind], scale_tril=tril))
        pyro.sample("x", dist.Normal(row, 0.3).mask(SEEN).to_event(1), obs=x)


@pytest.mark.parametrize("model", [level, vectors])
def test_the_same_law(model: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps and the posterior, with the precision matrix and without."""
    x = torch.linspace(-1.0, 2.0, 14).double().reshape(7, 2).sin()
    data = x[:, 0] if model is level else x
    fits = []
    for strained in (torch.inf, 0.0):
        monkeypatch.setattr(orthogonal, "STRAINED", strained)
        pyro.clear_param_store()
        fit = EM(model, max_steps=2, acceleration=None).fit(data)  # type: ignore[arg-type]
        fits.append((tensor(fit.path), fit.params, fit.posterior.marginal("z_3" if model is level else "row")))
    (path, params, law), (other_path, other_params, other_law) = fits
    same(other_path, path)
    for name, value in params.items():
        same(other_params[name], value)
    same(other_law.mean, law.mean)
    same(other_law.variance, law.variance)


def test_a_step_that_goes_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a step of a ten-millionth the evidence has its digits; by the precision matrix alone it has not."""
    y = 1 + 0.5 * torch.linspace(-1.0, 2.0, 12).double().cos()
    step, noise = 1e-7, 0.4
    start = {"step": tensor(step), "noise": tensor(noise)}
    time = torch.arange(12).double()
    covariance = 1 + step**2 * torch.minimum(time, time[:, None]) + noise**2 * torch.eye(12).double()
    truth = float(dist.MultivariateNormal(torch.zeros(12).double(), covariance).log_prob(y))
    fit = EM(level, starts=start, max_steps=1, tol=0).fit(y)
    assert abs(fit.path[0] - truth) < 1e-8
    assert abs(float(fit.params["step"]) / step - 1) < 1e-5  # of so small a step the next is hardly another
    monkeypatch.setattr(orthogonal, "STRAINED", torch.inf)
    pyro.clear_param_store()
    blurred = EM(level, starts=start, max_steps=1, tol=0, acceleration=None)
    assert abs(float(blurred.posterior(y).log_evidence) - truth) > 1e-8


GROUPS, PER = 10, 6
Y = 50 + 7 * (torch.arange(GROUPS * PER).double() * 2.7).sin()


def groups(y: Tensor) -> None:
    """Groups around a mean that is integrated, too."""
    between = pyro.param("between", tensor(1.0), constraint=constraints.positive)
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with pyro.plate("groups", GROUPS):
        b = pyro.sample("b", dist.Normal(mean, between))
    with pyro.plate("rows", GROUPS * PER):
        pyro.sample("y", dist.Normal(b.repeat_interleave(PER), 8.0), obs=y)


@pytest.mark.parametrize("between", [1e-3, 1e-6, 1e-9])
def test_effects_that_go_to_zero(between: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose weights are far apart keep their digits where the heaviest come first, and only there."""
    start, n = {"between": tensor(between).double()}, GROUPS * PER
    means = Y.reshape(GROUPS, PER).mean(1)
    inside, among = (
        (Y.reshape(GROUPS, PER) - means[:, None]).square().sum(),
        PER * (means - means.mean()).square().sum(),
    )
    values = torch.tensor([64.0, 64.0 + PER * between**2, 64.0 + PER * between**2 + 100.0 * n]).double()  # eigenvalues
    many, squares = tensor([n - GROUPS, GROUPS - 1, 1]), torch.stack([inside, among, n * means.mean().square()])
    truth = -0.5 * float((many * (2 * torch.pi * values).log() + squares / values).sum())
    assert abs(float(EM(groups, starts=start).posterior(Y).log_evidence) - truth) < IDENTITY * abs(truth)
    if between < 1e-3:
        monkeypatch.setattr(orthogonal, "_by_weight", torch.linalg.qr)
        pyro.clear_param_store()
        assert abs(float(EM(groups, starts=start).posterior(Y).log_evidence) - truth) > IDENTITY * abs(truth)


@pytest.mark.parametrize("seed", [5, 9])
def test_trends_with_no_variance(seed: int) -> None:
    """A maximum where a variance of the state is zero is reached, as it often is; rounding would let a step fall."""
    fit = EM(state_space.local_linear_trend).fit(state_space.simulate_trend(T=12, seed=seed))
    assert fit.converged
    assert min(float(fit.params[name]) for name in ("level", "slope")) < 1e-3 * float(fit.params["noise"])
