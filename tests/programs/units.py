"""Programs written in any units: every length times a power of two, every location shifted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

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
