"""A change of units or of origin changes the parameters with it, the log-density by what is known, and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from math import log
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM

STEPS = 8
DOUBLE, SINGLE = torch.float64, torch.float32


@dataclass(frozen=True)
class World:
    """Units in which a program is written: every length times `scale`, then every location plus `shift`."""

    scale: float
    shift: float
    dtype: torch.dtype

    def length(self, *values: float) -> Tensor:
        """Return lengths."""
        return (torch.tensor(values, dtype=DOUBLE) * self.scale).to(self.dtype)

    def place(self, *values: float) -> Tensor:
        """Return locations; on a grid of 1/64, so that a shift by a large integer is exact."""
        return ((torch.tensor(values, dtype=DOUBLE) * self.scale) + self.shift).to(self.dtype)

    def number(self, *values: float) -> Tensor:
        """Return what has no unit."""
        return torch.tensor(values, dtype=self.dtype)


def data(*shape: int, positive: bool = False) -> Tensor:
    """Draw two groups of numbers on a grid of 1/64."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    x[len(x) // 2 :] = 4 + 1.5 * x[len(x) // 2 :]
    x = (x * 64).round() / 64
    return x.abs() + 0.25 if positive else x


Model = Callable[[Tensor, World], None]


def weights(u: World) -> Tensor:
    """Return the weights of two components."""
    return pyro.param("w", u.number(0.4, 0.6), constraint=constraints.simplex)


def lengths(name: str, value: Tensor) -> Tensor:
    """Declare positive lengths."""
    return pyro.param(name, value, constraint=constraints.positive)


def normal(x: Tensor, u: World) -> None:
    """Mix two normals."""
    loc, scale, w = pyro.param("loc", u.place(0.0, 3.0)), lengths("scale", u.length(1.0, 2.0)), weights(u)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def diagonal(x: Tensor, u: World) -> None:
    """Mix two normals of two coordinates each, with one scale for both components."""
    loc = pyro.param("loc", u.place(0.0, 0.5, 3.0, 4.0).reshape(2, 2))
    scale, w = lengths("scale", u.length(1.0, 2.0)), weights(u)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(loc[z], scale).to_event(1), obs=x)


def full(x: Tensor, u: World) -> None:
    """Mix two normals with covariances."""
    loc = pyro.param("loc", u.place(0.0, 0.5, 3.0, 4.0).reshape(2, 2))
    start = u.length(1.0, 0.0, 0.5, 1.0).reshape(2, 2).repeat(2, 1, 1)
    tril, w = pyro.param("tril", start, constraint=constraints.lower_cholesky), weights(u)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.MultivariateNormal(loc[z], scale_tril=tril[z]), obs=x)


def regression(x: Tensor, u: World) -> None:
    """Mix two lines over a covariate that has no unit."""
    line, scale = pyro.param("line", u.length(0.0, 0.2, 3.0, -0.1).reshape(2, 2)), lengths("scale", u.length(1.0))
    w, t = weights(u), torch.linspace(-2, 2, len(x), dtype=u.dtype)
    design = torch.stack([torch.ones_like(t), t], -1)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal((line[z] * design).sum(-1), scale), obs=x)


def exponential(x: Tensor, u: World) -> None:
    """Mix two exponentials by their means."""
    mean, w = lengths("mean", u.length(0.5, 4.0)), weights(u)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Exponential(1 / mean[z]), obs=x)


def gamma(x: Tensor, u: World) -> None:
    """Mix two gammas."""
    shape, w = lengths("shape", u.number(1.5, 3.0)), weights(u)
    rate = lengths("rate", 1 / u.length(1.0, 0.75))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Gamma(shape[z], rate[z]), obs=x)


def lognormal(x: Tensor, u: World) -> None:
    """Mix two lognormals: their locations are logarithms."""
    loc = pyro.param("loc", u.number(-0.5, 1.0) + log(u.scale))
    scale, w = lengths("scale", u.number(1.0, 0.5)), weights(u)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.LogNormal(loc[z], scale[z]), obs=x)


def weibull(x: Tensor, u: World) -> None:
    """Mix two Weibulls."""
    shape, scale, w = lengths("shape", u.number(1.5, 3.0)), lengths("scale", u.length(1.0, 4.0)), weights(u)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Weibull(scale[z], shape[z]), obs=x)


def laplace(x: Tensor, u: World) -> None:
    """Mix two Laplaces."""
    loc, scale, w = pyro.param("loc", u.place(0.0, 3.0)), lengths("scale", u.length(1.0, 2.0)), weights(u)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Laplace(loc[z], scale[z]), obs=x)


def climbed(x: Tensor, u: World, law: Any) -> None:
    """Mix two densities that only torch maximises."""
    loc, scale, w = pyro.param("loc", u.place(0.0, 3.0)), lengths("scale", u.length(1.0, 2.0)), weights(u)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", law(loc[z], scale[z]), obs=x)


def chain(x: Tensor, u: World) -> None:
    """Normals along a chain of two states."""
    loc, scale = pyro.param("loc", u.place(0.0, 3.0)), lengths("scale", u.length(1.0, 2.0))
    move = pyro.param("move", u.number(0.7, 0.3, 0.4, 0.6).reshape(2, 2), constraint=constraints.simplex)
    z = pyro.sample("z_0", dist.Categorical(u.number(0.5, 0.5)))
    for k in pyro.markov(range(len(x))):
        z = pyro.sample(f"z_{k}", dist.Categorical(move[z])) if k else z
        pyro.sample(f"x_{k}", dist.Normal(loc[z], scale[z]), obs=x[k])


ROWS: Mapping[str, tuple[Model, Tensor]] = {
    "normal": (normal, data(40)),
    "diagonal": (diagonal, data(40, 2)),
    "full": (full, data(40, 2)),
    "regression": (regression, data(40)),
    "exponential": (exponential, data(40, positive=True)),
    "gamma": (gamma, data(40, positive=True)),
    "lognormal": (lognormal, data(40, positive=True)),
    "weibull": (weibull, data(40, positive=True)),
    "laplace": (laplace, data(40)),
    "chain": (chain, data(12)),
    "logistic": (partial(climbed, law=dist.Logistic), data(40)),
    "gumbel": (partial(climbed, law=dist.Gumbel), data(40)),
    "cauchy": (partial(climbed, law=dist.Cauchy), data(40)),
}
CLIMBED = ("logistic", "gumbel", "cauchy")  # torch has their densities in the dtype of the program
SHIFTED = ("normal", "diagonal", "full", "laplace", "chain", "logistic", "gumbel")


@cache
def path(name: str, world: World) -> tuple[dict[str, str], Tensor]:
    """Return the plan, and the path of the log-likelihood in the units of the data as drawn."""
    model, x = ROWS[name]
    pyro.clear_param_store()
    fit = EM(model, tol=0.0, acceleration=None, max_steps=STEPS).fit(
        world.place(*x.flatten().tolist()).reshape(x.shape), world
    )
    plan = {parameter: line.how for parameter, line in fit.plan.lines.items()}
    return plan, torch.tensor(fit.path, dtype=DOUBLE) + x.numel() * log(world.scale)


def apart(name: str, world: World) -> float:
    """Return how far a path is from the one in the units of the data as drawn; the plans are the same."""
    (plan, other), (drawn, own) = path(name, world), path(name, World(1.0, 0.0, world.dtype))
    assert plan == drawn
    assert own[-1] > own[0] + 1e-3  # nats: there is a path
    return float((other - own).abs().max() / (1 + own.abs().max()))


@pytest.mark.parametrize("power", [-200, 200])
@pytest.mark.parametrize("name", ROWS)
def test_units(name: str, power: int) -> None:
    """Powers of two change no digit of a length."""
    assert apart(name, World(2.0**power, 0.0, DOUBLE)) < IDENTITY


@pytest.mark.parametrize("power", [-40, 40])
@pytest.mark.parametrize("name", [name for name in ROWS if name not in CLIMBED])
def test_units_in_single_precision(name: str, power: int) -> None:
    """The same of float32, in which parameters are rounded."""
    assert apart(name, World(2.0**power, 0.0, SINGLE)) < 1e-5


@pytest.mark.parametrize("shift", [1e5, -(2.0**32)])
@pytest.mark.parametrize("name", SHIFTED)
def test_origin(name: str, shift: float) -> None:
    """Locations far from zero are as good as near it, to the digits that they are rounded to there."""
    assert apart(name, World(1.0, shift, DOUBLE)) < max(IDENTITY, abs(shift) * 2.0**-54)


@cache
def ended(name: str, scale: float) -> tuple[dict[str, str], str, float]:
    """Return the plan of a default fit, its ending, and its objective in the units of the data as drawn."""
    model, x = ROWS[name]
    pyro.clear_param_store()
    fit = EM(model, starts=2).fit(x * scale, World(scale, 0.0, DOUBLE))
    plan = {parameter: line.how for parameter, line in fit.plan.lines.items()}
    return plan, fit.outcome, fit.objective + x.numel() * log(scale)


@pytest.mark.parametrize("power", [-200, 200])
@pytest.mark.parametrize("name", ROWS)
def test_a_default_fit_has_the_plan_and_the_ending_of_other_units(name: str, power: int) -> None:
    """Its tolerance is relative to an objective that has units: nothing else differs."""
    drawn, other = ended(name, 1.0), ended(name, 2.0**power)
    assert drawn[:2] == other[:2]
    assert drawn[2] == pytest.approx(other[2], abs=1e-4)


# ---- covariates ------------------------------------------------------------------------------------------------------

COVARIATE = data(40).flip(0) / 4
COUNTS = torch.poisson((0.5 + 0.3 * COVARIATE).exp(), generator=torch.Generator().manual_seed(5))


def straight(t: Tensor, unit: float, *, apart: bool) -> None:
    """Mix two lines; `apart`: their slopes are a parameter of their own."""
    w = pyro.param("w", t.new_tensor([0.4, 0.6]), constraint=constraints.simplex)
    b, scale = coefficients(t, unit, apart=apart), lengths("scale", t.new_tensor(1.0))
    with pyro.plate("rows", len(t)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(b[z, 0] + b[z, 1] * t, scale), obs=data(40).to(t))


def counted(t: Tensor, unit: float, *, apart: bool) -> None:
    """Counts that depend on a covariate."""
    b = coefficients(t, unit, apart=apart)[0]
    with pyro.plate("rows", len(t)):
        pyro.sample("x", dist.Poisson((b[0] + b[1] * t).exp()), obs=COUNTS.to(t))


def logistic(t: Tensor, unit: float, *, apart: bool) -> None:
    """Whether counts are odd."""
    b = coefficients(t, unit, apart=apart)[0]
    with pyro.plate("rows", len(t)):
        pyro.sample("x", dist.Bernoulli(logits=b[0] + b[1] * t), obs=(COUNTS % 2).to(t))


def logistic_by_torch(t: Tensor, unit: float, *, apart: bool) -> None:
    """The same in a form that only torch maximises."""
    b = coefficients(t, unit, apart=apart)[0]
    predictor = b[0] + b[1] * t
    with pyro.plate("rows", len(t)):
        pyro.sample("x", dist.Bernoulli(0.02 + 0.96 * predictor.sigmoid()), obs=(COUNTS % 2).to(t))


def coefficients(t: Tensor, unit: float, *, apart: bool) -> Tensor:
    """Return intercepts and slopes of two components, shape `(2, 2)`."""
    b = t.new_tensor([[0.0, 0.2 / unit], [3.0, -0.1 / unit]])
    if not apart:
        return pyro.param("b", b)
    return torch.stack([pyro.param("a", b[:, 0].clone()), pyro.param("b", b[:, 1].clone())], -1)


@cache
def over(
    model: Callable[..., None], unit: float, *, apart: bool, dtype: torch.dtype
) -> tuple[dict[str, str], str, float]:
    """Return the plan of a fit over the covariate in another unit, its ending and its objective."""
    pyro.clear_param_store()
    fit = EM(model, acceleration=None).fit((COVARIATE * unit).to(dtype), unit, apart=apart)
    return {parameter: line.how for parameter, line in fit.plan.lines.items()}, fit.outcome, fit.objective


@pytest.mark.parametrize(
    ("power", "apart", "dtype"),
    [(-200, True, DOUBLE), (200, True, DOUBLE), (30, False, DOUBLE), (-40, True, SINGLE), (10, False, SINGLE)],
)
@pytest.mark.parametrize("model", [straight, counted, logistic, logistic_by_torch])
def test_units_of_a_covariate(model: Callable[..., None], power: int, *, apart: bool, dtype: torch.dtype) -> None:
    """The slopes have them, and nothing else changes: neither the plan nor the ending nor the maximum."""
    drawn, other = (over(model, unit, apart=apart, dtype=dtype) for unit in (1.0, 2.0**power))
    assert drawn[:2] == other[:2]
    assert drawn[2] == pytest.approx(other[2], rel=1e-6 if dtype == DOUBLE else 1e-4)


def lines_from_nothing(t: Tensor, unit: float, law: str) -> None:
    """A regression whose slopes start at zero, where they have no size of their own."""
    a, b = pyro.param("a", t.new_zeros(())), pyro.param("b", t.new_zeros(()))
    with pyro.plate("rows", len(t)):
        if law == "Normal":
            pyro.sample("x", dist.Normal(a + b * t, lengths("scale", t.new_ones(()))), obs=data(40).to(t))
        elif law == "Poisson":
            pyro.sample("x", dist.Poisson((a + b * t).exp()), obs=COUNTS.to(t))
        else:
            pyro.sample("x", dist.Bernoulli(logits=a + b * t), obs=(COUNTS % 2).to(t))


@pytest.mark.parametrize(
    ("power", "dtype"), [(-200, DOUBLE), (-60, DOUBLE), (200, DOUBLE), (-40, SINGLE), (-20, SINGLE), (30, SINGLE)]
)
@pytest.mark.parametrize("law", ["Normal", "Poisson", "Bernoulli"])
def test_a_slope_that_starts_at_zero_is_seen_in_any_unit(law: str, power: int, dtype: torch.dtype) -> None:
    """A covariate that is lost beside the intercept, or in which that is lost, does not hide its slope."""
    found = []
    for unit in (1.0, 2.0**power):
        pyro.clear_param_store()
        fit = EM(lines_from_nothing).fit((COVARIATE * unit).to(dtype), unit, law)
        found.append((fit.objective, [line.how for line in fit.plan.lines.values()], fit.outcome))
        slope = float(fit.params["b"].double()) * unit
    assert found[0][1:] == found[1][1:]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-8 if dtype == DOUBLE else 1e-5)
    assert abs(slope) > 0.01
