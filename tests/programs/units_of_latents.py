"""Programs with Gaussian latents in any units of what is observed, and of the covariates that multiply latents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

DOUBLE = torch.float64
G, PER = 8, 4  # groups, and rows of each


@dataclass(frozen=True)
class Units:
    """In what a program is written.

    Attributes:
        data: what is observed, and its scales, are multiplied by it.
        covariate: likewise.
        dtype: of all numbers.
    """

    data: float = 1.0
    covariate: float = 1.0
    dtype: torch.dtype = DOUBLE

    def of(self, value: Tensor, unit: float) -> Tensor:
        """Return what is drawn in that unit."""
        return (value * unit).to(self.dtype)

    def real(self, name: str, unit: float, *values: float) -> Tensor:
        """Declare a parameter; of one value a number."""
        return pyro.param(name, self._start(unit, *values))

    def scale(self, name: str, unit: float, *values: float) -> Tensor:
        """Declare a positive one."""
        return pyro.param(name, self._start(unit, *values), constraint=constraints.positive)

    def _start(self, unit: float, *values: float) -> Tensor:
        return self.of(torch.tensor(values if len(values) > 1 else values[0], dtype=DOUBLE), unit)

    def zeros(self, *shape: int) -> Tensor:
        """Return zeros."""
        return torch.zeros(shape, dtype=self.dtype)


def drawn(seed: int, *shape: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


OF = torch.arange(G).repeat_interleave(PER)
TIME = drawn(1, G * PER) + 2
GROWN = 3 + 0.5 * TIME + drawn(2, G)[OF] * TIME + drawn(3, G)[OF] + 0.3 * drawn(4, G * PER)
WALK = drawn(5, 20).cumsum(0) + 0.5 * drawn(6, 20)
SCORES = drawn(7, 30, 1) * torch.tensor([0.9, 1.2, -0.8, 1.0]) + 0.6 * drawn(9, 30, 4)
COLUMNS = torch.tensor([1.0, 2.0**-40, 2.0**40, 8.0], dtype=DOUBLE)  # units of their own
HOLES = drawn(10, 30, 4) > -0.8
FAR = torch.tensor([[0.0], [12.0]], dtype=DOUBLE).repeat_interleave(15, 0)


def intercepts(u: Units) -> None:
    """Random intercepts."""
    mean, between, within = u.real("mean", u.data, 0.5), u.scale("between", u.data, 1.0), u.scale("within", u.data, 1.0)
    with pyro.plate("groups", G):
        b = pyro.sample("b", dist.Normal(u.zeros(), between))
    with pyro.plate("rows", len(OF)):
        pyro.sample("y", dist.Normal(mean + b[OF], within), obs=u.of(GROWN, u.data))


def slopes(u: Units) -> None:
    """Random slopes of a covariate, beside a fixed intercept."""
    ratio, t = u.data / u.covariate, u.of(TIME, u.covariate)
    mean, slope = u.real("mean", u.data, 0.5), u.real("slope", ratio, 0.1)
    between, within = u.scale("between", ratio, 1.0), u.scale("within", u.data, 1.0)
    with pyro.plate("groups", G):
        b = pyro.sample("b", dist.Normal(u.zeros(), between))
    with pyro.plate("rows", len(OF)):
        pyro.sample("y", dist.Normal(mean + (slope + b[OF]) * t, within), obs=u.of(GROWN, u.data))


def both(u: Units) -> None:
    """Random intercepts and slopes, which are in the same component in units of their own."""
    ratio, t = u.data / u.covariate, u.of(TIME, u.covariate)
    mean, slope = u.real("mean", u.data, 0.5), u.real("slope", ratio, 0.1)
    first, second = u.scale("first", u.data, 1.0), u.scale("second", ratio, 1.0)
    within = u.scale("within", u.data, 1.0)
    with pyro.plate("groups", G):
        a = pyro.sample("a", dist.Normal(u.zeros(), first))
        b = pyro.sample("b", dist.Normal(u.zeros(), second))
    with pyro.plate("rows", len(OF)):
        pyro.sample("y", dist.Normal(mean + a[OF] + (slope + b[OF]) * t, within), obs=u.of(GROWN, u.data))


def together(u: Units) -> None:
    """The same with a covariance, whose entries have units of their own."""
    ratio, t = u.data / u.covariate, u.of(TIME, u.covariate)
    mean, slope = u.real("mean", u.data, 0.5), u.real("slope", ratio, 0.1)
    units = torch.tensor([u.data, ratio], dtype=DOUBLE)
    root = pyro.param("root", units.diag().to(u.dtype), constraint=constraints.lower_cholesky)
    within = u.scale("within", u.data, 1.0)
    with pyro.plate("groups", G):
        b = pyro.sample("b", dist.MultivariateNormal(u.zeros(2), scale_tril=root))
    with pyro.plate("rows", len(OF)):
        line = mean + b[OF, 0] + (slope + b[OF, 1]) * t
        pyro.sample("y", dist.Normal(line, within), obs=u.of(GROWN, u.data))


def offset(u: Units) -> None:
    """Random slopes around a line that is known, beside a slope that is a parameter."""
    ratio, t = u.data / u.covariate, u.of(TIME, u.covariate)
    slope, between, within = u.real("slope", ratio, 0.1), u.scale("between", ratio, 1.0), u.scale("within", u.data, 1.0)
    with pyro.plate("groups", G):
        b = pyro.sample("b", dist.Normal(u.zeros(), between))
    with pyro.plate("rows", len(OF)):
        loc = u.of(torch.tensor(3.0), u.data) + slope * t + b[OF] * t
        pyro.sample("y", dist.Normal(loc, within), obs=u.of(GROWN, u.data))


def level(u: Units) -> None:
    """A local level."""
    step, noise = u.scale("step", u.data, 0.5), u.scale("noise", u.data, 1.0)
    z, y = u.zeros(), u.of(WALK, u.data)
    for t in range(len(y)):
        z = pyro.sample(f"z_{t}", dist.Normal(z, step if t else 4 * step))
        pyro.sample(f"y_{t}", dist.Normal(z, noise), obs=y[t])


def factors(u: Units) -> None:
    """A factor of columns, each of which has units of its own too."""
    unit = COLUMNS * u.data if u.dtype == DOUBLE else torch.full((4,), u.data, dtype=DOUBLE)
    start = torch.tensor([[0.5], [0.6], [-0.3], [0.9]], dtype=DOUBLE) * unit[:, None]
    loadings, loc = pyro.param("loadings", start.to(u.dtype)), pyro.param("loc", (0.1 * unit).to(u.dtype))
    scale = pyro.param("scale", unit.to(u.dtype), constraint=constraints.positive)
    with pyro.plate("rows", len(SCORES)):
        z = pyro.sample("z", dist.Normal(u.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ loadings.T + loc, scale).to_event(1), obs=(SCORES * unit).to(u.dtype))


def holes(u: Units) -> None:
    """A normal law of rows with missing entries, which are seen exactly where they are seen."""
    loc = u.real("loc", u.data, 0.0, 0.0, 0.5, 1.0)
    root = pyro.param("root", u.of(2 * torch.eye(4, dtype=DOUBLE), u.data), constraint=constraints.lower_cholesky)
    x = torch.where(HOLES, u.of(SCORES, u.data), 0.0)
    with pyro.plate("rows", len(x)):
        row = pyro.sample("row", dist.MultivariateNormal(loc, scale_tril=root))
        pyro.sample("x", dist.Delta(row).mask(HOLES).to_event(1), obs=x)


def covariate(u: Units) -> None:
    """A regression on a covariate of which some values are missing, and filled in."""
    ratio, i = u.data / u.covariate, torch.arange(0, len(TIME), 5)
    where, spread = u.real("where", u.covariate, 1.0), u.scale("spread", u.covariate, 1.0)
    mean, slope, within = u.real("mean", u.data, 0.5), u.real("slope", ratio, 0.4), u.scale("within", u.data, 1.0)
    with pyro.plate("missing", len(i)):
        v = pyro.sample("v", dist.Normal(u.zeros(), 1.0).mask(mask=False))
    full = u.of(TIME, u.covariate)
    full[i] = v
    with pyro.plate("rows", len(full)):
        pyro.sample("t", dist.Normal(where, spread), obs=full)
        pyro.sample("y", dist.Normal(mean + slope * full, within), obs=u.of(GROWN, u.data))


def mixture(u: Units) -> None:
    """A mixture of two factor analysers."""
    weights = pyro.param("weights", u.of(torch.tensor([0.4, 0.6]), 1.0), constraint=constraints.simplex)
    start = torch.tensor([[0.5, 0.6, -0.3, 0.9], [0.6, 0.5, -0.8, 0.3]], dtype=DOUBLE)
    loadings = pyro.param("loadings", u.of(start, u.data))
    loc = pyro.param("loc", u.of(torch.tensor([[0.0], [9.0]], dtype=DOUBLE).expand(2, 4), u.data))
    scale = u.scale("scale", u.data, 1.0, 1.0, 1.0, 1.0)
    with pyro.plate("rows", len(SCORES)):
        c = pyro.sample("c", dist.Categorical(weights))
        z = pyro.sample("z", dist.Normal(u.zeros(), 1.0))
        law = dist.Normal(z[..., None] * loadings[c] + loc[c], scale).to_event(1)
        pyro.sample("x", law, obs=u.of(SCORES + FAR, u.data))


PROGRAMS: Mapping[str, tuple[Callable[[Units], None], int, int]] = {
    "intercepts": (intercepts, len(GROWN), 0),
    "slopes": (slopes, len(GROWN), 0),
    "both": (both, len(GROWN), 0),
    "together": (together, len(GROWN), 0),
    "offset": (offset, len(GROWN), 0),
    "level": (level, len(WALK), 0),
    "factors": (factors, SCORES.numel(), 0),
    "holes": (holes, int(HOLES.sum()), 0),
    "covariate": (covariate, len(GROWN), len(TIME) - len(range(0, len(TIME), 5))),
    "mixture": (mixture, SCORES.numel(), 0),
}
"""Each with how many values are observed in the units of the data, and in those of the covariate."""


def change(name: str, u: Units) -> float:
    """Return what a log-density in these units lacks of that in the units of the data as drawn."""
    _, values, covariates = PROGRAMS[name]
    return values * log(u.data) + covariates * log(u.covariate)
