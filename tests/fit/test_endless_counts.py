"""Counts and degrees of freedom that run to infinity: the fit ends, and says so."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM

LIGHT = torch.linspace(-1, 1, 200, dtype=torch.float64)  # tails lighter than normal ones
EVEN = torch.arange(12, dtype=torch.float64).remainder(4)  # less dispersed than Poisson counts


def positive(name: str, *start: float) -> Tensor:
    """State a positive parameter."""
    found: Tensor = pyro.param(name, torch.tensor(start, dtype=torch.float64), constraint=constraints.positive)
    return found


def student(x: Tensor) -> None:
    """One Student t."""
    loc = pyro.param("loc", torch.zeros((), dtype=torch.float64))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.StudentT(positive("df", 5.0), loc, positive("scale", 1.0)), obs=x)


def students(x: Tensor) -> None:
    """Two of them, a gap apart."""
    loc = pyro.param("loc", torch.tensor([0.0, 20.0], dtype=torch.float64))
    df, scale = positive("df", 5.0, 5.0), positive("scale", 1.0, 1.0)
    with pyro.plate("rows", 2 * len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2, dtype=torch.float64) / 2))
        pyro.sample("x", dist.StudentT(df[z], loc[z], scale[z]), obs=torch.cat([x, x + 20]))


def counts(x: Tensor) -> None:
    """A size and a probability, of which only the mean is determined in the end."""
    probs = pyro.param("probs", torch.tensor([0.5], dtype=torch.float64), constraint=constraints.unit_interval)
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.NegativeBinomial(positive("size", 5.0), probs), obs=x)


def counts_by_logits(x: Tensor) -> None:
    """The same on the line."""
    logits = pyro.param("logits", torch.zeros(1, dtype=torch.float64))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.NegativeBinomial(positive("size", 5.0), logits=logits), obs=x)


@pytest.mark.parametrize(
    ("model", "x", "named", "limit"),
    [
        (student, LIGHT, '"df"', dist.Normal(LIGHT.mean(), LIGHT.std(correction=0))),
        (students, LIGHT, '"df"', None),
        (counts, EVEN, '"size"', dist.Poisson(EVEN.mean())),
        (counts_by_logits, EVEN, '"size"', dist.Poisson(EVEN.mean())),
    ],
    ids=["student", "two students", "counts", "counts by logits"],
)
def test_it_is_named(
    model: Callable[[Tensor], None], x: Tensor, named: str, limit: torch.distributions.Distribution | None
) -> None:
    """The objective is that of the limit; the rounding of torch's density, far out, is nobody's contradiction."""
    fit = EM(model).fit(x)
    assert fit.outcome == "converged"
    assert any("runs to infinity" in note and named in note for note in fit.notes)
    if limit is not None:
        assert fit.objective == pytest.approx(float(limit.log_prob(x).sum()), abs=SOLVERS)


def test_heavy_tails_and_spread_counts_do_not() -> None:
    """What is finite is not said to run off."""
    heavy = LIGHT / (1.02 - LIGHT.abs())
    fits = [EM(student).fit(heavy), EM(counts).fit(torch.arange(12, dtype=torch.float64) ** 2)]
    assert all(fit.outcome == "converged" and not fit.notes for fit in fits)
