"""Parameters that a module declares by decorators: it makes them when they are first asked for, inside a run."""

from collections.abc import Callable

import pyro
import pytest
import torch
from oracles.tolerances import IDENTITY
from programs.small.modules import DecoratedModule, ModuleMixture
from torch import Tensor

from em_pyro import EM
from em_pyro.program import handlers

X = torch.tensor([-1.3, 0.2, 2.9, 3.4, -0.7, 1.1, 4.0], dtype=torch.float64)


def module_of_the_run(x: Tensor) -> None:
    """Make the module anew in every run."""
    DecoratedModule()(x)


@pytest.mark.parametrize("make", [DecoratedModule, lambda: module_of_the_run])
def test_they_are_those_of_a_module_that_has_them(make: Callable[[], Callable[[Tensor], None]]) -> None:
    """Plan, steps, fit, posteriors and draws are those of the same module with parameters that it was given."""
    want = EM(ModuleMixture()).fit(X)
    pyro.clear_param_store()
    em = EM(make())
    em.plan(X)
    assert not list(pyro.get_param_store())
    em.step(X)
    pyro.clear_param_store()
    fit = EM(make()).fit(X)
    for name, value in want.params.items():
        assert torch.allclose(fit.params[name], value, atol=IDENTITY)
    assert set(pyro.get_param_store()) == set(want.params)
    assert torch.allclose(fit.posterior.marginal("z"), want.posterior.marginal("z"), atol=IDENTITY)
    assert torch.allclose(fit.posterior_on(X[:3]).marginal("z"), want.posterior_on(X[:3]).marginal("z"), atol=IDENTITY)
    assert torch.equal(fit.simulate(X)["x"], want.simulate(X)["x"])
    fit.model(X)


def test_without_unconstrained_values_they_have_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module asks for these: the check has been seen to fail."""
    monkeypatch.setattr(handlers, "handed_out", lambda value, constraint: value)
    monkeypatch.setattr("em_pyro.program.survey.handed_out", lambda value, constraint: value)
    with pytest.raises(AttributeError, match="unconstrained"):
        EM(DecoratedModule()).plan(X)
