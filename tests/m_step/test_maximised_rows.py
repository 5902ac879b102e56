"""A latent of every row that is maximised, in plates long enough for equal rows to be merged."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.refusals import refuse
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

ROWS = 300
COUNTS = torch.poisson(torch.full((ROWS,), 3.0).double(), generator=torch.Generator().manual_seed(0))
MAXIMISED = {"b": "maximise"}


def effects(y: Tensor, prior: Callable[[], dist.Distribution], law: Callable[[Tensor], dist.Distribution]) -> None:
    """An effect of every row: its value is a parameter of its own, also where the data of rows are equal."""
    with pyro.plate("rows", len(y)):
        b = pyro.sample("b", prior())
        pyro.sample("y", law(b), obs=y)


def normal(b: Tensor) -> dist.Distribution:
    """What is seen of an effect."""
    return dist.Normal(b, 1.0)


def spread(loc: float = 0.0) -> Callable[[], dist.Distribution]:
    """A prior with a free scale."""
    return lambda: dist.Normal(loc, pyro.param("tau", tensor(1.0), constraint=constraints.positive))


def test_a_known_prior() -> None:
    """Every effect is the weighted mean of its row and the prior; equal rows stay rows."""
    em = EM(effects, continuous=MAXIMISED)
    fit = em.fit(COUNTS, lambda: dist.Normal(1.0, 2.0), normal)
    assert fit.converged
    assert torch.allclose(fit.params["b"], (4 * COUNTS + 1) / 5, rtol=0, atol=SOLVERS)
    assert 'every row has a value of "b" of its own' in str(em.plan(COUNTS, lambda: dist.Normal(1.0, 2.0), normal))


def test_a_free_location() -> None:
    """The joint density has one top: the location is the mean of the rows."""
    fit = EM(effects, continuous=MAXIMISED).fit(COUNTS, lambda: dist.Normal(pyro.param("mu", tensor(0.5)), 2.0), normal)
    assert fit.converged
    assert abs(float(fit.params["mu"] - COUNTS.mean())) < SOLVERS


@pytest.mark.parametrize("law", [normal, lambda b: dist.Poisson(b.exp())], ids=["normal", "poisson"])
@pytest.mark.parametrize("rows", [20, ROWS])
def test_a_free_scale(law: Callable[[Tensor], dist.Distribution], rows: int) -> None:
    """It makes the joint density unbounded, whatever is seen and however many rows there are."""
    found = '^Site "b": expected a prior of known scale, got one that the parameter "tau" enters'
    refuse("model", found, effects, COUNTS[:rows], spread(), law, continuous=MAXIMISED)
