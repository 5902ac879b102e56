"""What looks like bad input and is none; and what a caller may catch."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import coins
from oracles.refusals import CLASSES, points
from torch import Tensor, tensor

import em_pyro
from em_pyro import EM, DataError, EMError, Fit, ModelError, ObjectiveError, ParameterError, PlanError

pytestmark = pytest.mark.usefixtures("earlier_values")


@pytest.mark.parametrize("data", [torch.float32, torch.float64])
@pytest.mark.parametrize("parameters", [torch.float32, torch.float64])
def test_dtypes_are_promoted(parameters: torch.dtype, data: torch.dtype) -> None:
    """Single and double precision mix as torch mixes them; the answer has the parameter's dtype."""

    def model(x: Tensor) -> None:
        loc = pyro.param("centres", tensor([-1.0, 1.0], dtype=parameters))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5], dtype=parameters)))
            pyro.sample("x", dist.Normal(loc[z], tensor(1.0, dtype=parameters)), obs=x)

    fit = EM(model).fit(tensor([-1.0, -1.5, 2.0, 1.75, 0.5], dtype=data))
    assert fit.converged
    assert fit.params["centres"].dtype == parameters
    assert pyro.param("centres").dtype == parameters


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64])
def test_integer_counts(dtype: torch.dtype) -> None:
    """Counts may be integers, of heads and of tosses."""
    fit = EM(coins.equal_coins).fit(tensor([5, 9, 8, 4, 7], dtype=dtype), tensor(10, dtype=dtype).expand(5))
    assert abs(fit.log_likelihood + 9.7969242922216) < (1e-5 if dtype == torch.float32 else 1e-6)


def test_an_interrupt_keeps_the_best_so_far() -> None:
    """Ctrl-C during `fit` is raised again, with the values in the store, in `EM.params` and the partial `Fit`."""

    def interrupt(state: Any) -> None:
        if state.step == 3:
            raise KeyboardInterrupt

    em = EM(points, callback=interrupt, tol=1e-14)
    with pytest.raises(KeyboardInterrupt):
        em.fit(tensor([-1.0, -1.5, 2.0, 1.75, 0.5, 3.0]))
    assert isinstance(em.last, Fit)
    assert em.last.outcome == "interrupted"
    assert not em.last.converged
    assert em.last.num_steps == 3
    for name, value in em.last.params.items():
        assert torch.allclose(pyro.param(name), value, rtol=1e-14)
        assert torch.allclose(em.params[name], value, rtol=1e-14)
    pyro.clear_param_store()
    pyro.param("loc", tensor([-1.25, 1.5]))
    path = EM(points, max_steps=3, tol=0).fit(tensor([-1.0, -1.5, 2.0, 1.75, 0.5, 3.0])).path
    assert em.last.path == pytest.approx(path, rel=1e-12)


def test_every_exception_is_one_to_catch() -> None:
    """All are `EMError`s, and of the built-in class that a caller would expect."""
    for kind in (DataError, ModelError, ParameterError, PlanError):
        assert issubclass(kind, EMError)
        assert issubclass(kind, ValueError)
    assert issubclass(ObjectiveError, RuntimeError)
    assert {c.__name__ for c in CLASSES.values()} <= set(em_pyro.__all__)
