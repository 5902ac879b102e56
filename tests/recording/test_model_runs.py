"""How often a recorded model itself is run: no more in many steps than in few."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import hidden_markov
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from programs.networks import Gate, lines
from programs.unrecordable import X, counts
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.e_step.make
from em_pyro import EM, Fit


def calls_of(steps: int, model: Callable[..., Any], *args: Any) -> tuple[int, Fit]:
    """Runs of the model in a fit of so many steps."""
    seen = [0]

    def counted(*args: Any) -> None:
        seen[0] += 1
        model(*args)

    pyro.clear_param_store()
    fit = EM(counted, tol=0, max_steps=steps).fit(*args)
    return seen[0], fit


def powers(x: Tensor) -> None:
    """Rates that differ from row to row, in no way that is affine."""
    rate = pyro.param("rate", tensor([0.7, 1.6]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
        pyro.sample("x", dist.Poisson(0.1 + rate[z] ** torch.linspace(0.5, 1.5, len(x))), obs=x)


RECORDED: dict[str, Callable[[], tuple[Any, ...]]] = {
    "counts": lambda: (counts, X, ""),
    "powers": lambda: (powers, X),
    "stationary": lambda: (lambda y: hidden_markov.poisson(y, stationary=True), X.unsqueeze(0)),
    "network": lambda: (Gate(), *lines()),
}
"""Models that are recorded, with their data."""


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_model_runs_as_often_in_few_steps_as_in_many(name: str) -> None:
    """The number of its runs (the checks before and after) does not depend on the number of steps."""
    few, _ = calls_of(1, *RECORDED[name]())
    many, fit = calls_of(12, *RECORDED[name]())
    assert few == many < 80
    assert fit.path[-1] > fit.path[0]


def test_the_count_notices_a_model_that_is_run_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: no recording; the ends of both ways agree."""
    model, *args = RECORDED["powers"]()
    _, there = calls_of(12, model, *args)
    monkeypatch.setattr(em_pyro.e_step.make, "_recorded", lambda engine, refuted: replace(engine, unrecorded="a test"))
    few, _ = calls_of(1, model, *args)
    many, here = calls_of(12, model, *args)
    assert many > few + 12
    assert distance(here.objective, there.objective) < IDENTITY


def test_priors_with_parameters_are_recorded() -> None:
    """A prior whose scale is a parameter itself runs without the model too."""

    def model(x: Tensor) -> None:
        spread = pyro.param("spread", tensor(1.5), constraint=constraints.interval(0.5, 4.0))
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), spread).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    few, _ = calls_of(1, model, X)
    many, fit = calls_of(9, model, X)
    assert few == many
    assert fit.path[-1] > fit.path[0]
