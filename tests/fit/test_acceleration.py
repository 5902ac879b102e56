"""SQUAREM on fixed points that have nothing to do with EM, and on one that has."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles.tolerances import IDENTITY, SOLVERS, printed
from programs.fixed_points import (
    F64,
    Problem,
    babylonian,
    contraction,
    cosine,
    error,
    falls,
    gradient_descent,
    power_iteration,
    vector,
)
from torch import Tensor

from em_pyro.fit.acceleration import squarem as acceleration
from em_pyro.fit.acceleration.squarem import extrapolate

EVERY = [contraction, gradient_descent, power_iteration, cosine, babylonian]
SLOW = [contraction, gradient_descent, power_iteration]
every = pytest.mark.parametrize("make", EVERY, ids=[make.__name__ for make in EVERY])
slow = pytest.mark.parametrize("make", SLOW, ids=[make.__name__ for make in SLOW])


@every
def test_arrives_and_never_falls(make: Callable[[], Problem]) -> None:
    """Reach the known fixed point on a path that rises, from a start that was not already there."""
    problem = make()
    assert error(problem.start, problem.answer) > 0.05
    state, path, x = problem.accelerated(IDENTITY)
    assert error(x, problem.answer) <= IDENTITY
    assert not falls(path)
    assert state.evaluations == 2 * state.cycles + state.extrapolated + state.rejected


@slow
def test_slow_maps_become_fast(make: Callable[[], Problem]) -> None:
    """Need at most a third of the evaluations that the map alone needs for the same accuracy."""
    problem = make()
    plain = problem.plain(IDENTITY)
    assert plain > 400
    assert 3 * problem.accelerated(IDENTITY)[0].evaluations < plain


@pytest.mark.parametrize("make", [cosine, babylonian], ids=["cosine", "babylonian"])
def test_fast_maps_stay_fast(make: Callable[[], Problem]) -> None:
    """Waste at most one evaluation in three where there is nothing to gain."""
    problem = make()
    assert problem.accelerated(IDENTITY)[0].evaluations <= 1.5 * problem.plain(IDENTITY) + 3


# ---- the formula -----------------------------------------------------------------------------------------------------


def misses(rate: float) -> bool:
    """Say whether one extrapolation of a map that is linear with a single rate misses its fixed point.

    There `s = 1 / (1 - rate)` and the squared error `(1 + s (rate - 1))^2` is zero.
    """
    answer = vector(3.0, -1.0)
    x = answer + vector(1.0, 2.0)
    points = [answer + rate**k * (x - answer) for k in range(3)]
    y, s = acceleration.extrapolate(*points, step_max=math.inf)
    return error(y, answer) > IDENTITY or abs(s - 1 / (1 - rate)) > IDENTITY * s


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.99])
def test_one_rate_is_extrapolated_exactly(rate: float) -> None:
    """Land on the fixed point of a linear map with one rate in one extrapolation."""
    assert not misses(rate)


def test_wrong_formulas_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant an unsquared last term, a scale 0.1 % too big and a wrong sign: the law above notices each."""

    def planted(change: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Callable[..., tuple[Tensor, float]]:
        def wrong(x: Tensor, x1: Tensor, x2: Tensor, *, step_max: float) -> tuple[Tensor, float]:
            s = extrapolate(x, x1, x2, step_max=step_max)[1]
            return change(x, x1 - x, x2 - 2 * x1 + x, s), s

        return wrong

    for change in (
        lambda x, r, v, s: x + 2 * s * r + s * v,
        lambda x, r, v, s: x + 2.002 * s * r + s**2 * v,
        lambda x, r, v, s: x - 2 * s * r + s**2 * v,
    ):
        monkeypatch.setattr(acceleration, "extrapolate", planted(change))
        assert misses(0.9)


def test_a_step_of_length_one_is_the_double_step() -> None:
    """Give the plain iterate back, exactly enough, when the bound allows no more."""
    x, x1, x2 = vector(1.0, 2.0), vector(0.5, 1.9), vector(0.3, 1.85)
    y, s = extrapolate(x, x1, x2, step_max=1.0)
    assert s == 1.0
    assert error(y, x2) <= IDENTITY


# ---- one map that is an EM -------------------------------------------------------------------------------------------


DEATHS = torch.arange(10.0, dtype=F64)

DAYS = vector(162, 267, 271, 185, 111, 61, 27, 8, 3, 1)
"""Deaths of women over 80 a day in The Times, 1910-1912 (Hasselblad 1969): days with 0, 1, ..., 9 deaths."""


def poisson_mixture(x: Tensor) -> tuple[Tensor, float]:
    """Do one EM step for two Poisson components, at `x = (logit p, log mu1, log mu2)`."""
    p, mu = x[0].sigmoid(), x[1:].exp()
    joint = torch.stack([p, 1 - p])[:, None].log() + DEATHS * mu[:, None].log() - mu[:, None] - DEATHS.add(1).lgamma()
    evidence = joint.logsumexp(0)
    weights = (joint - evidence).exp() * DAYS
    total = weights.sum(1)
    new = torch.cat([(total[:1] / DAYS.sum()).logit(), ((weights @ DEATHS) / total).log()])
    return new, float(evidence @ DAYS)


def test_london_times_deaths() -> None:
    """Converge to the maximum, whose rate under plain EM is 0.99567, in a thirtieth of the evaluations (80 for 2814).

    The maximum is p = 0.3598853970, mu = (1.2560951012, 2.6634043566), log likelihood -1989.94585988, in agreement
    with the reference vector in the tests of the R package SQUAREM (Hasselblad1969.R).
    """
    answer = vector(
        math.log(0.3598853969849348 / 0.6401146030150652), *vector(1.2560951012243379, 2.6634043566324726).log()
    )
    problem = Problem(poisson_mixture, vector(math.log(0.3 / 0.7), 0.0, math.log(2.5)), answer)
    first = poisson_mixture(problem.start)
    assert first[1] == pytest.approx(-1992.72326625655, abs=printed("1992.72326625655"))
    assert float(first[0][0].sigmoid()) == pytest.approx(0.2856904383688747, abs=IDENTITY)
    plain = problem.plain(SOLVERS)
    state, path, x = problem.accelerated(SOLVERS)
    assert error(x, answer) <= SOLVERS
    assert not falls(path)
    assert path[-1] == pytest.approx(-1989.94585988, abs=printed("1989.94585988"))
    assert plain > 2000
    assert 30 * state.evaluations < plain
