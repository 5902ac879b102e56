"""Starts count as several only where they differ, and those that are drawn are good ones, for any program."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ParameterError
from em_pyro.fit.problem import prepare
from em_pyro.fit.starting.runs import Start, Starts, repeated
from em_pyro.fit.starting.seeding import draw_states, plus_plus

GRID = torch.special.ndtri((torch.arange(12, dtype=torch.float64) + 0.5) / 12)
THREE = torch.cat([GRID, GRID + 12, GRID + 20])
ALIKE = torch.arange(3).repeat_interleave(12)


def even(*shape: int) -> Tensor:
    """Return the uniform distribution over the last dimension."""
    return torch.ones(shape) / shape[-1]


# ---- functions that always return the same ---------------------------------------------------------------------------


def normals(x: Tensor, K: int = 3) -> None:
    """Mix Normals, all initialisers functions that return the same."""
    weights = pyro.param("weights", lambda: even(K).to(x), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: torch.linspace(-1.0, 1.0, K).to(x))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def chain(x: Tensor, K: int = 3) -> None:
    """Let the state of one sequence, without a plate, follow a chain."""
    start = pyro.param("start", lambda: even(K), constraint=constraints.simplex)
    move = pyro.param("move", lambda: even(K, K), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: torch.linspace(-1.0, 1.0, K))
    z: Any = None
    for t in pyro.markov(range(len(x))):
        z = pyro.sample(f"z_{t}", dist.Categorical(start if z is None else move[z]))
        pyro.sample(f"x_{t}", dist.Normal(loc[z], 1.0), obs=x[t])


def topics(x: Tensor, K: int = 3) -> None:
    """Let every word have a topic by the shares of its document."""
    word = (x > 6).long() + (x > 15)
    shares = pyro.param("shares", lambda: even(4, K), constraint=constraints.simplex)
    words = pyro.param("words", lambda: even(K, 3), constraint=constraints.simplex)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(shares[torch.arange(len(x)) % 4]))
        pyro.sample("word", dist.Categorical(words[z]), obs=word)


def lines(x: Tensor, K: int = 3) -> None:
    """Mix lines."""
    weights = pyro.param("weights", lambda: even(K), constraint=constraints.simplex)
    a, b = pyro.param("a", lambda: torch.linspace(-1.0, 1.0, K)), pyro.param("b", lambda: torch.zeros(K))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(a[z] + b[z] * torch.linspace(-1.0, 1.0, len(x)), 1.0), obs=x)


def classes(x: Tensor, K: int = 3) -> None:
    """Mix answers to four questions."""
    answers = (x[:, None] > tensor([-1.0, 6.0, 12.0, 20.0])).double()
    weights = pyro.param("weights", lambda: even(K), constraint=constraints.simplex)
    probs = pyro.param("probs", lambda: torch.full((K, 4), 0.5), constraint=constraints.unit_interval)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("answers", dist.Bernoulli(probs[z]).to_event(1), obs=answers)


def curve(x: Tensor) -> None:
    """Regress without latents."""
    a, b = pyro.param("a", lambda: tensor(0.0)), pyro.param("b", lambda: tensor(0.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Bernoulli(logits=a + b * torch.linspace(-1, 1, len(x))), obs=(x > 6).double())


@pytest.mark.parametrize("model", [normals, chain, topics, lines, classes, curve])
def test_a_function_that_always_returns_the_same_is_no_random_start(model: Callable[..., None]) -> None:
    """Random starts differ all the same, also where nothing is drawn by the user."""
    pyro.clear_param_store()
    fit = EM(model, starts=6, tol=0, max_steps=0, check=False).fit(THREE)
    assert len(fit.starts.different) >= 4
    assert len({round(run.objective, 6) for run in fit.starts}) > 1 or model is topics  # labels
    assert not fit.notes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("drawn", ["nothing", "weights", "loc"])
def test_the_best_is_found_whatever_is_drawn(dtype: torch.dtype, drawn: str) -> None:
    """Weights that are drawn leave the components alike, and so do locations all drawn about zero."""

    def weights() -> Tensor:
        return (dist.Dirichlet(torch.ones(3)).sample() if drawn == "weights" else even(3)).to(dtype)

    def loc() -> Tensor:
        return (1e-3 * torch.randn(3) if drawn == "loc" else torch.linspace(-1.0, 1.0, 3)).to(dtype)

    def model(x: Tensor) -> None:
        w, m = pyro.param("weights", weights, constraint=constraints.simplex), pyro.param("loc", loc)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(m[z], 1.0), obs=x)

    x = THREE.to(dtype)
    best = EM(model, starts={"loc": tensor([0.0, 12.0, 20.0], dtype=dtype)}).fit(x)
    pyro.clear_param_store()
    fit = EM(model, starts=6, screen=False).fit(x)
    assert fit.objective >= best.objective - SOLVERS * abs(best.objective)
    assert fit.starts.maxima > 1 or drawn == "loc"


def test_functions_that_draw_are_called_in_every_second_start() -> None:
    """From the seed of the start, whatever generator they use; none that is global moves, and the values are valid."""
    seen: list[Tensor] = []

    def loc() -> Tensor:
        seen.append(tensor(np.random.randn(3) + [random.gauss(0, 1) for _ in range(3)]))
        return seen[-1]

    def model(x: Tensor) -> None:
        w = pyro.param("weights", lambda: torch.randn(3).softmax(-1), constraint=constraints.simplex)
        m = pyro.param("loc", loc)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(m[z], 1.0), obs=x)

    def objectives(seed: int) -> list[float]:
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        driver = EM(model, starts=4, tol=0, max_steps=0)
        driver.plan(THREE)
        state, called = random.getstate(), len(seen)
        mine = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
        found = [run.objective for run in driver.fit(THREE).starts]
        assert random.getstate() == state
        assert np.random.get_state()[1].tolist() == mine  # type: ignore[index,union-attr]
        assert len(seen) == called + 2 + 2  # to see that two seeds differ, and starts 1 and 3
        return found

    first, again = objectives(1), objectives(2)
    assert first[1:] == again[1:]
    assert len(set(first)) == 4


def test_what_a_function_draws_must_fit() -> None:
    """Another shape than at first is an error that names the parameter, and not a start."""
    sizes = iter([3, 3, 4, 5, 6, 7])

    def model(x: Tensor) -> None:
        m = pyro.param("loc", lambda: torch.randn(next(sizes)))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(even(3)))
            pyro.sample("x", dist.Normal(m[z], 1.0), obs=x)

    pyro.clear_param_store()
    with pytest.raises(ParameterError, match='"loc": expected what its initialiser returns of shape'):
        EM(model, starts=3).fit(THREE)


def test_a_simplex_of_single_precision_sums_to_one() -> None:
    """Three thirds in float32 sum to more than one: at such a start the objective would be too high, and then fall."""
    fit = EM(normals, starts={"loc": tensor([0.0, 12.0, 20.0], dtype=torch.float32)}).fit(THREE.float())
    assert fit.converged
    assert all(later >= before for before, later in itertools.pairwise(fit.path))


# ---- starts that are one start ---------------------------------------------------------------------------------------


def test_equal_starts_count_once() -> None:
    """They are followed once, whoever made them equal, and the fit says so."""
    same, other = {"loc": tensor([-1.0, 0.0, 1.0])}, {"loc": tensor([0.0, 12.0, 20.0])}
    steps: list[int] = []
    pyro.clear_param_store()
    fit = EM(normals, starts=[same, same, same], callback=lambda state: steps.append(state.step)).fit(THREE)
    assert steps == list(range(1, fit.num_steps + 1))
    assert (fit.starts.found, fit.starts.maxima, [run.repeats for run in fit.starts]) == (1, 1, [None, 0, 0])
    assert {run.objective for run in fit.starts} == {fit.starts[0].objective}
    assert "best of 3 starts (1 different), found by 1, one maximum" in str(fit)
    assert "3 starts, only 1 of them different" in fit.notes[0]
    pyro.clear_param_store()
    fit = EM(normals, starts=[same, other, same, other]).fit(THREE)
    assert (fit.starts.best, fit.starts.found, fit.starts.maxima) == (1, 1, 2)
    assert [run.repeats for run in fit.starts] == [None, None, 0, 1]
    pyro.clear_param_store()
    fit = EM(normals, starts=4, m_step={"loc": "fixed", "weights": "fixed"}).fit(THREE)
    assert len(fit.starts.different) == 1
    assert fit.notes


def test_what_differs_by_rounding_is_one() -> None:
    """And by more is two; entries at infinity and parameters that are all zero are compared as well."""
    here = {"a": tensor([1e6, 1.0]), "b": tensor([0.0, -torch.inf]), "c": torch.zeros(0)}
    near = here | {"a": tensor([1e6 * (1 + 1e-12), 1.0])}
    far = here | {"a": tensor([1e6, 2.0])}
    small = here | {"b": tensor([0.0, 0.0])}
    assert repeated([here, near, far, small, far]) == {1: 0, 4: 2}
    assert repeated([here]) == {}


def test_maxima_are_counted_by_their_objective() -> None:
    """Of starts that converged; those within a millionth are one."""
    levels = [(-10.0, "converged"), (-10.000001, "converged"), (-12.0, "converged"), (-9.0, "degenerate")]
    levels += [(-15.0, "screened out"), (-12.0000001, "converged"), (-13.0, "step limit")]
    runs = tuple(Start(i, level, outcome, 5) for i, (level, outcome) in enumerate(levels))
    found = Starts(runs, 0, 2)
    assert found.maxima == 2
    assert str(found) == ("best of 7 starts, found by 2, 2 different maxima; 2 did not converge; 1 were screened out")
    assert Starts(runs[3:4], 0, 1).maxima == 0


# ---- states that are drawn -------------------------------------------------------------------------------------------


def unheard(x: Tensor) -> None:
    """Mix a family that nobody has registered."""
    loc = pyro.param("loc", torch.linspace(-1.0, 1.0, 3))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(even(3)))
        pyro.sample("x", dist.Logistic(loc[z], 1.0), obs=x)


def sum_of_two(x: Tensor) -> None:
    """Explain a value by two latents together."""
    a, b = pyro.param("a", tensor([0.0, 0.1])), pyro.param("b", tensor([0.0, 0.1]))
    with pyro.plate("rows", len(x)):
        i = pyro.sample("i", dist.Categorical(even(2)))
        j = pyro.sample("j", dist.Categorical(even(2)))
        pyro.sample("x", dist.Normal(a[i] + b[j], 1.0), obs=x)


@pytest.mark.parametrize("model", [normals, chain, unheard, sum_of_two])
def test_rows_that_are_alike_mostly_share_a_state(model: Callable[..., None]) -> None:
    """Also where a family is not registered, the chain has no plate, or two latents share a site."""
    pyro.clear_param_store()
    engine = prepare(model, (THREE,), {}, {}, check=False).of_all_rows.engine
    for seed in range(5):
        drawn, _ = draw_states(engine, torch.Generator().manual_seed(seed))
        every = torch.stack([drawn[name].reshape(-1) for name in drawn])
        every = every.reshape(1, -1) if model is chain else every
        groups = [every[:, ALIKE == k].unique(dim=1).shape[1] for k in range(3)]
        assert sorted(groups)[0] == 1, groups
        assert every.unique(dim=1).shape[1] > 1


def test_more_states_than_different_rows() -> None:
    """Equal seeds share their rows: no state is empty."""
    drawn = plus_plus(tensor([0.0, 1.0] * 30)[:, None], 5, torch.Generator().manual_seed(0))
    assert torch.bincount(drawn, minlength=5).min() > 0
