"""A ridge of small known noise, on which EM creeps far from its maximum: a few dozen plain steps are enough of that."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.fit.acceleration import quasi_newton, when


def moving_average(y: Tensor) -> None:
    """An ARMA(1, 1) written out, of which next to nothing is hidden but its innovations."""
    phi, theta = pyro.param("phi", tensor(0.3)), pyro.param("theta", tensor(0.1))
    s = pyro.param("s", tensor(1.0), constraint=constraints.positive)
    e = [pyro.sample(f"e_{t}", dist.Normal(0.0, s)) for t in range(len(y))]
    x = e[0]
    for t in range(len(y)):
        x = phi * x + e[t] + theta * e[t - 1] if t else x
        pyro.sample(f"y_{t}", dist.Normal(x, 0.01), obs=y[t])


def series(steps: int = 16) -> Tensor:
    """Its data, of 0.7 and 0.4."""
    noise = torch.randn(steps + 1, generator=torch.Generator().manual_seed(2))
    x = [noise[1]]
    for t in range(1, steps):
        x.append(0.7 * x[-1] + noise[t + 1] + 0.4 * noise[t])
    return torch.stack(x)


def test_a_ridge_is_left_after_some_plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit ends; with plain steps until a maximum seems near, as many would leave it far below."""
    y, most = series(), 110
    fit = EM(moving_average, max_steps=most).fit(y)
    assert fit.converged
    monkeypatch.setattr(when, "PATIENCE", None)
    pyro.clear_param_store()
    other = EM(moving_average, max_steps=most).fit(y)
    assert not other.converged
    assert float(other.log_likelihood) < float(fit.log_likelihood) - 0.1


def seen_through_little(start: float, noise: float) -> Fit:
    """Fit a moving average that starts on the wrong side of zero, where EM hardly moves."""

    def model(y: Tensor) -> None:
        theta, s = pyro.param("theta", tensor(start)), pyro.param("s", tensor(1.0), constraint=constraints.positive)
        e = pyro.sample("e", dist.Normal(torch.zeros(len(y) + 1), s).to_event(1))
        pyro.sample("y", dist.Normal(e[1:] + theta * e[:-1], noise).to_event(1), obs=y)

    e = (1.7 * torch.arange(1.0, 14.0) ** 2).sin()
    pyro.clear_param_store()
    return EM(model, max_steps=90).fit(e[1:] + 0.8 * e[:-1])


@pytest.mark.parametrize("noise", [0.01, 0.003])
def test_gains_that_do_not_shrink_are_no_end(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a plateau: no curvature is seen there, and ever longer steps are tried."""
    best = seen_through_little(0.1, noise)
    fit = seen_through_little(-0.2, noise)
    assert best.converged
    assert fit.converged
    assert abs(fit.log_likelihood - best.log_likelihood) < SOLVERS
    monkeypatch.setattr(quasi_newton, "STRIDE", 0.0)
    assert not seen_through_little(-0.2, noise).converged
    monkeypatch.undo()
    monkeypatch.setattr(when, "LEVEL", torch.inf)
    assert not seen_through_little(-0.2, noise).converged
