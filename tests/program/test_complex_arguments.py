"""Complex covariates: what is made of them is named; torch has no density of some, and drops a part of others."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError

X = torch.linspace(-1.0, 2.0, 12).double()
WAVE = X + 0.5j

LAWS: dict[str, tuple[Callable[[Tensor], Any], Tensor, str]] = {
    "a location": (lambda at: dist.Normal(at, 1.0), X, "loc of Normal"),
    "of times": (lambda at: dist.Exponential(at.exp()), X.exp(), "rate of Exponential"),
    "behind a transform": (lambda at: dist.LogNormal(at, 1.0), X.exp(), "loc of LogNormal"),
    "a rate": (lambda at: dist.Poisson(at.exp()), X.exp().round(), "rate of Poisson"),
    "logits": (lambda at: dist.Bernoulli(logits=at), (X > 0).double(), "logits of Bernoulli"),
    "of an event": (lambda at: dist.Normal(at.unsqueeze(-1), 1.0).to_event(1), X.unsqueeze(-1), "loc of Normal"),
}


@pytest.mark.parametrize("name", LAWS)
def test_the_argument_is_named(name: str) -> None:
    """With site and distribution, also where one state alone has it."""
    law, data, named = LAWS[name]

    def model(x: Tensor) -> None:
        slope = pyro.param("slope", tensor(0.5), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", law(slope * z * WAVE), obs=x)

    with pytest.raises(
        DataError, match=rf'^Site "x": expected {named} to be real, got torch\.complex128\. Take \.real'
    ):
        EM(model).fit(data)


def test_a_factor_is_real() -> None:
    """And a real part is as good as any number."""

    def model(x: Tensor, term: Tensor) -> None:
        loc = pyro.param("loc", tensor(0.5))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc * WAVE.real, 1.0), obs=x)
            pyro.factor("f", term)

    with pytest.raises(DataError, match=r'^Site "f": expected log_factor of Unit to be real'):
        EM(model).fit(X, WAVE)
    assert EM(model).fit(X, WAVE.real).outcome == "converged"
