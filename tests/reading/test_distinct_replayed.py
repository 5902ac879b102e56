"""Equal rows are merged where the model itself computes a site, too: densities at several points tell them."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.reading import distinct

COUNTS = torch.arange(300).remainder(7.0) + 1
PLAIN: dict[str, Any] = {"tol": 0.0, "max_steps": 6, "acceleration": None}

Reward = Callable[[Tensor, Tensor, Tensor], Tensor]


def truncated(reward: Reward) -> Callable[[Tensor], None]:
    """Two Poisson rates, and a factor of each row that no family has."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
        rate = pyro.param("rate", tensor([1.0, 4.0]), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)
            pyro.factor("reward", reward(x, z, rate))

    return model


def never_zero(x: Tensor, z: Tensor, rate: Tensor) -> Tensor:
    """Leave zero out."""
    return -torch.log(-torch.expm1(-rate[z]))


MERGED: dict[str, Reward] = {
    "of the state": never_zero,
    "of the row": lambda x, z, rate: -0.1 * rate[z].sqrt() * x,
    "of many a row": lambda x, z, rate: torch.where(x > 3, -rate[z], 0.0),
}


@pytest.mark.parametrize("name", MERGED)
def test_merged_is_the_whole(name: str) -> None:
    """The path is that of all rows; so are the posterior and what the fit says of the rows."""
    model, fits = truncated(MERGED[name]), []
    for collapse in (True, False):
        pyro.clear_param_store()
        fits.append(EM(model, collapse=collapse, **PLAIN).fit(COUNTS))
    merged, whole = fits
    assert 'plate "rows": 7 distinct rows of 300' in str(merged.plan)
    assert distance(tensor(merged.path), tensor(whole.path)) < IDENTITY
    assert merged.posterior.marginal("z").shape == (300, 2)
    assert distance(merged.posterior.marginal("z"), whole.posterior.marginal("z")) < IDENTITY


def test_weights_of_rows_count() -> None:
    """Row weights and counts are multiplied."""
    weights, ends = 1.0 + torch.arange(300).remainder(2), []

    def model(x: Tensor, weights: Tensor) -> None:
        with pyro.poutine.scale(scale=weights):
            truncated(never_zero)(x)

    for collapse in (True, False):
        pyro.clear_param_store()
        ends.append(EM(model, collapse=collapse, **PLAIN).fit(COUNTS, weights))
    assert "14 distinct rows of 300" in str(ends[0].plan)
    assert distance(tensor(ends[0].path), tensor(ends[1].path)) < IDENTITY


def test_rows_that_only_the_factor_tells_apart() -> None:
    """A covariate that enters nothing else makes kinds of its own."""
    dose, ends = torch.arange(300).div(7, rounding_mode="floor").remainder(2.0), []

    def model(x: Tensor, dose: Tensor) -> None:
        truncated(lambda x, z, rate: -rate[z] * dose)(x)

    for collapse in (True, False):
        pyro.clear_param_store()
        ends.append(EM(model, collapse=collapse, **PLAIN).fit(COUNTS, dose))
    assert "14 distinct rows of 300" in str(ends[0].plan)
    assert distance(tensor(ends[0].path), tensor(ends[1].path)) < IDENTITY


def by_place(x: Tensor, z: Tensor, rate: Tensor) -> Tensor:
    """Tell apart rows at even places from others."""
    return -rate[z] * torch.arange(len(x)).remainder(2)


def standing(x: Tensor) -> None:
    """Observe columns: rows are the second dimension of the data."""
    truncated(never_zero)(x[0])


def of_all(x: Tensor) -> None:
    """Add a factor of all rows at once."""
    truncated(never_zero)(x)
    pyro.factor("all", -pyro.param("all rows", tensor(0.3), constraint=constraints.positive).square() * x.sum())


APART: dict[str, tuple[Callable[[Tensor], None], Tensor]] = {
    "places of rows": (truncated(by_place), COUNTS),
    "rows that are no first dimension": (standing, COUNTS.unsqueeze(0)),
    "a factor of all rows": (of_all, COUNTS),
}


@pytest.mark.parametrize("name", APART)
def test_what_the_model_does_not_say_of_some_rows(name: str) -> None:
    """Where the model on some rows is another one, rows stay apart, and the plan says so."""
    model, x = APART[name]
    pyro.clear_param_store()
    assert "not merged: the model cannot be run for some of its rows" in str(EM(model).plan(x))


def test_a_limit_of_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of them are compared than memory has room for."""
    monkeypatch.setattr(distinct, "DENSITIES", 5)
    pyro.clear_param_store()
    said = str(EM(truncated(MERGED["of the row"])).plan(COUNTS))
    assert 'not merged: site "reward" is replayed, and has 1,800 densities' in said
