"""Covariates in a small unit: a coefficient of one saturates every row, and only a small probe sees that it enters."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor

from em_pyro import EM, DataError
from em_pyro.reading.gradients import elsewhere

X = tensor([-1.2, -0.7, -0.4, 0.1, 0.3, 0.8, 1.1, 1.9], dtype=torch.float64)
Y = tensor([0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)


def by_sigmoid(x: Tensor, slope: float) -> None:
    """A logistic regression, by probabilities."""
    b = pyro.param("b", tensor([0.0, slope], dtype=torch.float64))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(torch.sigmoid(b[0] + b[1] * x)), obs=Y)


def by_softmax(x: Tensor, slope: float) -> None:
    """The same, by two logits."""
    b = pyro.param("b", tensor([0.0, slope], dtype=torch.float64))
    with pyro.plate("rows", len(x)):
        eta = b[0] + b[1] * x
        pyro.sample("y", dist.Categorical(logits=torch.stack([torch.zeros_like(x), eta], -1)), obs=Y.long())


def of_one_state(x: Tensor, slope: float) -> None:
    """The same, in a mixture of one component."""
    b = pyro.param("b", tensor([[0.0, slope]], dtype=torch.float64))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(1, dtype=torch.float64)))
        pyro.sample("y", dist.Binomial(1, logits=b[z, 0] + b[z, 1] * x), obs=Y)


@pytest.mark.parametrize("unit", [1e6, 1e10])
@pytest.mark.parametrize("model", [by_sigmoid, by_softmax, of_one_state])
def test_a_covariate_in_a_small_unit(model: Callable[[Tensor, float], None], unit: float) -> None:
    """A slope of one saturates every row, wherever of its size it is looked at; the fit is that in a larger unit."""
    pyro.clear_param_store()
    usual = EM(model).fit(X, 1.0)
    pyro.clear_param_store()
    em = EM(model)
    assert em.plan(unit * X, 1.0).lines["b"].how == "Newton"
    fit = em.fit(unit * X, 1.0)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(usual.log_likelihood, abs=1e-6)


def test_without_small_widths_it_is_taken_for_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the data are accused."""
    monkeypatch.setattr(elsewhere, "WIDTHS", (1.0, 4.0, 0.1, 30.0))
    pyro.clear_param_store()
    with pytest.raises(DataError, match="impossible observation"):
        EM(by_sigmoid).fit(1e6 * X, 1.0)
