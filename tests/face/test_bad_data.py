"""Bad data: a clear error that names the site and the first bad index, and nothing changed."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import coins
from oracles.refusals import X, points, refuse
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

pytestmark = pytest.mark.usefixtures("earlier_values")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_data_that_is_not_finite(bad: float) -> None:
    """The site and the first bad index."""
    x = tensor([0.0, 1.0, bad, 2.0, bad])
    refuse("data", r'^Site "x": expected finite data, got -?(nan|inf) at index \(2,\)\. ', points, x)


def test_a_table_that_is_not_finite() -> None:
    """The index has the row and the column."""

    def model(x: Tensor) -> None:
        loc = pyro.param("table", torch.arange(6.0).reshape(2, 3))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0).to_event(1), obs=x)

    x = torch.arange(12.0).reshape(4, 3)
    x[2, 1] = torch.nan
    refuse("data", r'^Site "x": .* at index \(2, 1\)\. ', model, x)


def test_a_value_that_is_masked_may_be_nan() -> None:
    """What the program leaves out is not looked at, and does not spoil the closed forms."""

    def model(x: Tensor) -> None:
        loc = pyro.param("centres", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0).mask(x == x), obs=x)

    full = EM(model).fit(tensor([-1.0, 0.5, 2.0]))
    pyro.get_param_store().__delitem__("centres")
    holes = EM(model).fit(tensor([-1.0, torch.nan, 0.5, 2.0]))
    assert torch.allclose(full.params["centres"], holes.params["centres"])


SUPPORTS: dict[str, tuple[Callable[[Tensor], Any], Tensor, str]] = {
    "Poisson": (lambda r: dist.Poisson(r), tensor([1.0, -1.0]), r"got -1\.0 at index \(1,\)"),
    "Poisson, a fraction": (lambda r: dist.Poisson(r), tensor([1.0, 2.5]), r"got 2\.5 at index \(1,\)"),
    "Exponential": (lambda r: dist.Exponential(r), tensor([1.0, 2.0, -0.5]), r"got -0\.5 at index \(2,\)"),
    "LogNormal": (lambda r: dist.LogNormal(0.0, r), tensor([1.0, 0.0]), r"got 0\.0 at index \(1,\)"),
    "Bernoulli": (lambda r: dist.Bernoulli(r / 9), tensor([1.0, 0.0, 2.0]), r"got 2\.0 at index \(2,\)"),
    "Binomial": (lambda r: dist.Binomial(5, r / 9), tensor([5.0, 6.0]), r"got 6\.0 at index \(1,\)"),
    "Geometric": (lambda r: dist.Geometric(r / 9), tensor([-2.0]), r"got -2\.0 at index \(0,\)"),
    "Categorical": (
        lambda r: dist.Categorical(torch.ones(3) * r[..., None]), tensor([0, 2, 3]), r"got 3 at index \(2,\)",
    ),
    "Multinomial": (
        lambda r: dist.Multinomial(3, torch.ones(2) * r[..., None]), tensor([[1.0, 2.0], [4.0, -1.0]]),
        r"at index \(1,\)",
    ),
    "OneHotCategorical": (
        lambda r: dist.OneHotCategorical(torch.ones(2) * r[..., None]), tensor([[1.0, 0.0], [1.0, 1.0]]),
        r"at index \(1,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SUPPORTS)
def test_data_outside_the_support(name: str) -> None:
    """The site, the support, the value and the first bad index."""
    law, data, got = SUPPORTS[name]

    def model(x: Tensor) -> None:
        rate = pyro.param("rate", tensor([0.7, 3.0]), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("y", law(rate[z]), obs=x)

    refuse("data", f'^Site "y": expected values within .*{got}', model, data)


BOUNDED: dict[str, Callable[[Tensor], Any]] = {
    "Pareto": lambda b: dist.Pareto(b, 2.0),
    "Uniform": lambda b: dist.Uniform(-b, 2.0),
}


@pytest.mark.parametrize("name", ["Pareto", "Uniform"])
@pytest.mark.parametrize("latent", [False, True])
def test_a_start_beyond_the_data(name: str, *, latent: bool) -> None:
    """Where parameters bound the support, a start is to blame, and not the data."""

    def model(x: Tensor) -> None:
        low = pyro.param("low", tensor(3.0), constraint=constraints.positive)
        scale = pyro.param("scale", tensor([1.0, 1.0]), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5]))) if latent else torch.tensor(0)
            pyro.sample("y", BOUNDED[name](low), obs=x)
            pyro.sample("x", dist.Normal(0.0, scale[z]), obs=x)

    data = tensor([4.0, 1.5, 5.0]) if name == "Pareto" else tensor([1.0, -3.5, 0.0])
    refuse("parameter", rf'^Parameters "low": .* of site "y" without {data[1]:.1f} at index \(1,\)', model, data)


def test_more_heads_than_flips_in_one_row() -> None:
    """A support that differs by row."""
    heads, flips = tensor([5.0, 7.0, 3.0]), tensor([10.0, 6.0, 9.0])
    refuse("data", r'^Site "heads": .* got 7\.0 at index \(1,\)', coins.coins, heads, flips)


def test_an_empty_plate() -> None:
    """No rows."""
    refuse("data", r'^Plate "points": expected at least one row, got none\. ', points, torch.zeros(0))


def test_an_impossible_observation() -> None:
    """A row whose posterior weights sum to zero: site and index."""

    def model(y: Tensor) -> None:
        pyro.param("loc", tensor([-1.0, 1.0]))
        weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
        tables = tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Categorical(logits=tables[z]), obs=y)

    refuse("data", r'^Site "y": .* index 3', model, tensor([0, 1, 0, 2, 0, 2]), methods="step fit")


def test_an_impossible_sequence() -> None:
    """A chain that cannot have made its observations."""

    def model(y: Tensor) -> None:
        start = pyro.param("start", tensor([0.5, 0.5]), constraint=constraints.simplex)
        tables, stay = torch.eye(2).log(), torch.eye(2).log()
        x: Any = None
        for t in pyro.markov(range(len(y))):
            x = pyro.sample(f"x_{t}", dist.Categorical(start) if x is None else dist.Categorical(logits=stay[x]))
            pyro.sample(f"y_{t}", dist.Categorical(logits=tables[x]), obs=y[t])

    refuse("data", r'^Site "y_\d": .* impossible', model, tensor([0, 0, 1]), methods="step fit")


def test_an_impossible_observation_later_is_no_start() -> None:
    """The posterior of impossible data is an error as well, not a table of NaN."""

    def model(y: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Categorical(logits=tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()[z]), obs=y)

    refuse("data", r'^Site "y": .* index 1', model, tensor([0, 2]), methods="posterior")


@pytest.mark.parametrize("coordinates", [0, 2])
def test_a_sequence_without_a_step(coordinates: int) -> None:
    """Of a DiscreteHMM: a mask that hides a whole sequence, or no observation at all."""

    def model(y: Tensor, length: Tensor) -> None:
        transition = pyro.param("transition", tensor([[0.9, 0.1], [0.2, 0.8]]), constraint=constraints.simplex)
        seen = torch.arange(y.shape[1]) < length[:, None]
        loc = pyro.param("loc", tensor([-1.25, 1.5]))
        law = dist.Normal(loc[:, None].expand(2, 2) if coordinates else loc, 1.0).to_event(1 if coordinates else 0)
        law = law.mask(seen.unsqueeze(-1))
        with pyro.plate("sequence", len(y)):
            pyro.sample("y", dist.DiscreteHMM(tensor([0.5, 0.5]).log(), transition.log(), law), obs=y)

    y = tensor([X, X])
    y = y[..., None].expand(2, 3, 2).contiguous() if coordinates else y
    assert EM(model).plan(y, tensor([3, 1])).lines
    refuse("data", r'^Site "y": expected at least one step .*, got none at index \(1,\)', model, y, tensor([3, 0]))
    refuse("data", r'^Site "y": expected data, got shape \(2, 0', model, y[:, :0], tensor([0, 0]))


@pytest.mark.parametrize("at", [0, 65_535, 65_536, 99_999])
def test_a_value_outside_its_support_in_any_slice(at: int) -> None:
    """However many rows there are, each is looked at."""

    def model(x: Tensor) -> None:
        rate = pyro.param("rate", tensor([1.0, 3.0]), constraint=constraints.positive)
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)

    x = torch.ones(100_000)
    x[at] = 0.5
    refuse("data", rf'^Site "x": expected values within .*, got 0.5 at index \({at},\)\. ', model, x)


def test_labels_from_one() -> None:
    """To leave one out would be wrong: all are one too large."""

    def model(y: Tensor) -> None:
        probs = pyro.param("table", tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]), constraint=constraints.simplex)
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("y", dist.Categorical(probs[z]), obs=y)

    y = torch.tensor([1, 3, 2, 2, 1])
    refuse("data", r'^Site "y": .* got 3 at index \(1,\)\. Count them from zero: subtract one\.', model, y)
    refuse("data", r'^Site "y": .* got 3 at index \(1,\)\. Remove it', model, y * (y > 1))
    assert EM(model).fit(y - 1).outcome == "converged"
