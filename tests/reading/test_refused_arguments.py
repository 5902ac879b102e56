"""What is no selection is refused, and what happens when a probe was deceived."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.evidence import log_evidence
from oracles.m_steps import how, same
from programs.probed import N, mixture, positive, real
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError, PlanError


def smaller_first(b: Tensor) -> Tensor:
    """Branch on a parameter."""
    return b if b[0] < b[1] else b.flip(0)


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "sort": lambda b: b.sort()[0],
    "clamp": lambda b: b.clamp(-0.5, 0.5),
    "relu": torch.relu,
    "branch": smaller_first,
    "maximum": lambda b: torch.stack([b.max(), b.min()]),
    "product": lambda b: b * b.flip(0),
    "sine": torch.sin,
    "exponential": torch.exp,
}


@pytest.mark.parametrize("name", REFUSED)
def test_functions_that_are_no_selection(name: str) -> None:
    """What equals a selection at some values only is left to torch, and the fit is still one of the model."""

    def of(z: Tensor) -> Any:
        return dist.Normal(REFUSED[name](pyro.param("b", tensor([-0.3, 0.4])))[z], 1.0)

    x = real(N) * 2
    assert how(mixture(of), x) == {"b": "torch"}
    with pytest.raises(PlanError, match='m_step\\["b"\\]: expected a closed form, but there is none: .'):
        EM(mixture(of), m_step={"b": "closed"}).plan(x)
    fit = EM(mixture(of), max_steps=5).fit(x)
    same(tensor(fit.log_likelihood), tensor(log_evidence(mixture(of), x, params=fit.params)))


def test_a_detached_parameter() -> None:
    """Values alone would pass; the gradient does not, and torch does not move the parameter either."""

    def of(z: Tensor) -> Any:
        return dist.Normal(pyro.param("loc", tensor([-1.0, 1.0])).detach()[z], positive("scale", 1.0, 1.5)[z])

    x = real(N) * 2
    plan = EM(mixture(of)).plan(x)
    assert not plan["loc"].closed_form
    assert "gradient" in plan["loc"].why
    fit = EM(mixture(of)).fit(x)
    same(fit.params["loc"], tensor([-1.0, 1.0]))
    assert fit.params["scale"].ne(tensor([1.0, 1.5])).all()


def test_a_parameter_that_is_detached_at_one_site() -> None:
    """Selected at one site and detached at another: no closed form."""

    def model(x: Tensor, y: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
            pyro.sample("y", dist.Normal(loc.detach()[z], 1.0), obs=y)

    assert not EM(model).plan(real(N), real(N))["loc"].closed_form


def test_a_bound_far_from_active_is_found_at_the_end() -> None:
    """`scale.clamp(min=0.1)` passes every probe; the answer is measured on the user's model, and the plan withdrawn."""

    def of(z: Tensor) -> Any:
        scale = pyro.param("scale", tensor([1e4, 1e4]), constraint=constraints.positive)
        return dist.Normal(tensor([0.0, 5.0])[z], scale.clamp(min=0.1)[z])

    x = tensor([0.0, 5.0]).repeat(10) + 0.01 * real(20)
    em = EM(mixture(of))
    assert em.plan(x)["scale"].closed_form
    fit = em.fit(x)
    assert any("withdrawn" in note and "scale" in note for note in fit.notes)
    assert "withdrawn" in str(fit)
    same(tensor(fit.log_likelihood), tensor(log_evidence(mixture(of), x, params=fit.params)))
    at_the_bound = log_evidence(mixture(of), x, params={"scale": tensor([0.05, 0.05])})
    assert abs(fit.log_likelihood - at_the_bound) < 1e-3  # nats: torch may stop beside the bound


def test_the_same_model_without_the_bound_is_not_withdrawn() -> None:
    """The check at the end has nothing to say about a plain selection."""

    def of(z: Tensor) -> Any:
        return dist.Normal(tensor([0.0, 5.0])[z], positive("scale", 1e4, 1e4)[z])

    fit = EM(mixture(of)).fit(tensor([0.0, 5.0]).repeat(10) + 0.01 * real(20))
    assert fit.notes == ()
    assert fit.plan["scale"].how == "closed form"


def test_mixture_same_family() -> None:
    """There is no assignment to enumerate: the error says to write one."""

    def model(x: Tensor) -> None:
        components = dist.Normal(pyro.param("loc", tensor([-1.0, 1.0])), 1.0)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(tensor([0.5, 0.5])), components), obs=x)

    with pytest.raises(ModelError, match='Site "x": .*MixtureSameFamily.* Write the assignment as a site'):
        EM(model).plan(real(N))
