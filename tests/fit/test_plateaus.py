"""Plateaus by rounding: regressions so far out that all their densities are zero or one to the last digit."""

from collections.abc import Callable
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.fit.loop
from em_pyro import EM, Fit

N = 120
X = torch.linspace(-2.0, 2.0, N, dtype=torch.float64) + 0.013
FIRST = (torch.arange(N) * 7919) % 10 < 6
UP = torch.where(FIRST, 1.0 / (1 + torch.exp(-2 * X - 0.5)), 1.0 / (1 + torch.exp(1.5 * X + 0.5)))
U = ((torch.arange(N) * 104729) % 997 + 0.5).double() / 997
Y = (U < UP).double()


def logistic(law: Callable[[Tensor], dist.TorchDistribution], far: Tensor, y: Tensor, x: Tensor) -> None:
    """A mixture of two regressions, whose slopes start at `far`."""
    weights = pyro.param("weights", torch.tensor([0.5, 0.5], dtype=x.dtype), constraint=constraints.simplex)
    level, slope = pyro.param("level", torch.zeros(2, dtype=x.dtype)), pyro.param("slope", far)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        if y.dim() == 1:
            pyro.sample("y", law(level[z] + slope[z] * x), obs=y)
        else:  # several times each, of one component
            with pyro.plate("times", len(y)):
                pyro.sample("y", law(level[z] + slope[z] * x), obs=y)


def bernoulli(eta: Tensor) -> dist.TorchDistribution:
    """Zeros and ones."""
    return dist.Bernoulli(logits=eta)


def binomial(eta: Tensor) -> dist.TorchDistribution:
    """Counts of three."""
    return dist.Binomial(3, logits=eta)


CASES = {
    "Bernoulli": (bernoulli, Y, X),
    "Binomial": (binomial, Y + 2 * Y.flip(0) * Y, X),
    "several times": (bernoulli, torch.stack([Y, Y]), X),
    "float32": (bernoulli, Y.float(), X.float()),
}


def fitted(name: str, far: tuple[float, float]) -> Fit:
    """Fit one of the cases from slopes."""
    law, y, x = CASES[name]
    pyro.clear_param_store()
    return EM(logistic).fit(law, tensor(far, dtype=x.dtype), y, x)


@cache
def free(name: str, far: float) -> Fit:
    """The same with nothing planted, made once."""
    return fitted(name, (far, -far))


@pytest.mark.parametrize(
    ("name", "far"),
    [("Bernoulli", 1e6), ("Binomial", 1e6), ("several times", 1e10), ("float32", 1e6)],
)
def test_a_fit_comes_back_from_far_out(name: str, far: float) -> None:
    """It says that it was on a plateau, if it was, and ends at a maximum, from which a fit does not move."""
    fit = free(name, far)
    assert fit.converged
    assert not any("withdrawn" in note for note in fit.notes)
    assert name == "Binomial" or any("left a plateau" in note for note in fit.notes)
    assert fit.objective > fit.path[1] + 1.0
    law, y, x = CASES[name]
    start = {key: value.clone() for key, value in fit.params.items()}
    pyro.clear_param_store()
    again = EM(logistic, starts=start).fit(law, start["slope"], y, x)
    assert again.objective == pytest.approx(fit.objective, rel=1e3 * SOLVERS if x.dtype == torch.float32 else SOLVERS)


def test_without_it_the_fit_would_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is zero to the last digit there, and no disturbance in nats finds a way; what is level is named."""
    fitted_freely = free("Bernoulli", 1e6).objective
    monkeypatch.setattr(em_pyro.fit.loop, "leave_plateau", lambda *_: None)
    fit = fitted("Bernoulli", (1e6, -1e6))
    assert fit.objective < fitted_freely - 1.0
    assert any("level from here" in note for note in fit.notes)


def test_what_keeps_leading_higher_is_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A way up that is not taken any more is named."""
    monkeypatch.setattr(em_pyro.fit.loop, "SADDLES", 0)
    fit = fitted("Bernoulli", (1e6, -1e6))
    assert fit.outcome == "unconfirmed"
    assert any("a way leads higher" in note for note in fit.notes)


@pytest.mark.parametrize(("kind", "far"), [("rows", 1e8), ("latents", 1e3)])
def test_logits_of_several_classes(kind: str, far: float) -> None:
    """A softmax regression of classes, seen or latent: Newton's method comes back to the same maximum."""
    design = torch.stack([torch.ones_like(X), X, X.square() - 1], -1)
    classes = (torch.arange(N) * 31 % 7 % 3 + (X > 0.5) * (torch.arange(N) % 3 == 1)).long() % 3

    def model(start: Tensor) -> None:
        coef = pyro.param("coef", start)
        with pyro.plate("rows", N):
            if kind == "rows":
                pyro.sample("y", dist.Categorical(logits=design @ coef.mT), obs=classes)
            else:
                z = pyro.sample("z", dist.Categorical(logits=design @ coef.mT))
                likely = 0.05 + 0.85 * torch.eye(3, dtype=torch.float64)
                pyro.sample("y", dist.Categorical(likely[z]), obs=classes)

    fits = []
    for start in (torch.zeros(3, 3, dtype=torch.float64), far * torch.eye(3, dtype=torch.float64)):
        pyro.clear_param_store()
        fits.append(EM(model).fit(start))
    assert not any("withdrawn" in note for note in fits[1].notes)
    assert fits[1].log_likelihood == pytest.approx(fits[0].log_likelihood, rel=SOLVERS)
    assert fits[1].num_steps <= fits[0].num_steps + 30
