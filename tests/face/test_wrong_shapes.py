"""Data that do not have the shape of their plates: the error says what gives it them, and that helps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.refusals import refuse
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

X = [-0.3, 0.4, 4.2, 3.9, 0.1]


def numbers(x: Tensor, rows: int = 0) -> None:
    """A number in every row, of two kinds."""
    loc = pyro.param("loc", tensor([0.0, 4.0]))
    with pyro.plate("rows", rows or len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def pairs(x: Tensor, event: int = 0) -> None:
    """Two numbers in every row."""
    loc = pyro.param("centres", tensor([[0.0, 0.0], [4.0, 4.0]]))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], 1.0).to_event(event), obs=x)


def words(y: Tensor) -> None:
    """One of three words in every row."""
    probs = pyro.param("probs", tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]), constraint=constraints.simplex)
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("y", dist.Categorical(probs[z]), obs=y)


@pytest.mark.parametrize("of", [tensor, np.array])
def test_a_column(of: Callable[[Any], Any]) -> None:
    """A column of a table is no row of numbers: without its last dimension it fits."""
    x = of(X).reshape((5, 1))
    refuse("model", r'got \(5, 1\) within plates "rows" \(5\)\. Pass it without the last dimension: x', numbers, x)
    assert EM(numbers).fit(x[..., 0]).outcome == "converged"


def test_indicators() -> None:
    """Rows of indicators of a category, and rows of several numbers, differ by what the distribution takes."""
    y = torch.tensor([0, 2, 1, 1, 2])
    refuse("model", r"got \(5, 3\).*Pass one value for each row \(of a row of ind.*argmax", words, torch.eye(3)[y])
    assert EM(words).fit(torch.eye(3)[y].argmax(-1)).outcome == "converged"
    refuse(
        "model", r"got \(5, 3\).*one value for each row; .*has \(3\) of them.*to_event\(1\)", numbers, torch.ones(5, 3)
    )


def test_a_row_of_several_numbers() -> None:
    """Pyro's own error names the site; ours says what to call, and that is right."""
    x = tensor(X).unsqueeze(-1) + tensor([0.0, 0.2])
    refuse("model", r'^Site "x": .* got size 2 in dimension -1, .*"rows" \(5\)\. Call \.to_event\(1\)', pairs, x)
    assert EM(pairs).fit(x, 1).outcome == "converged"


def test_a_plate_of_another_size() -> None:
    """The sizes that would agree."""
    refuse("model", r'Give plate "rows" the size 5, or pass 6 rows', numbers, tensor(X), 6)
    assert EM(numbers).fit(tensor(X), 5).outcome == "converged"


def test_more_states_than_entries() -> None:
    """What is right for the first state alone is found out where all are tried, and the states are listed."""

    def model(x: Tensor, weights: Tensor) -> None:
        loc = pyro.param("table", tensor([0.0, 4.0]))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    remedy = r'^The model: .* "z" \(3\), got IndexError: .* an entry for each of its states'
    refuse("model", remedy, model, tensor(X), torch.ones(3) / 3)
    assert EM(model).fit(tensor(X), torch.ones(2) / 2).outcome == "converged"


def test_a_latent_as_a_number() -> None:
    """`.item()` has one value, and a latent has all of them; an error at every state is the user's own."""

    def model(x: Tensor) -> None:
        loc = pyro.param("table", tensor([0.0, 4.0]))
        for i in range(2):
            z = pyro.sample(f"z_{i}", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample(f"x_{i}", dist.Normal(loc[int(z.item())], 1.0), obs=x[i])

    refuse("model", r"^The model: .*all states of its latents at once.*neither \.item\(\)", model, tensor(X))


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (np.array(["a", "b", "a"]), r"pandas\.factorize"),
        (np.array(["2020-01-01", "2020-01-05"], "datetime64[s]"), r"since the first"),
    ],
)
def test_no_numbers(x: Any, remedy: str) -> None:
    """Words and times are made numbers in their own ways."""
    refuse("data", rf'^Site "x": expected a tensor.*Pass .*{remedy}', numbers, x)
