"""Covariates far from zero beside their spread, as times in milliseconds are: the same maximum, and no blame."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from pyro.ops.indexing import Vindex
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.m_step.least_squares.solver import LeastSquares

N, RATE = 45, 0.3
CLOSE = 1e-6  # nats: what the rounding of covariates of a million by a scale of a twentieth leaves


def series() -> Tensor:
    """Two regimes that take turns, one of them noisier."""
    noise = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros(N, dtype=torch.float64)
    for t in range(1, N):
        first = t % 20 < 10
        y[t] = (0.5 if first else -0.5) + RATE * y[t - 1] + (0.05 if first else 0.2) * noise[t]
    return y


def parameters() -> tuple[Tensor, Tensor, Tensor]:
    """Levels, slopes and scales."""
    level, slope = pyro.param("level", tensor([-0.5, 0.5])), pyro.param("slope", tensor([0.4, 0.9]))
    return level, slope, pyro.param("scale", tensor([0.7, 1.5]), constraint=constraints.positive)


def in_a_loop(y: Tensor) -> None:
    """A value a site."""
    (level, slope, scale), z = parameters(), 0
    moves = pyro.param("moves", tensor([[0.9, 0.1], [0.2, 0.8]]), constraint=constraints.simplex)
    for t in pyro.markov(range(1, len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(Vindex(moves)[z]))
        pyro.sample(f"y{t}", dist.Normal(level[z] + slope[z] * y[t - 1], scale[z]), obs=y[t])


def in_a_plate(y: Tensor) -> None:
    """All values at one site, in a mixture."""
    level, slope, scale = parameters()
    weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
    with pyro.plate("rows", len(y) - 1):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(level[z] + slope[z] * y[:-1], scale[z]), obs=y[1:])


def fitted(model: Callable[[Tensor], None], far: float) -> Fit:
    """From the same start, wherever the data lie."""
    pyro.clear_param_store()
    start: dict[str, Any] = {"level": tensor([0.4, -0.4]) + far * (1 - RATE), "slope": tensor([RATE, RATE])}
    return EM(model, starts={**start, "scale": tensor([0.3, 0.3])}).fit(series() + far)


@pytest.mark.parametrize("model", [in_a_loop, in_a_plate])
@pytest.mark.parametrize("far", [1e5, 2.0**20])
def test_the_maximum_is_where_it_is_beside_zero(model: Callable[[Tensor], None], far: float) -> None:
    """The objective had fallen by rounding, an M-step had been blamed, single values had been their own unit."""
    near, there = fitted(model, 0.0), fitted(model, far)
    assert there.outcome == near.outcome == "converged"
    assert there.notes == near.notes
    assert abs(there.objective - near.objective) < CLOSE


def test_a_step_is_solved_for_and_not_where_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the maximum the equations say that nothing moves, to digits of the step and not of the values."""
    far = 2.0**20
    fit = fitted(in_a_plate, far)
    moved = []
    solve = LeastSquares.solve

    def watched(self: LeastSquares, sums: Any, batch: Any) -> dict[str, Tensor]:
        new = solve(self, sums, batch)
        x = far + series()[:-1]
        lines = [part["level"][0, :, None] + part["slope"][0, :, None] * x for part in ({**batch, **new}, batch)]
        moved.append(float((lines[0] - lines[1]).abs().max()))
        return new

    monkeypatch.setattr(LeastSquares, "solve", watched)
    EM(in_a_plate, starts=dict(fit.params), tol=0, max_steps=1, acceleration=None).fit(series() + far)
    assert moved[0] < 1e-6


def test_values_of_one_site_each_are_measured_together() -> None:
    """What a scale of one value collapses beside is the spread of all that have it."""
    pyro.clear_param_store()
    watched = EM(in_a_loop)._prepare((series() + 1e7,), {}).scales.watched
    (one,) = watched
    assert len(one.leaders) == N - 1
    assert float(one.pooled) < 10
    assert IDENTITY < float(one.pooled)


def test_an_objective_that_is_rounded_by_more_than_a_step_gains_says_so() -> None:
    """So far out no step can be told from rounding: no M-step is blamed, and no maximum confirmed."""
    fit = fitted(in_a_plate, 3e7)
    assert fit.outcome == "unconfirmed"
    assert any("subtract their mean" in note for note in fit.notes)
