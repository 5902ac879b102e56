"""One law over all families, ways to write them and tyings: the closed form is the maximum that torch finds too."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
from oracles import m_steps
from oracles.m_steps import check_closed
from programs.tied import TIED
from programs.ties import N, real
from torch import Tensor, tensor
from torch.distributions import constraints


@pytest.mark.parametrize("name", TIED)
def test_closed_form_is_the_maximum(name: str) -> None:
    """No slope of `Q` is left, and torch arrives at the same values."""
    tied = TIED[name]
    check_closed(tied.model, *tied.data(), swept=tied.swept, views=tied.views)


def planted(x: Tensor) -> None:
    """Mix three normals with a rate beside them: every kind of closed form with one argument."""
    weights = pyro.param("weights", tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-1.0, 0.5, 2.0]))
    scale = pyro.param("scale", tensor([0.6, 1.1, 2.0]), constraint=constraints.positive)
    rates = pyro.param("rate", tensor([0.6, 1.1, 2.0]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)
        pyro.sample("wait", dist.Exponential(rates[z]), obs=x.exp())


@pytest.mark.parametrize("name", ["weights", "loc", "scale", "rate"])
def test_a_wrong_m_step_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed form one of whose entries is 0.1 % off fails the check that all of the above stands on."""
    right = m_steps.em_step

    def wrong(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        new, *rest = right(*args, **kwargs)
        return {**new, name: new[name] * tensor([1.001, 1.0, 1.0])}, *rest

    check_closed(planted, real(N))
    monkeypatch.setattr(m_steps, "em_step", wrong)
    with pytest.raises(AssertionError):
        check_closed(planted, real(N))
