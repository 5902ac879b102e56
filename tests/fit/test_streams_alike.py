"""Batches of one row, and of rows that are alike: none shows alone what differs by row, nor is taken for another."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit, PlanError

Rows = tuple[Tensor, Tensor]
Law = Callable[[Tensor, Tensor], Any]


def rows(levels: tuple[float, ...] = ()) -> Rows:
    """Twelve counts by exposures, which differ in every row, or are one in four rows, in three, and in five."""
    generator = torch.Generator().manual_seed(0)
    e = torch.rand(12, generator=generator, dtype=torch.float64) + 0.5
    if levels:
        e = tensor(levels).double().repeat_interleave(tensor([4, 3, 5]))
    return e, torch.poisson(5 * e, generator=generator)


def mixed(law: Law) -> Callable[[Tensor, Tensor], None]:
    """Mix two of a law that has a positive parameter and a known number in each row."""

    def model(e: Tensor, y: Tensor) -> None:
        rate = pyro.param("rate", tensor([1.0, 3.0]).double(), constraint=constraints.positive)
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4]).double()))
            pyro.sample("y", law(rate[z], e), obs=y + 0.1 * (not law(rate[0], e).support.is_discrete))

    return model


def lines(e: Tensor, y: Tensor) -> None:
    """Mix two lines through zero."""
    b = pyro.param("b", tensor([1.0, 3.0]).double())
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4]).double()))
        pyro.sample("y", dist.Normal(b[z] * e, 1.0), obs=y)


def known_scales(e: Tensor, y: Tensor) -> None:
    """Mix two means."""
    loc = pyro.param("loc", tensor([1.0, 3.0]).double())
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4]).double()))
        pyro.sample("y", dist.Normal(loc[z], e), obs=y)


PROGRAMS = {
    "poisson": mixed(lambda rate, e: dist.Poisson(rate * e)),
    "exponential": mixed(lambda rate, e: dist.Exponential(rate * e)),
    "gamma": mixed(lambda rate, e: dist.Gamma(2.0, rate * e)),
    "lines": lines,
    "known scales": known_scales,
}
EXPOSED = ("poisson", "exponential", "gamma")


def both(model: Any, data: Rows, ends: tuple[int, ...]) -> tuple[Fit, Fit]:
    """Three steps in memory, and in batches."""
    options: dict[str, Any] = {"acceleration": None, "tol": 0, "max_steps": 3, "check": False}
    pyro.clear_param_store()
    whole = EM(model, collapse=False, **options).fit(*data)
    pyro.clear_param_store()
    return whole, EM(model, **options).fit_stream([(data[0][a:b], data[1][a:b]) for a, b in pairwise(ends)])


@pytest.mark.parametrize("ends", [(0, 11, 12), (0, 1, 12), (0, 1, 2, 12)], ids=["last", "first", "two-first"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_batch_of_one_row_is_laid_out_as_the_others(name: str, ends: tuple[int, ...]) -> None:
    """What differs by row has no dimension in it; statistics of it were added to others."""
    whole, streamed = both(PROGRAMS[name], rows(), ends)
    assert max(abs(a - b) for a, b in zip(streamed.path, whole.path, strict=True)) < IDENTITY * abs(whole.objective)
    assert farthest(streamed.params, whole.params) < IDENTITY


@pytest.mark.parametrize("levels", [(1.0, 2.0, 3.0), (2.0, 2.0, 0.5)], ids=["one-first", "one-later"])
@pytest.mark.parametrize("name", EXPOSED)
def test_an_exposure_may_be_the_same_in_all_rows_of_every_batch(name: str, levels: tuple[float, ...]) -> None:
    """Each batch has another."""
    whole, streamed = both(PROGRAMS[name], rows(levels), (0, 4, 7, 12))
    assert max(abs(a - b) for a, b in zip(streamed.path, whole.path, strict=True)) < IDENTITY * abs(whole.objective)
    assert farthest(streamed.params, whole.params) < IDENTITY


@pytest.mark.parametrize("name", ["lines", "known scales"])
def test_other_arguments_that_no_batch_shows_to_differ_are_named(name: str) -> None:
    """Where one batch does, they are not."""
    with pytest.raises(PlanError, match='Batch 1: Site "y": expected arguments that differ by row to do so within'):
        both(PROGRAMS[name], rows((1.0, 2.0, 3.0)), (0, 4, 7, 12))
    whole, streamed = both(PROGRAMS[name], rows((1.0, 2.0, 3.0)), (0, 4, 12))
    assert farthest(streamed.params, whole.params) < IDENTITY


def gates(e: Tensor, y: Tensor) -> None:
    """Mix two means by weights that differ by row."""
    b, loc = pyro.param("b", tensor([0.1, 0.2]).double()), pyro.param("loc", tensor([1.0, 9.0]).double())
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Bernoulli(logits=b[0] + b[1] * e)).long()
        pyro.sample("y", dist.Normal(loc[z], 2.0), obs=y)


@pytest.mark.parametrize("ends", [(0, 4, 12), (0, 7, 12)], ids=["later", "first"])
def test_the_model_is_planned_on_a_batch_that_shows_what_differs(ends: tuple[int, ...]) -> None:
    """Latents have such arguments, too; where no batch shows it, it is said."""
    data = rows((1.0, 2.0, 3.0))
    whole = EM(gates, tol=1e-10, collapse=False, check=False).fit(*data)
    pyro.clear_param_store()
    parts = [(data[0][a:b], data[1][a:b]) for a, b in pairwise(ends)]
    streamed = EM(gates, tol=1e-10, check=False).fit_stream(parts)
    assert streamed.plan["b"].how == "Newton step"
    assert distance(streamed.objective, whole.objective) < 1e-8
    with pytest.raises(PlanError, match='Batch 1: Site "z": expected arguments that differ by row to do so within'):
        both(gates, data, (0, 4, 7, 12))


def test_rows_one_by_one_are_named_where_they_differ() -> None:
    """With what helps."""
    with pytest.raises(PlanError, match=r"two rows or more of plate \"rows\" in a batch"):
        both(PROGRAMS["poisson"], rows(), tuple(range(13)))
    whole, streamed = both(PROGRAMS["poisson"], (torch.ones(12).double(), rows()[1]), tuple(range(13)))
    assert farthest(streamed.params, whole.params) < IDENTITY


@pytest.mark.parametrize(
    "law",
    [
        lambda rate, e: dist.Weibull(1.5, rate),
        lambda rate, e: dist.StudentT(rate, 3.0, 2.0),
        lambda rate, e: dist.GammaPoisson(rate, 0.5),
    ],
    ids=["weibull", "student", "gamma-poisson"],
)
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_weights_of_a_single_row_add_up_with_those_of_others(law: Law, acceleration: str | None) -> None:
    """Several points are looked at together at the end; a Newton step is halved in a cycle of SQUAREM, too."""
    e, y = rows()
    parts = [(e[a:b], y[a:b]) for a, b in pairwise((0, 6, 7, 12))]
    whole = EM(mixed(law), collapse=False).fit(e, y)
    pyro.clear_param_store()
    streamed = EM(mixed(law), acceleration=acceleration).fit_stream(parts)
    assert distance(streamed.objective, whole.objective) < 1e-6
    assert streamed.outcome == whole.outcome
