"""Data drawn at fitted values: the law is the model's, and what is not data stays as it is."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from programs.registry import NAMES, build
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, Fit, ModelError, ParameterError
from em_pyro.after.drawn.simulate import simulator
from em_pyro.fit.problem import prepare
from em_pyro.program.handlers import LABELS

ROWS = 20_000
TABLE = tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)


def fitted(model: Callable[..., None], *args: object) -> Fit:
    """Stay at the start: its values are the law."""
    return EM(model, max_steps=0).fit(*args)


def within(found: Tensor, want: Tensor | float, error: Tensor | float) -> None:
    """Assert that an average is the expectation, within five of its standard errors."""
    assert bool(((found - want).abs() <= 5 * torch.as_tensor(error)).all()), (found, want, error)


def average(values: Tensor, want: Tensor | float) -> None:
    """Assert the same of independent rows."""
    within(values.mean(0), want, values.std(0) / len(values) ** 0.5)


def mixture(x: Tensor) -> None:
    """Mix two bivariate normals."""
    weights = pyro.param("weights", tensor([0.3, 0.7]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([[-1.0, 2.0], [3.0, 0.5]]))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0).to_event(1), obs=x)


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


def labelled(x: Tensor, label: Tensor, known: Tensor) -> None:
    """Know the class of some rows."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])), obs=label, obs_mask=known)  # type: ignore[arg-type]
        pyro.sample("x", dist.Normal(pyro.param("step", tensor(50.0)) * z, 1.0), obs=x)


def test_labels_stay() -> None:
    """Rows of a known class are drawn from it, the others from both."""
    label, known = torch.tensor([1, 0]).repeat(200), torch.arange(400) < 200
    x = fitted(labelled, torch.zeros(400), label, known).simulate()
    assert list(x) == ["x"]
    level = x["x"].div(50).round().long()
    assert torch.equal(level[:200], label[:200])
    assert set(level[200:].tolist()) == {0, 1}
    assert not torch.equal(level[200:], label[200:])


def masked(x: Tensor, seen: Tensor) -> None:
    """Leave some coordinates out."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        loc = pyro.param("loc", tensor([[5.0, 5.0], [9.0, 9.0]]))
        pyro.sample("x", dist.Normal(loc[z], 1.0).mask(seen).to_event(1), obs=x)


def hidden_in_part(x: Tensor, seen: Tensor) -> None:
    """Leave some steps of a chain out."""
    with pyro.plate("sequences", len(x)):
        loc = pyro.param("loc", tensor([5.0, 9.0]))
        law = dist.DiscreteHMM(torch.zeros(2), TABLE.log(), dist.Normal(loc, 1.0).mask(seen.unsqueeze(-1)))
        pyro.sample("x", law, obs=x)


@pytest.mark.parametrize("model", [masked, hidden_in_part])
def test_what_is_masked_stays(model: Callable[[Tensor, Tensor], None]) -> None:
    """Entries that nobody sees keep what stands there; the others are drawn."""
    seen = torch.arange(8).reshape(4, 2) % 3 > 0
    x = torch.where(seen, 6.0, -99.0)
    drawn = fitted(model, x, seen).simulate(seed=5)["x"]
    assert bool((drawn[~seen] == -99.0).all())
    assert bool((drawn[seen] != 6.0).all())
    assert bool((drawn[seen] > -50.0).all())


def test_dtypes_are_those_of_the_data() -> None:
    """Counts stay integers, truth values stay truth values; what is no integer is not rounded."""

    def model(n: Tensor, b: Tensor, y: Tensor) -> None:
        with pyro.plate("rows", len(n)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("n", dist.Poisson(pyro.param("rate", tensor([1.0, 9.0]))[z]), obs=n)
            pyro.sample("b", dist.Bernoulli(tensor([0.2, 0.8])[z]), obs=b)
            pyro.sample("y", dist.Normal(z.double(), 1.0), obs=y)

    args = torch.tensor([1, 8, 0, 12]), tensor([True, False, True, False]), torch.tensor([0, 1, 1, 0])
    drawn = fitted(model, *args).simulate()
    assert [drawn[name].dtype for name in ("n", "b", "y")] == [torch.int64, torch.bool, torch.float64]
    fit = fitted(mixture, torch.zeros(4, 2, dtype=torch.float32))
    assert fit.simulate()["x"].dtype == torch.float32


def test_seeds() -> None:
    """A seed is a draw, and no global generator moves."""
    fit = fitted(mixture, torch.zeros(4, 2))
    before = torch.get_rng_state()
    one, same, other = (fit.simulate(seed=seed)["x"] for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    with pytest.raises(ParameterError, match="seed to be an integer, got 0.5"):
        fit.simulate(seed=0.5)  # type: ignore[arg-type]


def test_the_store_does_not_matter() -> None:
    """Other values in it are neither used nor touched."""
    fit = fitted(mixture, torch.zeros(4, 2))
    want = fit.simulate()["x"]
    pyro.clear_param_store()
    pyro.param("loc", torch.full((2, 2), 1e6))
    close(fit.simulate()["x"], want)
    assert list(pyro.get_param_store().keys()) == ["loc"]


def weighted(x: Tensor, count: Tensor) -> None:
    """Count rows more than once."""
    with pyro.plate("rows", len(x)), poutine.scale(scale=count):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(pyro.param("loc", tensor([-1.0, 1.0]))[z], 1.0), obs=x)


def test_row_weights_are_refused() -> None:
    """A table of counts is no list of rows; weights of one are."""
    fit = fitted(weighted, torch.zeros(3), tensor([1.0, 4.0, 2.0]))
    with pytest.raises(ModelError, match=r'Site "x": .*weight 4 \(poutine.scale, index 1\).*repeat_interleave'):
        fit.simulate()
    assert fit.simulate(torch.zeros(7), torch.ones(7))["x"].shape == (7,)


def test_factors_are_refused() -> None:
    """A term for each row has no draws; a penalty of the parameters is no data."""

    def model(x: Tensor, *, by_row: bool) -> None:
        scale = pyro.param("scale", tensor(1.5), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(z.double(), scale), obs=x)
            if by_row:
                pyro.factor("term", 0.1 * z)
        if not by_row:
            pyro.factor("penalty", -scale)

    assert list(EM(model, max_steps=0).fit(torch.zeros(3), by_row=False).simulate()) == ["x"]
    with pytest.raises(ModelError, match='Site "term": .*pyro.factor'):
        EM(model, max_steps=0).fit(torch.zeros(3), by_row=True).simulate()


def optional(x: Tensor | None, rows: int) -> None:
    """Draw the data where none are given, as Pyro's models may."""
    loc = pyro.param("loc", tensor([-1.0, 1.0]))
    with pyro.plate("rows", rows):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def test_data_may_be_left_out() -> None:
    """With no data passed, rows are drawn as with any."""
    fit = fitted(optional, torch.zeros(5), 5)
    assert fit.simulate(None, 9)["x"].shape == (9,)
    close(fit.simulate(None, 9)["x"], fit.simulate(torch.zeros(9), 9)["x"])


def own(x: Tensor | None, rows: int) -> None:
    """Give every row an effect of its own."""
    effect = pyro.param("effect", lambda: torch.zeros(rows))
    with pyro.plate("rows", rows) as row:
        z = pyro.sample("z", dist.Bernoulli(tensor(0.5)))
        pyro.sample("x", dist.Normal(effect[row] + z, 1.0), obs=x)


def test_what_does_not_fit_is_named() -> None:
    """Other arguments are held to what new rows are held to, with data or without."""
    fit = fitted(own, torch.zeros(6), 6)
    for x, rows in ((torch.zeros(4), 4), (None, 4), (None, 9)):
        with pytest.raises(ParameterError, match='Parameter "effect": expected rows'):
            fit.simulate(x, rows)
    with pytest.raises(DataError, match='Plate "rows": expected at least one row'):
        fitted(mixture, torch.zeros(4, 2)).simulate(torch.zeros(0, 2))
    with pytest.raises(ParameterError, match='Parameter "loc": expected rows'):
        fitted(mixture, torch.zeros(4, 2)).simulate(torch.zeros(3, 5))


def test_changed_data() -> None:
    """The arguments of the fit are those of the fit, or none."""
    x = torch.zeros(4, 2)
    fit = fitted(mixture, x)
    x[0] = 7.0
    with pytest.raises(DataError, match=r"since then argument 0 has changed|since then .* has changed"):
        fit.simulate()


@pytest.mark.parametrize("name", NAMES)
def test_any_program(name: str) -> None:
    """Every program is drawn from, in the shapes and dtypes of its data; or it has weights, or a factor."""
    case = build(name)
    problem = prepare(case.model, case.args, {}, {}, check=False)
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
