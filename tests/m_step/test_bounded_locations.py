"""Locations between bounds: a spread that multiplies standard normal latents, loadings that are positive, an interval.

`Q` is concave in them, so that there is a closed form; its maximum may be at a bound. The oracles are all ways to be at
the bounds, the same program without bounds, and EM written in NumPy.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from numpy.typing import NDArray
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.fit import saddle
from em_pyro.fit.verdict import edges
from em_pyro.m_step.least_squares import bounds, equations

Numbers = NDArray[np.float64]

# Rubin (1981), Estimation in parallel randomized experiments, table 1: effects of coaching in eight schools.
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]).double()
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]).double()


def number(name: str, value: Any, constraint: Any = constraints.real) -> Tensor:
    """Declare a parameter."""
    return pyro.param(name, torch.as_tensor(value).double(), constraint=constraint)


def schools(tau: Any, mean: float = 0.0, start: float = 3.0) -> Callable[[Tensor, Tensor], None]:
    """Effects with known errors, not centred."""

    def model(y: Tensor, error: Tensor) -> None:
        mu, spread = number("mu", mean), number("tau", start, tau)
        with pyro.plate("schools", len(y)):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + spread * eta, error), obs=y)

    return model


def centred(y: Tensor, error: Tensor) -> None:
    """The same, centred."""
    mu, tau = number("mu", 0.0), number("tau", 3.0, constraints.positive)
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, error), obs=y)


def factor(loading: Any) -> Callable[[Tensor], None]:
    """Write a program of one factor of four columns."""

    def model(x: Tensor) -> None:
        weight = number("weight", [0.5, 0.7, 0.4, 0.6], loading)
        scale, loc = number("scale", torch.ones(4), constraints.positive), number("loc", torch.zeros(4))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(loc + z[..., None] * weight, scale).to_event(1), obs=x)

    return model


def ordered(low: float, high: float) -> Callable[[Tensor], None]:
    """Write a mixture whose locations are in an interval: numbers, each by itself."""

    def model(x: Tensor) -> None:
        width = min(high - low, 3.0)
        between = constraints.interval(low, high) if high < torch.inf else constraints.greater_than(low)
        loc = number("loc", [low + 0.3 * width, low + 0.6 * width], between)
        with pyro.plate("rows", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[c], 1.0), obs=x)

    return model


def drawn(*shape: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


COLUMNS = drawn(60, 1) * torch.tensor([0.9, 0.8, 0.7, 0.6]).double() + drawn(60, 5)[:, 1:]
OPPOSED = COLUMNS * torch.tensor([1.0, 1.0, 1.0, -1.0]).double()
SPREAD = (EFFECTS * 3, ERRORS)


def fitted(model: Callable[..., None], *args: Tensor, **options: Any) -> Fit:
    """Fit from the starts of the program."""
    pyro.clear_param_store()
    return EM(model, **options).fit(*args)


@pytest.mark.parametrize("tau", [constraints.positive, constraints.nonnegative, constraints.interval(0.0, 90.0)])
def test_a_spread_inside_its_bounds(tau: Any) -> None:
    """It is that of the same program without bounds, by as many steps."""
    bound, free = fitted(schools(tau), *SPREAD, tol=1e-12), fitted(schools(constraints.real), *SPREAD, tol=1e-12)
    line = bound.plan["tau"]
    assert line.how == "closed form"
    assert "between its bounds" in line.why
    assert float(bound.params["tau"]) > 10
    assert not bound.notes
    assert bound.log_likelihood == pytest.approx(free.log_likelihood, rel=IDENTITY)
    for name in ("mu", "tau"):
        torch.testing.assert_close(bound.params[name], free.params[name].abs(), rtol=SOLVERS, atol=0.0)


@pytest.mark.parametrize("tau", [constraints.positive, constraints.nonnegative, constraints.interval(0.0, 90.0)])
def test_a_spread_that_is_zero_at_the_maximum_is_named(tau: Any) -> None:
    """Centred or not the maximum is one: of eight schools it is where all have the same effect."""
    fit, other = fitted(schools(tau), EFFECTS, ERRORS), fitted(centred, EFFECTS, ERRORS)
    weight = ERRORS**-2
    mean = float((weight * EFFECTS).sum() / weight.sum())
    height = float(dist.Normal(mean, ERRORS).log_prob(EFFECTS).sum())
    assert fit.outcome == other.outcome == "converged"
    assert fit.notes == other.notes == ('at the boundary: "tau"',)
    assert float(fit.params["mu"]) == pytest.approx(mean, rel=SOLVERS)
    assert fit.log_likelihood == pytest.approx(height, rel=SOLVERS)
    assert other.log_likelihood == pytest.approx(height, rel=SOLVERS)
    assert str(fit.information()).count("no standard error") == 1


@pytest.mark.parametrize(("low", "high", "end"), [(1.0, 40.0, 1.0), (-40.0, 2.0, None), (20.0, 40.0, 20.0)])
def test_a_spread_at_another_bound_is_named(low: float, high: float, end: float | None) -> None:
    """Where zero is not allowed, it is at the nearest that is; where it is inside, it is no bound."""
    fit = fitted(schools(constraints.interval(low, high), start=low + 3.0), EFFECTS, ERRORS)
    assert fit.outcome == "converged"
    assert fit.notes == (() if end is None else ('at the boundary: "tau"',))
    assert float(fit.params["tau"]) == pytest.approx(end or 0.0, abs=SOLVERS)


def by_hand(y: Numbers, error: Numbers, mu: float, tau: float) -> tuple[float, float]:
    """One EM step of effects with known errors, not centred, where `tau` is at least zero."""
    variance = 1 / (1 + tau**2 / error**2)
    mean = variance * tau * (y - mu) / error**2
    weight, second = error**-2, mean**2 + variance
    matrix = np.array([[weight.sum(), (weight * mean).sum()], [(weight * mean).sum(), (weight * second).sum()]])
    new = np.linalg.solve(matrix, np.array([(weight * y).sum(), (weight * mean * y).sum()]))
    return (float(new[0]), float(new[1])) if new[1] >= 0 else (float((weight * y).sum() / weight.sum()), 0.0)


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_the_iterates_are_those_of_numpy(times: float) -> None:
    """Step by step."""
    pyro.clear_param_store()
    em, here = EM(schools(constraints.positive)), (0.0, 3.0)
    for _ in range(30):
        em.step(times * EFFECTS, ERRORS)
        here = by_hand(times * EFFECTS.numpy(), ERRORS.numpy(), *here)
        store = pyro.get_param_store()
        assert (store["mu"].item(), store["tau"].item()) == pytest.approx(here, rel=IDENTITY)


def test_loadings_inside_their_bounds() -> None:
    """They are those without bounds."""
    bound, free = (fitted(factor(c), COLUMNS, tol=1e-12) for c in (constraints.positive, constraints.real))
    assert not bound.notes
    assert bound.log_likelihood == pytest.approx(free.log_likelihood, rel=IDENTITY)
    torch.testing.assert_close(bound.params["weight"], free.params["weight"].abs(), rtol=1e-4, atol=0.0)


def test_a_loading_that_would_be_negative_is_zero() -> None:
    """It is at its bound, and the others are those of a factor without it."""
    fit = fitted(factor(constraints.positive), OPPOSED, tol=1e-12)
    assert fit.outcome == "converged"
    assert fit.notes == ('at the boundary: "weight"[3]',)
    assert float(fit.params["weight"][3]) == 0.0
    mean, square = OPPOSED.mean(0), (OPPOSED - OPPOSED.mean(0)).square().mean(0)
    alone = dist.Normal(mean[3], square[3].sqrt()).log_prob(OPPOSED[:, 3]).sum()
    covariance = (w := fit.params["weight"][:3]).outer(w) + torch.diag(fit.params["scale"][:3] ** 2)
    three = dist.MultivariateNormal(mean[:3], covariance).log_prob(OPPOSED[:, :3]).sum()
    assert fit.log_likelihood == pytest.approx(float(alone + three), rel=SOLVERS)


def test_an_open_bound_may_be_taken() -> None:
    """The path rises to a location of zero, as far as the constraint says; beyond there is nothing to gain."""
    x = torch.cat([drawn(30) - 3, drawn(30) + 3])
    fit = fitted(ordered(0.0, torch.inf), x)
    assert fit.params["loc"][0] == 0.0
    assert list(fit.path) == sorted(fit.path)
    assert fit.notes == ('at the boundary: "loc"[0]',)


def test_locations_in_an_interval() -> None:
    """Numbers that no others meet are clipped; both ends are named."""
    x = torch.cat([drawn(30) - 3, drawn(30) + 3])
    fit = fitted(ordered(-1.0, 1.5), x)
    assert fit.params["loc"].tolist() == [-1.0, 1.5]
    assert fit.notes == ('at the boundary: "loc"[0], "loc"[1]',)
    assert not fitted(ordered(-9.0, 9.0), x).notes


# ---- all ways to be at the bounds ------------------------------------------------------------------------------------

BATCH = 30


def least(matrix: Tensor, right: Tensor, low: Tensor, high: Tensor) -> float:
    """The minimum of `x' A x / 2 - r' x` between bounds, over all sets of entries that are at theirs."""
    values = list[float]()
    for at in itertools.product((-1, 0, 1), repeat=len(right)):
        side = torch.tensor(at)
        x, inside = torch.where(side < 0, low, torch.where(side > 0, high, 0.0)), side == 0
        if not bool(torch.isfinite(x).all()):
            continue
        rest = right[inside] - matrix[inside][:, ~inside] @ x[~inside]
        x[inside] = torch.linalg.lstsq(matrix[inside][:, inside], rest.unsqueeze(-1), driver="gelsd").solution[:, 0]
        if bool(((x >= low - IDENTITY) & (x <= high + IDENTITY)).all()):
            values.append(float(x @ matrix @ x / 2 - right @ x))
    return min(values)


def problems(size: int, kind: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw matrices with a diagonal of one, right sides, and bounds, some of them infinite."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn((BATCH, size + 2, size), generator=generator, dtype=torch.float64)
    y, common, ends, width, no = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((BATCH, size + 2, 1), (BATCH, size + 2, 1), (BATCH, size), (BATCH, size), (2, BATCH, size))
    )
    x = 0.05 * x + common if kind == "alike" else x
    if kind == "singular":
        x[..., -1] = x[..., 0]
    unit = x.square().sum(1).rsqrt()
    low = torch.where(no[0] > 0.8, -torch.inf, ends - 0.5)
    high = torch.where(no[1] > 0.3, torch.inf, ends - 0.5 + width.abs())
    return x.mT @ x * unit.unsqueeze(-1) * unit.unsqueeze(-2), (x.mT @ y).squeeze(-1) * unit, low, high


@pytest.mark.parametrize("kind", ["any", "alike", "singular"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_minimum_is_the_least_of_all_ways(size: int, kind: str) -> None:
    """Between the bounds, and no way is lower."""
    matrix, right, low, high = problems(size, kind)
    free = torch.linalg.lstsq(matrix, right.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)
    old = torch.where(torch.isfinite(low), low, torch.where(torch.isfinite(high), high, 0.0))
    found = bounds.between(matrix, right, old, free, (low, high))
    assert bool(((found >= low - IDENTITY) & (found <= high + IDENTITY)).all())
    for k in range(BATCH):
        value = float(found[k] @ matrix[k] @ found[k] / 2 - right[k] @ found[k])
        assert value <= least(matrix[k], right[k], low[k], high[k]) + IDENTITY


# ---- zero that is no maximum -----------------------------------------------------------------------------------------

FAR = (torch.tensor([-4.3, -29.9, -5.4]).double(), torch.tensor([1.1, 5.9, 6.3]).double())


def test_a_spread_that_a_step_put_to_zero_is_lifted() -> None:
    """From a mean far off the first step ends at zero, where every step stays; the likelihood rises from there."""
    assert by_hand(*(part.numpy() for part in FAR), 4.2, 3.0)[1] == 0.0
    fit = fitted(schools(constraints.positive, 4.2), *FAR)
    assert fit.converged
    assert float(fit.params["tau"]) > 5
    assert any(note.startswith("left a saddle") for note in fit.notes)


def test_without_a_lift_zero_is_taken_for_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """No disturbance moves it."""
    monkeypatch.setattr(saddle, "_lifted", lambda problem, name, value, moved: moved)
    assert float(fitted(schools(constraints.positive, 4.2), *FAR).params["tau"]) == 0.0


# ---- seen to fail ----------------------------------------------------------------------------------------------------


def clipped(matrix: Tensor, right: Tensor, old: Tensor, free: Tensor, ends: bounds.Bounds) -> Tensor:
    """What the minimum without bounds is when it is clipped."""
    return free.maximum(ends[0]).minimum(ends[1])


def test_clipping_is_no_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where unknowns meet, those inside move with those that are held."""
    matrix, right, low, high = problems(3, "alike")
    free = torch.linalg.solve(matrix, right.unsqueeze(-1)).squeeze(-1)
    found = clipped(matrix, right, free, free, (low, high))
    values = ((matrix @ found.unsqueeze(-1)).squeeze(-1) / 2 - right).mul(found).sum(-1).tolist()
    assert any(v > least(matrix[k], right[k], low[k], high[k]) + SOLVERS for k, v in enumerate(values))
    monkeypatch.setattr(equations, "between", clipped)
    pyro.clear_param_store()
    EM(schools(constraints.interval(9.0, 40.0), start=10.0)).step(*FAR)
    assert pyro.param("mu").item() != pytest.approx(float((FAR[0] / FAR[1] ** 2).sum() / (FAR[1] ** -2).sum()))


def test_without_the_look_at_bounds_the_note_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spread of zero is no estimate that runs off."""
    monkeypatch.setattr(edges, "_running", lambda *_: [])
    assert fitted(schools(constraints.positive), EFFECTS, ERRORS).notes != ('at the boundary: "tau"',)
