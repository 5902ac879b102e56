"""Data drawn at fitted values: the law is the model's, and every program is drawn from."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import laid_out
from oracles.varied import PROGRAMS
from programs.drawn import fitted, mixture
from programs.registry import build
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError
from em_pyro.after.drawn.simulate import simulator
from em_pyro.program.handlers import LABELS

ROWS = 20_000
TABLE = tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)


def within(found: Tensor, want: Tensor | float, error: Tensor | float) -> None:
    """Assert that an average is the expectation, within five of its standard errors."""
    assert bool(((found - want).abs() <= 5 * torch.as_tensor(error)).all()), (found, want, error)


def average(values: Tensor, want: Tensor | float) -> None:
    """Assert the same of independent rows."""
    within(values.mean(0), want, values.std(0) / len(values) ** 0.5)


def test_a_mixture() -> None:
    """First and second moments are those of the mixture; the size is that of the arguments."""
    fit = fitted(mixture, torch.zeros(4, 2))
    assert fit.simulate()["x"].shape == (4, 2)
    (name, x), *others = fit.simulate(torch.zeros(ROWS, 2), seed=3).items()
    assert name == "x"
    assert not others
    mean = 0.3 * tensor([-1.0, 2.0]) + 0.7 * tensor([3.0, 0.5])
    average(x, mean)
    average((x - mean).prod(1), 0.3 * 0.7 * 4.0 * -1.5)
    average((x - mean).square(), 1 + 0.21 * tensor([4.0, -1.5]).square())


def steps(y: Tensor) -> None:
    """Follow two states through many sequences."""
    table = pyro.param("table", TABLE, constraint=constraints.simplex)
    z = torch.tensor(0)
    with pyro.plate("sequences", len(y)):
        for t in pyro.markov(range(y.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(table[z]))
            pyro.sample(f"y_{t}", dist.Normal(3.0 * z, 1.0), obs=y[:, t])


def hidden(y: Tensor) -> None:
    """The same as one site, of no stated length."""
    table = pyro.param("table", TABLE, constraint=constraints.simplex)
    with pyro.plate("sequences", len(y)):
        law = dist.DiscreteHMM(tensor([0.0, -torch.inf]), table.log(), dist.Normal(tensor([0.0, 3.0]), 1.0))
        pyro.sample("y", law, obs=y)


@pytest.mark.parametrize("model", [steps, hidden])
def test_a_chain(model: Callable[[Tensor], None]) -> None:
    """Means and products of neighbours are those of the chain."""
    drawn = fitted(model, torch.zeros(2, 3)).simulate(torch.zeros(ROWS, 4), seed=1)
    y = drawn["y"] if model is hidden else torch.stack([drawn[f"y_{t}"] for t in range(4)], 1)
    chance = [torch.linalg.matrix_power(TABLE, t + 1)[0, 1] for t in range(4)]
    average(y, 3 * torch.stack(chance))
    average(y[:, 1] * y[:, 2], 9 * chance[1] * 0.7)


def groups(y: Tensor) -> None:
    """Give groups an effect of their own, and all of them one."""
    with pyro.plate("groups", len(y), dim=-2):
        b = pyro.sample("b", dist.Normal(pyro.param("mu", tensor(0.5)), 2.0))
        with pyro.plate("rows", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(b, 1.0), obs=y)


def test_gaussian_latents() -> None:
    """Effects are drawn anew: rows of a group hang together."""
    y = fitted(groups, torch.randn(5, 2)).simulate(torch.zeros(ROWS, 2))["y"]
    average(y, 0.5)
    average((y - 0.5).prod(1), 4.0)
    average((y - 0.5).square(), 5.0)


def test_a_latent_of_all_rows() -> None:
    """One state of a latent outside the plates serves all rows of a draw."""

    def shared(x: Tensor) -> None:
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("step", tensor(20.0)) * z, 1.0), obs=x)

    fit = fitted(shared, torch.zeros(6))
    levels = {int(fit.simulate(seed=seed)["x"].div(20).round().unique()) for seed in range(20)}
    assert levels == {0, 1}


def test_sites_with_a_prior_stay() -> None:
    """Locations do not go back to their prior."""

    def model(x: Tensor) -> None:
        with pyro.plate("k", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 100.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    fit = EM(model, starts={"loc": tensor([-10.0, 10.0])}, max_steps=0).fit(torch.zeros(ROWS))
    x = fit.simulate()["x"]
    average(x.abs(), 10.0)
    average(x, 0.0)


@pytest.mark.parametrize("name", PROGRAMS)
def test_any_program(name: str) -> None:
    """Every program is drawn from, in the shapes and dtypes of its data; or it has weights, or a factor."""
    case = build(name)
    problem = laid_out(name).problem
    start = {n: parameter.initial for n, parameter in problem.program.parameters.items()}
    draw = simulator(problem, start, (), {}).draw
    if case.repeated is not None or name in ("row_weights", "factor_statement", "loop_ragged_and_weighted"):
        with pytest.raises(ModelError, match=r"count once|pyro\.factor"):
            draw(2)
        return
    observed = {n: s for n, s in problem.engine.full.recognition.runs[0].items() if s.role == "observed"}
    drawn = draw(2)
    assert list(drawn) == [n for n in observed if not n.endswith(LABELS)]
    for site, value in drawn.items():
        assert value.shape == observed[site].value.shape
        assert bool(value.isfinite().all())
