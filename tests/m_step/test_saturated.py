"""Newton's method from where densities are saturated: next to no curvature asks for steps that lead nowhere."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor

from em_pyro import EM
from em_pyro.m_step.regression import irls

X = (torch.arange(60, dtype=torch.float64) * 0.7).sin() * 2
Y = ((torch.arange(60) * 7919) % 13 < 6 + 4 * (X > 0.3).long()).double()


def logistic(x: Tensor, y: Tensor) -> None:
    """A level and a slope, two parameters."""
    level, slope = pyro.param("level", torch.tensor(0.0)), pyro.param("slope", torch.tensor(0.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=level + slope * x), obs=y)


def counts(x: Tensor, y: Tensor) -> None:
    """Counts of several, by a matrix of covariates."""
    coef = pyro.param("coef", torch.zeros(2))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Binomial(3, logits=torch.stack([torch.ones_like(x), x], -1) @ coef), obs=3 - 2 * y)


def groups(x: Tensor, y: Tensor) -> None:
    """A slope for each of two groups: one is saturated, the other is not."""
    slope = pyro.param("slope", torch.zeros(2))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=slope[torch.arange(60) % 2] * x), obs=y)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], None], Callable[[float], dict[str, Tensor]]]] = {
    "slope": (logistic, lambda far: {"slope": torch.tensor(far)}),
    "minus slope": (logistic, lambda far: {"slope": torch.tensor(-far)}),
    "matrix": (counts, lambda far: {"coef": torch.tensor([0.0, far])}),
    "groups": (groups, lambda far: {"slope": torch.tensor([far, 0.0])}),
}


@pytest.mark.parametrize(
    ("name", "far"),
    [("slope", 1e2), ("slope", 1e4), ("slope", 1e5), ("minus slope", 1e4), ("matrix", 1e4), ("groups", 1e5)],
)
def test_a_step_that_has_failed_goes_across_zero(name: str, far: float) -> None:
    """From far out the maximum is found as from zero, in as few steps, and no closed form is withdrawn."""
    model, start = CASES[name]
    want = EM(model).fit(X, Y)
    fit = EM(model, starts=start(far)).fit(X, Y)
    assert fit.converged
    assert not fit.notes
    assert fit.num_steps <= want.num_steps + 1
    assert fit.log_likelihood == pytest.approx(want.log_likelihood, rel=SOLVERS)


def test_without_it_newton_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is halved twenty times, and is too long still; nor does it begin again from nearer to zero."""
    monkeypatch.setattr(irls, "ACROSS", torch.inf)
    monkeypatch.setattr(irls, "nearer", lambda heights, stuck: torch.ones(stuck.shape, dtype=torch.float64))
    fit = EM(logistic, starts=CASES["slope"][1](1e4), max_steps=3).fit(X, Y)
    assert any("withdrawn" in note for note in fit.notes)
