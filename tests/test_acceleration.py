"""SQUAREM on fixed points that have nothing to do with EM, and on one that has."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tolerances import IDENTITY, SOLVERS, printed
from torch import Tensor

from em_pyro import acceleration
from em_pyro.acceleration import Squarem, Step, extrapolate, squarem
from em_pyro.errors import DataError, EMError

F64 = torch.float64


class Problem:
    """A monotone fixed-point map with a known answer, counting its evaluations."""

    def __init__(self, advance: Step, start: Tensor, answer: Tensor) -> None:
        """Start from `start`; the map's fixed point is `answer`."""
        self.advance, self.start, self.answer, self.evaluations = advance, start, answer, 0

    def __call__(self, x: Tensor) -> tuple[Tensor, float]:
        """Evaluate the map once."""
        self.evaluations += 1
        return self.advance(x)

    def plain(self, accuracy: float) -> int:
        """Count plain evaluations until the point is within `accuracy` of the answer."""
        x, self.evaluations = self.start, 0
        while error(x, self.answer) > accuracy and self.evaluations < 100_000:
            x, _ = self(x)
        return self.evaluations

    def accelerated(self, accuracy: float, *, max_cycles: int = 5_000) -> tuple[Squarem, list[float], Tensor]:
        """Return the state, the objective at the start of each cycle and at the end, and the point."""
        x, state, path, self.evaluations = self.start, Squarem(), [], 0
        while error(x, self.answer) > accuracy and state.cycles < max_cycles:
            x, objective, state = squarem(self, x, state)
            path.append(objective)
        assert state.evaluations == self.evaluations
        return state, [*path, self.advance(x)[1]], x


def error(x: Tensor, answer: Tensor) -> float:
    """Return the largest difference relative to one plus the answer; a NaN counts as infinite."""
    return float(((x - answer).abs() / (1 + answer.abs())).max().nan_to_num(nan=math.inf))


def vector(*values: float) -> Tensor:
    """Make a float64 vector."""
    return torch.tensor(values, dtype=F64)


def symmetric(eigenvalues: Tensor, seed: int) -> Tensor:
    """Make a symmetric matrix with given eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=F64)).Q
    return (basis * eigenvalues) @ basis.T


def contraction() -> Problem:
    """Contract linearly towards a point at rates 0.2 to 0.99; the objective is minus the squared distance."""
    A, answer = symmetric(vector(0.2, 0.5, 0.9, 0.98, 0.99), seed=1), vector(1, -2, 3, 0, 5)
    return Problem(lambda x: (answer + A @ (x - answer), -float((x - answer).square().sum())), answer + 1, answer)


def gradient_descent() -> Problem:
    """Minimise `x H x / 2 - h x` with condition number 500 by gradient descent with step one over the largest."""
    H, h = symmetric(torch.logspace(0, math.log10(500), 8, dtype=F64), seed=2), vector(*range(1, 9))
    return Problem(
        lambda x: (x - (H @ x - h) / 500, -float(x @ H @ x / 2 - h @ x)),
        torch.zeros(8, dtype=F64),
        torch.linalg.solve(H, h),
    )


def power_iteration() -> Problem:
    """Find the leading eigenvector of a positive matrix; the objective is the Rayleigh quotient. Nonlinear."""
    A = symmetric(vector(0.1, 0.3, 0.6, 0.9, 0.97, 1.0), seed=3)
    answer = torch.linalg.eigh(A).eigenvectors[:, -1]
    start = answer + 0.5 * torch.linalg.eigh(A).eigenvectors[:, :-1].sum(1)
    return Problem(lambda x: (A @ x / (A @ x).norm(), float(x @ A @ x / (x @ x))), start / start.norm(), answer)


def cosine() -> Problem:
    """Iterate the cosine to Dottie's number, the maximum of `sin x - x^2 / 2`. The rate is -0.67: it alternates."""
    return Problem(lambda x: (x.cos(), float(x.sin() - x**2 / 2)), vector(0.1), vector(0.7390851332151607))


def babylonian() -> Problem:
    """Take the square root of two by averaging `x` and `2 / x`, from far away; halves first, then quadratic."""
    return Problem(lambda x: ((x + 2 / x) / 2, -float((x**2 - 2) ** 2)), vector(1e6), vector(2**0.5))


EVERY = [contraction, gradient_descent, power_iteration, cosine, babylonian]
SLOW = [contraction, gradient_descent, power_iteration]
every = pytest.mark.parametrize("make", EVERY, ids=[make.__name__ for make in EVERY])
slow = pytest.mark.parametrize("make", SLOW, ids=[make.__name__ for make in SLOW])


def falls(path: list[float]) -> bool:
    """Say whether an objective falls beyond rounding anywhere on its path."""
    return any(not after >= before - 1e-10 * (1 + abs(before)) for before, after in zip(path, path[1:], strict=False))


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


# --- the formula ----------------------------------------------------------------------------------------------------


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


# --- the guard ------------------------------------------------------------------------------------------------------


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


# --- edges ----------------------------------------------------------------------------------------------------------


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


# --- one map that is an EM ------------------------------------------------------------------------------------------

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
