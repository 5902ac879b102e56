"""A change of units or of origin changes the parameters with it, the log-density by what is known, and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log

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
}
SHIFTED = ("normal", "diagonal", "full", "laplace")


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


@pytest.mark.parametrize("power", [-200, -40, 40, 200])
@pytest.mark.parametrize("name", ROWS)
def test_units(name: str, power: int) -> None:
    """Powers of two change no digit of a length."""
    assert apart(name, World(2.0**power, 0.0, DOUBLE)) < IDENTITY


@pytest.mark.parametrize("power", [-40, 40])
@pytest.mark.parametrize("name", ROWS)
def test_units_in_single_precision(name: str, power: int) -> None:
    """The same of float32, in which parameters are rounded."""
    assert apart(name, World(2.0**power, 0.0, SINGLE)) < 1e-5


@pytest.mark.parametrize("shift", [1e5, -(2.0**32)])
@pytest.mark.parametrize("name", SHIFTED)
def test_origin(name: str, shift: float) -> None:
    """Locations far from zero are as good as near it, to the digits that they are rounded to there."""
    assert apart(name, World(1.0, shift, DOUBLE)) < max(IDENTITY, abs(shift) * 2.0**-54)
