"""SQUAREM where an extrapolation goes wrong, or has nowhere to go."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from oracles.tolerances import IDENTITY, SOLVERS
from programs.fixed_points import F64, Problem, error, falls, vector
from torch import Tensor

from em_pyro.errors import DataError, EMError
from em_pyro.fit.acceleration.squarem import Squarem, extrapolate, squarem


def cliff(beyond: Callable[[Tensor], tuple[Tensor, float]]) -> Problem:
    """Climb slowly towards one; past one, where only an extrapolation can get, lies `beyond`."""

    def advance(x: Tensor) -> tuple[Tensor, float]:
        # The rate falls on the way, so that S3 sees a slower map than there is ahead and overshoots.
        gap = 1 - x
        return beyond(x) if float(gap) < 0 else (1 - gap * (1 - 0.6 * (-3 * gap).exp()), -float(gap))

    return Problem(advance, vector(-1.0), vector(1.0))


def raise_data_error(x: Tensor) -> tuple[Tensor, float]:
    """Fail as this package does."""
    raise DataError("outside the support")


def raise_value_error(x: Tensor) -> tuple[Tensor, float]:
    """Fail as a distribution does."""
    raise ValueError("Expected parameter scale to be positive")


def raise_singular(x: Tensor) -> tuple[Tensor, float]:
    """Fail as a Cholesky factor does."""
    return torch.linalg.cholesky(torch.zeros(1, 1, dtype=F64)).squeeze(), 0.0


CLIFFS: dict[str, Callable[[Tensor], tuple[Tensor, float]]] = {
    "lower": lambda x: (x, -10.0),
    "nan": lambda x: (x, math.nan),
    "minus infinity": lambda x: (x, -math.inf),
    "plus infinity": lambda x: (x, math.inf),
    "nan point": lambda x: (x * math.nan, 1.0),
    "EMError": raise_data_error,
    "ValueError": raise_value_error,
    "LinAlgError": raise_singular,
}


@pytest.mark.parametrize("beyond", CLIFFS.values(), ids=CLIFFS.keys())
def test_bad_extrapolations_are_rejected(beyond: Callable[[Tensor], tuple[Tensor, float]]) -> None:
    """Keep the double step where the extrapolation is worse, undefined or raises; and arrive all the same."""
    problem = cliff(beyond)
    state, path, x = problem.accelerated(SOLVERS)
    assert state.rejected > 0
    assert error(x, problem.answer) <= SOLVERS
    assert not falls(path)


def test_a_rejected_cycle_is_the_double_step() -> None:
    """Return exactly two plain steps for three evaluations where the map fails at the extrapolated point."""

    def advance(x: Tensor) -> tuple[Tensor, float]:
        return raise_data_error(x) if float(x) > 0.5 else (1 - 0.9 * (1 - x), float(x))

    start = vector(0.0)
    x, before, state = squarem(advance, start, Squarem(step_max=64.0))
    assert state == Squarem(cycles=1, evaluations=3, extrapolated=0, rejected=1, step_max=64.0)
    assert torch.equal(x, advance(advance(start)[0])[0])
    assert before == 0.0


def test_the_guard_is_what_prevents_a_fall() -> None:
    """Take the guard away, by an infinite slack, and the same law notices the fall."""
    problem = cliff(CLIFFS["lower"])
    x, path, state = problem.start, [], Squarem(step_max=64.0)
    for _ in range(20):
        x, objective, state = squarem(problem, x, state, slack=math.inf)
        path.append(objective)
    assert falls(path)
    assert state.extrapolated > 0


def test_other_errors_pass() -> None:
    """Hide neither a programming error, nor a failure of the map on its own path."""

    def broken(x: Tensor) -> tuple[Tensor, float]:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        cliff(broken).accelerated(SOLVERS)
    with pytest.raises(EMError, match="outside the support"):
        squarem(raise_data_error, vector(0.0), Squarem())


def test_the_bound_widens_by_four_and_narrows_by_four() -> None:
    """Follow the bound of the R package: double step first, then 4, 16, ...; a failure at the bound divides."""
    answer = vector(0.0)
    slow_map = Problem(lambda x: (0.9999 * x, -float(x.abs())), vector(1.0), answer)
    x, state, bounds = slow_map.start, Squarem(), []
    for _ in range(4):
        x, _, state = squarem(slow_map, x, state)
        bounds.append(state.step_max)
    assert bounds == [4.0, 16.0, 64.0, 256.0]
    assert state.evaluations == 2 + 3 * 3  # the first cycle has nothing to extrapolate

    def steep(x: Tensor) -> tuple[Tensor, float]:
        return 0.9999 * x, -float(x.abs()) if float(x) > 0.9995 else -math.inf

    _, _, narrowed = squarem(steep, vector(1.0), replace(state, step_max=64.0))
    assert narrowed.step_max == 16.0
    _, _, again = squarem(steep, vector(1.0), replace(state, step_max=4.0))
    assert again.step_max == 4.0  # one, and at once widened: a failure does not end the acceleration


# ---- edges -----------------------------------------------------------------------------------------------------------


def test_a_fixed_point_stays() -> None:
    """Notice zero differences after one evaluation, infinite coordinates included."""
    for point in (vector(2.0, 3.0), vector(-math.inf, 3.0)):
        x, objective, state = squarem(lambda x: (x.clone(), 7.0), point, Squarem())
        assert torch.equal(x, point)
        assert (objective, state.cycles, state.evaluations) == (7.0, 1, 1)


def test_a_translation_has_no_curvature() -> None:
    """Take the longest allowed step where the second difference is exactly zero."""
    x, _, state = squarem(lambda x: (x + 1.0, float(x.sum())), vector(0.0, 0.0), Squarem(step_max=4.0))
    assert torch.equal(x, vector(9.0, 9.0))  # 2 s = 8, and the stabilising step
    assert state.step_max == 16.0


def test_infinite_coordinates_are_carried_and_the_others_extrapolated() -> None:
    """Leave parameters on the boundary there, take one that arrives in this cycle along, never give NaN."""

    def advance(x: Tensor) -> tuple[Tensor, float]:
        free, arriving = x[0], x[2]
        arriving = torch.where(arriving < -1.5, -math.inf, arriving - 1.0)
        return torch.stack([0.9 * free, x[1], arriving, x[3]]), -float(free.abs())

    start = vector(1.0, -math.inf, -1.0, math.inf)
    x1 = advance(start)[0]
    y, s = extrapolate(start, x1, advance(x1)[0], step_max=math.inf)
    assert torch.equal(y[1:], vector(-math.inf, -math.inf, math.inf))
    assert s == pytest.approx(10.0)
    assert float(y[0]) == pytest.approx(0.0, abs=IDENTITY)
    x, _, state = squarem(advance, start, Squarem(step_max=100.0))
    assert torch.equal(x[1:], vector(-math.inf, -math.inf, math.inf))
    assert state.extrapolated == 1
    only_infinite_moves = extrapolate(vector(0.0, 1.0), vector(0.0, -math.inf), vector(0.0, -math.inf), step_max=9.0)
    assert torch.equal(only_infinite_moves[0], vector(0.0, -math.inf))
    assert only_infinite_moves[1] == 1.0


def test_says_what_it_did() -> None:
    """Print the counts in one line."""
    text = str(Squarem(cycles=3, evaluations=8, extrapolated=1, rejected=1))
    assert text == "SQUAREM: 3 cycles, 8 evaluations of the map, 1 extrapolations kept, 1 rejected"
