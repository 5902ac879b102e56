"""Starts of a larger program from a smaller fit: as likely where nothing is moved apart, and on either side of it."""

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import discrete_hmm, factor_analysis, gaussian_mixture, hidden_markov, latent_classes
from oracles.agreement import close
from programs.zoo import simulated
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.fit.problem import Problem, prepare
from em_pyro.program.named import batched
from em_pyro.selection.split import growth, split_starts

CASES: dict[str, tuple[Any, str, int]] = {
    "full": (gaussian_mixture.full, "gaussian-full", 2),
    "tied": (gaussian_mixture.tied, "gaussian-tied", 2),
    "diagonal": (gaussian_mixture.diagonal, "gaussian-diagonal", 2),
    "full_covariance": (gaussian_mixture.full_covariance, "gaussian-full-covariance", 2),
    "latent classes": (latent_classes.latent_classes, "latent-classes", 2),
    "chain": (hidden_markov.gaussian, "hmm-gaussian", 2),
    "DiscreteHMM": (discrete_hmm.gaussian, "discrete-hmm-gaussian", 2),
}
STATES = {"chain": "S", "DiscreteHMM": "S"}


def data(zoo: str) -> tuple[Any, ...]:
    """Simulate arguments, without the number of states."""
    _, args = simulated(zoo)
    return args[:2] if zoo.startswith(("hmm", "discrete")) else args[:1]


def fitted(name: str, K: int) -> Fit:
    """Fit a model of so many states, some steps."""
    model, zoo, _ = CASES[name]
    args = data(zoo)
    with pyro.get_param_store().scope():
        return EM(partial(model, **{STATES.get(name, "K"): K}), max_steps=5).fit(*args)


def prepared(name: str, K: int) -> Problem:
    """Prepare one."""
    model, zoo, _ = CASES[name]
    args = data(zoo)
    with pyro.get_param_store().scope():
        return prepare(partial(model, **{STATES.get(name, "K"): K}), args, {}, {}, check=True)


def height(problem: Problem, start: dict[str, Tensor]) -> float:
    """Return the objective at a start."""
    return problem.objective(batched(start))


@pytest.mark.parametrize("more", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_split_state_changes_no_likelihood(name: str, more: int) -> None:
    """Copies that share out the weight of one state; moved apart they are others, two for every state."""
    small = fitted(name, 2)
    large = prepared(name, 2 + more)
    nested, apart = split_starts(small.params, large, seed=0)
    assert len(nested) == 1
    assert len(apart) == 4
    close(height(large, nested[0]), small.objective)
    for start in apart:
        value = height(large, start)
        assert value == value
        assert abs(value - small.objective) > 1e-3


def test_another_factor_begins_at_zero() -> None:
    """Loadings of zero leave the covariance as it is; where a copy would not."""
    (x,) = data("factors")
    with pyro.get_param_store().scope():
        small = EM(partial(factor_analysis.factor_analysis, k=1), max_steps=20).fit(x)
    with pyro.get_param_store().scope():
        large = prepare(partial(factor_analysis.factor_analysis, k=2), (x,), {}, {}, check=True)
    nested, _ = split_starts(small.params, large, seed=0)
    heights = [height(large, start) for start in nested]
    assert any(abs(value - small.objective) < 1e-6 for value in heights)


def test_what_grows() -> None:
    """Axes that differ, all by the same step up; none, two ways or a step down is no growth."""

    def parameters(**shapes: tuple[int, ...]) -> Any:
        def model() -> None:
            total = sum(pyro.param(n, torch.ones(s), constraint=constraints.positive).sum() for n, s in shapes.items())
            with pyro.plate("rows", 3):
                pyro.sample("x", dist.Normal(total, 1.0), obs=torch.zeros(3))

        with pyro.get_param_store().scope():
            return prepare(model, (), {}, {}, check=False).program.parameters

    def shapes(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
        return {name: torch.ones(shape) for name, shape in shapes.items()}

    small = shapes(a=(2,), b=(2, 2, 2), c=(2, 3))
    found = growth(small, parameters(a=(3,), b=(3, 2, 2), c=(3, 3)))
    assert found is not None
    assert (found.before, found.after) == (2, 3)
    assert found.axes == {"a": (0,), "b": (0,), "c": (0,)}
    assert growth(small, parameters(a=(3,), b=(4, 2, 2), c=(3, 3))) is None
    assert growth(small, parameters(a=(2,), b=(2, 2, 2), c=(2, 3))) is None
    assert growth(small, parameters(a=(1,), b=(1, 2, 2), c=(1, 3))) is None
    assert growth(small, parameters(a=(3,), b=(3, 2), c=(3, 3))) is None


def test_copies_that_a_constraint_does_not_allow_are_left_out() -> None:
    """Equal entries are not in order."""

    def model(x: Tensor, K: int) -> None:
        loc = pyro.param("loc", torch.arange(K).double(), constraint=dist.constraints.ordered_vector)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.full((K,), 1 / K)))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    x = tensor([0.0, 0.5, 2.0, 2.5])
    with pyro.get_param_store().scope():
        large = prepare(model, (x, 3), {}, {}, check=True)
    nested, apart = split_starts({"loc": tensor([0.0, 2.0])}, large, seed=0)
    assert nested == []
    assert apart == []


def test_shares_of_single_precision_add_up_to_one() -> None:
    """What is rounded would have more likelihood than there is, so that the first step seemed to fall."""
    torch.set_default_dtype(torch.float32)
    (answers,) = data("latent-classes")
    with pyro.get_param_store().scope():
        small = EM(partial(latent_classes.latent_classes, K=2), max_steps=5).fit(answers)
    assert small.params["weights"].dtype == torch.float32
    nested, apart = split_starts(small.params, prepared("latent classes", 3), seed=0)
    for start in (*nested, *apart):
        for value in start.values():
            close(value.sum(-1), torch.ones(value.shape[:-1], dtype=torch.float64))
