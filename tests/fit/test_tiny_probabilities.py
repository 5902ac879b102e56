"""Probabilities that start all but zero: EM multiplies them, so that they are not at a boundary, and may come far."""

from collections.abc import Callable
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.fit.verdict import edges

Z = torch.arange(25) * 7 % 11 % 3
Y = 3.0 * Z + (torch.arange(25, dtype=torch.float64) * 0.9).sin()
SIMPLEX, UNIT = constraints.simplex, constraints.unit_interval


def with_entry(value: list[float], at: int, tiny: float) -> Tensor:
    """Probabilities of which one is tiny, and the others give way."""
    found = tensor(value, dtype=torch.float64)
    found[at] = 0.0
    found = found / found.sum() * (1 - tiny)
    found[at] = tiny
    return found


def chain(tiny: float) -> None:
    """A chain that can hardly go from the first state to the last, and hardly begins in the second."""
    initial = pyro.param("initial", with_entry([1.0, 1.0, 1.0], 1, tiny), constraint=SIMPLEX)
    rows = [with_entry([0.8, 0.1, 0.1], 2, tiny), tensor([0.1, 0.8, 0.1]).double(), tensor([0.1, 0.1, 0.8]).double()]
    table = pyro.param("table", torch.stack(rows), constraint=SIMPLEX)
    loc = pyro.param("loc", tensor([0.0, 3.0, 6.0], dtype=torch.float64))
    z: Tensor | None = None
    for t in pyro.markov(range(len(Y))):
        z = pyro.sample(f"z_{t}", dist.Categorical(initial if z is None else table[z]))
        pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=Y[t])


def shares(tiny: float) -> None:
    """A component of a mixture that has next to no share."""
    share = pyro.param("share", with_entry([1.0, 1.0, 1.0], 2, tiny), constraint=SIMPLEX)
    with pyro.plate("rows", len(Y)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("y", dist.Normal(tensor([0.0, 3.0, 6.0], dtype=torch.float64)[z], 1.0), obs=Y)


def odds(tiny: float) -> None:
    """A probability near zero, beside another latent; Beta(2, 2) would pull both away, a Beta(1, 1) does not."""
    p = pyro.sample("p", dist.Beta(tensor(1.0, dtype=torch.float64), 1.0))
    q = pyro.param("q", tensor(tiny, dtype=torch.float64), constraint=UNIT)
    with pyro.plate("rows", len(Y)):
        u = pyro.sample("u", dist.Bernoulli(p))
        z = pyro.sample("z", dist.Bernoulli(q))
        pyro.sample("y", dist.Normal(3.0 * u + 3.0 * z, 1.0), obs=Y)


PROGRAMS: dict[str, Callable[[float], None]] = {"chain": chain, "shares": shares, "odds": odds}


def fitted(name: str, tiny: float) -> Fit:
    """Fit from a tiny probability."""
    pyro.clear_param_store()
    return EM(PROGRAMS[name]).fit(tiny)


@cache
def free(name: str, tiny: float) -> Fit:
    """The same with nothing planted, made once."""
    return fitted(name, tiny)


@pytest.mark.parametrize("tiny", [1e-12, 1e-23, 1e-100])
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_fit_is_that_from_inside(name: str, tiny: float) -> None:
    """It is as high, and no slope leads inwards from a boundary."""
    fit, usual = free(name, tiny), free(name, 1e-3)
    assert fit.converged
    assert fit.objective == pytest.approx(usual.objective, rel=SOLVERS)
    assert not any("inwards" in note for note in fit.notes)


def test_a_state_without_rows_is_found_again() -> None:
    """A chain that does not begin in a state, nor goes there, has lost it; given a share, it has rows."""

    def lost(tiny: float) -> None:
        initial = pyro.param("initial", with_entry([1.0, 1.0, 1.0], 2, tiny), constraint=SIMPLEX)
        rows = torch.stack([with_entry(row, 2, tiny) for row in ([0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [1.0, 1.0, 1.0])])
        table = pyro.param("table", rows, constraint=SIMPLEX)
        loc = pyro.param("loc", tensor([0.0, 3.0, 6.0], dtype=torch.float64))
        z: Tensor | None = None
        for t in pyro.markov(range(len(Y))):
            z = pyro.sample(f"z_{t}", dist.Categorical(initial if z is None else table[z]))
            pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=Y[t])

    pyro.clear_param_store()
    fit = EM(lost).fit(1e-40)
    pyro.clear_param_store()
    two = EM(lost).fit(0.0)
    assert fit.converged
    assert fit.objective > two.objective + 1.0


@pytest.mark.parametrize("name", PROGRAMS)
def test_without_it_the_fit_ends_lower(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor of little more than one on so little gains nothing that the stopping rule would see."""
    high = free(name, 1e-100).objective
    monkeypatch.setattr(edges, "TINY", 0.0)
    fit = fitted(name, 1e-100)
    assert fit.objective < high - 0.1


def test_zero_is_stated_so() -> None:
    """What is zero exactly stays, and the note says what it costs."""
    fit = fitted("shares", 0.0)
    assert float(fit.params["share"][2]) == 0.0
    assert any("inwards" in note for note in fit.notes)
