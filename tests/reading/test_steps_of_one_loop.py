"""Steps of a loop are integrated together: the first of them, too, where its spread is known.

The oracle is the multivariate normal law of all that is observed, written down as a matrix.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.reading.latents import which

T, WIDE, NOISE = 8, 2.0, 0.4
Y = (torch.arange(T, dtype=torch.float64) * 1.3).sin().cumsum(0) + 1.0


def positive(name: str) -> Tensor:
    """Declare a spread."""
    return pyro.param(name, torch.tensor(0.7, dtype=torch.float64), constraint=constraints.positive)


def innovations(y: Tensor) -> None:
    """A random walk, written by what is new in each step."""
    spread, level = positive("spread"), torch.zeros(()).to(y)
    for t in range(len(y)):
        e = pyro.sample(f"e_{t}", dist.Normal(torch.zeros(()).to(y), 1.0))
        level = level + (spread if t else WIDE) * e
        pyro.sample(f"y_{t}", dist.Normal(level, NOISE), obs=y[t])


def scaled(y: Tensor) -> None:
    """The same, where what is new has its own spread."""
    spread, level = positive("spread"), torch.zeros(()).to(y)
    for t in range(len(y)):
        level = level + pyro.sample(f"e_{t}", dist.Normal(torch.zeros(()).to(y), spread if t else WIDE))
        pyro.sample(f"y_{t}", dist.Normal(level, NOISE), obs=y[t])


def vectors(y: Tensor) -> None:
    """The same of two numbers, moved in steps, with a state that has the name of what is new."""
    spread, x = positive("spread"), pyro.sample("x_0", dist.Normal(torch.zeros(1).to(y), WIDE).to_event(1))
    for t in range(len(y)):
        if t:
            x = x + spread * pyro.sample(f"x_{t}", dist.Normal(torch.zeros(1).to(y), 1.0).to_event(1))
        pyro.sample(f"y_{t}", dist.Normal(x, NOISE).to_event(1), obs=y[t : t + 1])


MODELS: dict[str, Callable[[Tensor], None]] = {"innovations": innovations, "scaled": scaled, "vectors": vectors}


def law(spread: Tensor) -> dist.MultivariateNormal:
    """Of all steps."""
    sums = torch.ones(T, T).double().tril()
    own = torch.cat([torch.tensor([WIDE**2]).double(), spread**2 * torch.ones(T - 1).double()])
    covariance = sums @ torch.diag(own) @ sums.mT + NOISE**2 * torch.eye(T)
    return dist.MultivariateNormal(torch.zeros(T).double(), covariance)


@pytest.mark.parametrize("name", MODELS)
def test_the_first_step_is_integrated_too(name: str) -> None:
    """And is another one in another series."""
    fit = EM(MODELS[name], tol=1e-11).fit(Y)
    spread = fit.params["spread"].clone().requires_grad_()
    height = law(spread).log_prob(Y)
    assert list(fit.params) == ["spread"]
    assert fit.log_likelihood == pytest.approx(height.item(), rel=IDENTITY)
    assert abs(torch.autograd.grad(height, spread)[0].item()) < SOLVERS**0.5
    other = -3.0 - Y.flip(0)
    assert fit.posterior_on(other).log_evidence == pytest.approx(law(spread).log_prob(other).item(), rel=IDENTITY)


def test_a_step_can_be_maximised_all_the_same() -> None:
    """The user has the last word."""
    assert "e_0" in EM(innovations, continuous={"e_0": "maximise"}).plan(Y).lines


def coefficients(y: Tensor) -> None:
    """An intercept with a prior of its own, and two slopes that share a spread: no loop."""
    spread = positive("spread")
    b = [pyro.sample(f"b{k}", dist.Normal(torch.zeros(()).to(y), spread if k else 5.0)) for k in range(3)]
    t = torch.linspace(-1.0, 1.0, len(y)).to(y)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(b[0] + b[1] * t + b[2] * t**2, NOISE), obs=y)


def test_a_few_numbered_names_are_no_loop() -> None:
    """What has a known spread stays a parameter with a prior."""
    assert "b0" in EM(coefficients).plan(Y).lines


def test_without_the_rule_the_first_step_is_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is checked."""
    monkeypatch.setattr(which, "_add_other_steps", lambda *args: None)
    assert "e_0" in EM(innovations).plan(Y).lines
