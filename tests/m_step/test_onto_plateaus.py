"""Steps of Newton that lead onto a plateau: higher, and no later step leads away from it."""

from collections.abc import Callable
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.fit import loop
from em_pyro.m_step.ascent import newton

X = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)
Y = tensor([0.0, 0, 0, 1, 0, 0, 1, 0, 1], dtype=torch.float64)
GUESS = 0.25

Law = Callable[[Tensor, Tensor], None]


def bernoulli(probs: Tensor, y: Tensor) -> None:
    """State the answers as a site."""
    pyro.sample("y", dist.Bernoulli(probs), obs=y)


def factor(probs: Tensor, y: Tensor) -> None:
    """State their log-likelihood."""
    pyro.factor("y", torch.where(y > 0, probs.log(), (-probs).log1p()))


def guessing(x: Tensor, y: Tensor, law: Law) -> None:
    """A curve with guessing: beyond where it is steep, all probabilities are one or that of a guess."""
    slope = pyro.param("slope", tensor(1.0, dtype=x.dtype), constraint=constraints.positive)
    place = pyro.param("place", tensor(0.0, dtype=x.dtype))
    with pyro.plate("answers", len(y)):
        law(GUESS + (1 - GUESS) * torch.sigmoid(slope * (x - place)), y)


def fitted(x: Tensor, law: Law) -> Fit:
    """Fit from a slope of one."""
    pyro.clear_param_store()
    return EM(guessing).fit(x, Y, law)


@cache
def usual(law: Law) -> Fit:
    """The fit in units of one, made once."""
    return fitted(X, law)


@cache
def highest() -> float:
    """The highest point of a fine grid."""
    slope, place = torch.meshgrid(torch.logspace(-3, 2, 400), torch.linspace(-3.0, 3.0, 601), indexing="ij")
    probs = GUESS + (1 - GUESS) * torch.sigmoid(slope.unsqueeze(-1) * (X - place.unsqueeze(-1)))
    return float(dist.Bernoulli(probs).log_prob(Y).sum(-1).max())


@pytest.mark.parametrize("law", [bernoulli, factor])
@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_no_step_ends_on_a_plateau(unit: float, law: Law) -> None:
    """The fit is as high as any point of a fine grid, in any unit."""
    fit = usual(law)
    assert fit.outcome == "converged"
    assert fit.objective >= highest() - SOLVERS
    pyro.clear_param_store()
    other = EM(guessing, starts={"slope": tensor(1 / unit)}).fit(unit * X, Y, law)
    assert other.objective == pytest.approx(fit.objective, rel=SOLVERS)


def test_without_it_the_fit_would_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first long step is higher than the start, and without any slope."""
    high = usual(bernoulli).objective
    monkeypatch.setattr(newton, "STRANDED", -1.0)
    monkeypatch.setattr(loop, "leave_plateau", lambda *_: None)
    fit = fitted(X, bernoulli)
    assert fit.outcome == "unconfirmed"
    assert fit.objective < high - 1.0
