"""Regressions at the steps of a chain are one function of other rows: summed at once, they are what each one gives."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from oracles.tolerances import IDENTITY
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.several import stack
from em_pyro.fit.problem import prepare

N, T, K = 6, 5, 2
Model = Callable[[Tensor], None]


def rows(*more: int) -> Tensor:
    """Sequences."""
    return torch.randn(N, T, *more, generator=torch.Generator().manual_seed(1))


def moves() -> tuple[Tensor, Tensor]:
    """A first state and a transition."""
    first = pyro.param("first", tensor([0.4, 0.6]), constraint=constraints.simplex)
    return first, pyro.param("moves", tensor([[0.7, 0.3], [0.2, 0.8]]), constraint=constraints.simplex)


def coefficients(*more: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two lines and their scales."""
    at = torch.arange(K).reshape(K, *(1,) * len(more)).expand(K, *more)
    scale = pyro.param("scale", 0.9 + 0.3 * at, constraint=constraints.positive)
    return pyro.param("start", at - 0.5), pyro.param("slope", 0.4 * at - 0.1), scale


def autoregressive(x: Tensor) -> None:
    """Each value is a line of the one before."""
    (first, move), (start, slope, scale) = moves(), coefficients()
    with pyro.plate("sequences", len(x), dim=-1):
        z = None
        for t in pyro.markov(range(1, x.shape[1])):
            z = pyro.sample(f"z{t}", dist.Categorical(first if z is None else move[z]))
            pyro.sample(f"x{t}", dist.Normal(start[z] + slope[z] * x[:, t - 1], scale[z]), obs=x[:, t])


def ragged(x: Tensor) -> None:
    """Likewise, sequences ending early."""
    (first, move), (start, slope, scale) = moves(), coefficients()
    with pyro.plate("sequences", len(x), dim=-1):
        z = None
        for t in pyro.markov(range(1, x.shape[1])):
            with poutine.mask(mask=torch.arange(len(x)) + 1 >= t):
                z = pyro.sample(f"z{t}", dist.Categorical(first if z is None else move[z]))
                pyro.sample(f"x{t}", dist.Normal(start[z] + slope[z] * x[:, t - 1], scale[z]), obs=x[:, t])


def of_several(x: Tensor) -> None:
    """Two series with a covariate in common, as one event."""
    (first, move), (start, slope, scale) = moves(), coefficients(2)
    with pyro.plate("sequences", len(x), dim=-1):
        z = None
        for t in pyro.markov(range(1, x.shape[1])):
            z = pyro.sample(f"z{t}", dist.Categorical(first if z is None else move[z]))
            loc = start[z] + slope[z] * x[:, t - 1, :1]
            pyro.sample(f"x{t}", dist.Normal(loc, scale[z]).to_event(1), obs=x[:, t])


def with_replicates(x: Tensor) -> None:
    """Several values at every step, in a plate without latents of its own."""
    (first, move), (start, slope, scale) = moves(), coefficients()
    with pyro.plate("sequences", len(x), dim=-2):
        z = None
        for t in pyro.markov(range(1, x.shape[1])):
            z = pyro.sample(f"z{t}", dist.Categorical(first if z is None else move[z]))
            with pyro.plate(f"replicates{t}", x.shape[2], dim=-1):
                pyro.sample(f"x{t}", dist.Normal(start[z] + slope[z] * x[:, t - 1], scale[z]), obs=x[:, t])


def factorial(x: Tensor) -> None:
    """The location is a sum over two chains."""
    first, move = moves()
    loc, shift = pyro.param("start", tensor([-0.5, 0.6])), pyro.param("slope", tensor([-0.2, 0.3]))
    scale = pyro.param("scale", tensor(1.1), constraint=constraints.positive)
    with pyro.plate("sequences", len(x), dim=-1):
        z = u = None
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z{t}", dist.Categorical(first if z is None else move[z]))
            u = pyro.sample(f"u{t}", dist.Categorical(first if u is None else move[u]))
            pyro.sample(f"x{t}", dist.Normal(loc[z] + shift[u], scale), obs=x[:, t])


CASES: dict[str, tuple[Model, tuple[int, ...], int]] = {
    "autoregressive": (autoregressive, (), 1),
    "ragged": (ragged, (), 1),
    "of several": (of_several, (2,), 1),
    "with replicates": (with_replicates, (3,), T - 1),  # every step has a plate of its own
    "factorial": (factorial, (), 1),
}
"""A model, what follows in its data, and how many functions its observed sites are."""


@pytest.mark.parametrize("name", CASES)
def test_steps_together_are_steps_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence and three steps of EM, whether the steps of a chain are one function or each by itself."""
    model, more, _ = CASES[name]
    x, ends = rows(*more), []
    for alone in (False, True):
        if alone:
            monkeypatch.setattr(stack, "_signature", lambda factor: None)
        pyro.clear_param_store()
        fit = EM(model, tol=0, acceleration=None, max_steps=3).fit(x)
        ends.append((torch.as_tensor(fit.path), fit.params))
    (path, params), (path_alone, params_alone) = ends
    same(path, path_alone, IDENTITY)
    for key, value in params.items():
        same(value, params_alone[key], 1e-9)


@pytest.mark.parametrize("name", CASES)
def test_steps_are_together(name: str) -> None:
    """The observed sites are as few functions as they can be."""
    model, more, functions = CASES[name]
    x = rows(*more)
    pyro.clear_param_store()
    engine = prepare(model, (x,), {}, {}, check=False).engine
    assert sum(name.startswith("x") for name in engine.members) == functions


def test_a_covariate_of_another_step_reaches_as_far_as_it_does() -> None:
    """Digits are judged by the largest covariate of all steps, whichever stands for them."""
    x = rows()
    x[:, 2] *= 1e6
    pyro.clear_param_store()
    engine = prepare(autoregressive, (x,), {}, {}, check=False).engine
    (leader,) = (factor for name, factor in engine.leaders.items() if name.startswith("x"))
    assert leader.name == "x1"
    same(leader.form.reach.max(), x[:, 2].abs().max())  # type: ignore[attr-defined]
