"""Handlers of the model's own: what they have decided, a fit does not decide again."""

from collections.abc import Callable, Mapping

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.program import program, survey

X = tensor([0.1, -0.4, 2.9, 3.3, 3.0], dtype=torch.float64)
KNOWN = {"weights": tensor([0.3, 0.7], dtype=torch.float64)}


def mixture(x: Tensor | None) -> None:
    """Mix two normals."""
    weights = pyro.param("weights", tensor([0.5, 0.5], dtype=torch.float64), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([0.0, 3.0], dtype=torch.float64))
    with pyro.plate("rows", len(X)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def within(x: Tensor | None) -> None:
    """Substitute inside."""
    with poutine.substitute(data=KNOWN):
        mixture(x)


class Given(poutine.messenger.Messenger):
    """A handler of the user's own that gives a parameter its value."""

    def _pyro_param(self, msg: Mapping[str, object]) -> None:
        if msg["name"] in KNOWN:
            msg["value"] = KNOWN[str(msg["name"])]  # type: ignore[index]


def by_own(x: Tensor | None) -> None:
    """Substitute by a handler of the user's own."""
    with Given():
        mixture(x)


def by_hand(x: Tensor | None) -> None:
    """Write the known weights."""
    loc = pyro.param("loc", tensor([0.0, 3.0], dtype=torch.float64))
    with pyro.plate("rows", len(X)):
        z = pyro.sample("z", dist.Categorical(KNOWN["weights"]))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


MODELS = {"around": poutine.substitute(mixture, data=KNOWN), "within": within, "by a handler of the user's": by_own}


@pytest.mark.parametrize("name", MODELS)
def test_a_substituted_parameter_is_known(name: str) -> None:
    """It is no parameter of the fit, and the others are fitted beside it."""
    pyro.clear_param_store()
    fit = EM(MODELS[name]).fit(X)
    pyro.clear_param_store()
    usual = EM(by_hand).fit(X)
    assert set(fit.params) == {"loc"}
    assert fit.objective == pytest.approx(usual.objective, rel=IDENTITY)
    assert torch.allclose(fit.params["loc"], usual.params["loc"], rtol=IDENTITY)
    law = fit.posterior_on(X)
    assert torch.allclose(law.marginal("z"), usual.posterior.marginal("z"), rtol=1e-8)
    assert Predictive(fit.model, num_samples=3)(None)["x"].shape == (3, len(X))


@pytest.mark.parametrize("room", [survey, program])
def test_a_fit_that_decides_again_is_noticed(room: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run gives the statement another value."""
    monkeypatch.setattr(room, "is_given", lambda msg: False)
    fails: Callable[[], None] = lambda: test_a_substituted_parameter_is_known("within")  # noqa: E731
    with pytest.raises(Exception, match=r"."):
        fails()
