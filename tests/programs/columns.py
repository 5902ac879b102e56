"""Programs whose arguments differ by row in ways that are common: covariates, exposures, groups, known scales."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

ROWS = 300


def rows() -> dict[str, Tensor]:
    """Covariates, and what depends on them in two kinds of rows."""
    drawn = np.random.default_rng(0)
    x, kind = drawn.normal(1.0, 2.0, (ROWS, 2)), drawn.integers(0, 2, ROWS)
    group, exposure = drawn.integers(0, 4, ROWS), drawn.uniform(0.5, 4.0, ROWS)
    y = np.where(kind, 2.0, -1.0) * x[:, 0] + 0.5 * group + drawn.normal(size=ROWS)
    n = drawn.poisson(np.where(kind, 0.7, 3.0) * exposure).astype(float)
    made = {"x": x, "group": group, "exposure": exposure, "y": y, "n": n, "other": drawn.integers(0, 4, ROWS)}
    return {name: torch.tensor(part) for name, part in made.items()}


def sorted_rows() -> dict[str, Tensor]:
    """Rows by group, of which the first have one covariate in common: no share has all covariates."""
    made = rows()
    order = made["group"].argsort(stable=True)
    made = {name: part[order] for name, part in made.items()}
    made["x"][:140, 0], made["group"][:140] = 2.5, 0
    return made


def two_kinds() -> Tensor:
    """Draw the kind of every row."""
    weights = pyro.param("weights", torch.tensor([0.4, 0.6]).double(), constraint=constraints.simplex)
    return pyro.sample("z", dist.Categorical(weights))  # type: ignore[no-any-return]


def spread() -> Tensor:
    """One scale for each kind."""
    return pyro.param("scale", torch.ones(2).double(), constraint=constraints.positive)  # type: ignore[no-any-return]


def start(*shape: int) -> Tensor:
    """Values to start from."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()


def slope(d: Mapping[str, Tensor]) -> None:
    """One covariate, in other units."""
    b = pyro.param("b", start(2))
    with pyro.plate("rows", len(d["y"])):
        z = two_kinds()
        pyro.sample("y", dist.Normal(b[z] * (d["x"][:, 0] - 1.5) / 2, spread()[z]), obs=d["y"])


def powers(d: Mapping[str, Tensor]) -> None:
    """A polynomial."""
    b, x = pyro.param("b", start(2, 3)), d["x"][:, 0]
    with pyro.plate("rows", len(d["y"])):
        z = two_kinds()
        pyro.sample("y", dist.Normal(b[z, 0] + b[z, 1] * x + b[z, 2] * x**2, spread()[z]), obs=d["y"])


def groups(d: Mapping[str, Tensor]) -> None:
    """Means of groups."""
    loc = pyro.param("loc", start(2, 4))
    with pyro.plate("rows", len(d["y"])):
        z = two_kinds()
        pyro.sample("y", dist.Normal(loc[z, d["group"]], spread()[z]), obs=d["y"])


def no_latents(d: Mapping[str, Tensor]) -> None:
    """Means of groups alone."""
    loc, scale = pyro.param("loc", start(4)), pyro.param("scale", start(4).exp(), constraint=constraints.positive)
    with pyro.plate("rows", len(d["y"])):
        pyro.sample("y", dist.Normal(loc[d["group"]], scale[d["group"]]), obs=d["y"])


def exposures(d: Mapping[str, Tensor]) -> None:
    """Counts over longer and shorter times."""
    rate = pyro.param("rate", torch.tensor([1.0, 2.0]).double(), constraint=constraints.positive)
    with pyro.plate("rows", len(d["n"])):
        z = two_kinds()
        pyro.sample("n", dist.Poisson(rate[z] * d["exposure"]), obs=d["n"])


def exposed_groups(d: Mapping[str, Tensor]) -> None:
    """Waiting times, both by group and by exposure, with a prior."""
    with pyro.plate("groups", 4):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(d["y"])):
        pyro.sample("t", dist.Exponential(rate[d["group"]] * d["exposure"]), obs=d["y"].abs() + 0.1)


def exposed_shares(d: Mapping[str, Tensor]) -> None:
    """Counts by an exposure that is one in all rows of the first share, and one in all rows of the second."""
    rate = pyro.param("rate", torch.tensor([1.0, 2.0]).double(), constraint=constraints.positive)
    with pyro.plate("rows", len(d["n"])):
        z = two_kinds()
        pyro.sample("n", dist.Poisson(rate[z] * (1.0 + 1.5 * (d["group"] > 0))), obs=d["n"])


def known_scales(d: Mapping[str, Tensor]) -> None:
    """Scales that are known of every row."""
    b = pyro.param("b", start(2, 2))
    with pyro.plate("rows", len(d["y"])):
        z = two_kinds()
        pyro.sample("y", dist.Normal((d["x"] * b[z]).sum(-1), d["exposure"].sqrt()), obs=d["y"])


COLUMNS: tuple[Callable[[Any], None], ...] = (slope, powers, groups, no_latents, exposures, exposed_groups)


def interaction(d: Mapping[str, Tensor]) -> None:
    """A product of two covariates, which no column is."""
    b = pyro.param("b", start(2))
    with pyro.plate("rows", len(d["y"])):
        z = two_kinds()
        pyro.sample("y", dist.Normal(b[z] * d["x"][:, 0] * d["x"][:, 1], spread()[z]), obs=d["y"])


def dummies(d: Mapping[str, Tensor]) -> None:
    """A level for each group, by columns that are zero or one, beside a covariate."""
    b, c = pyro.param("b", start(4)), pyro.param("c", start(2))
    design = torch.nn.functional.one_hot(d["group"], 4).double()
    with pyro.plate("rows", len(d["y"])):
        z = two_kinds()
        pyro.sample("y", dist.Normal(design @ b + c[z] * d["x"][:, 0], spread()[z]), obs=d["y"])


def two_numbers(d: Mapping[str, Tensor]) -> None:
    """Means by one number of a row, scales by another, which has as many values."""
    loc, scale = pyro.param("loc", start(2, 4)), pyro.param("scale", start(4).exp(), constraint=constraints.positive)
    with pyro.plate("rows", len(d["y"])):
        z = two_kinds()
        pyro.sample("y", dist.Normal(loc[z, d["group"]], scale[d["other"]]), obs=d["y"])


def table(d: Mapping[str, Tensor]) -> None:
    """A table by two numbers of a row."""
    loc = pyro.param("loc", start(2, 4, 4))
    with pyro.plate("rows", len(d["y"])):
        z = two_kinds()
        pyro.sample("y", dist.Normal(loc[z, d["group"], d["other"]], spread()[z]), obs=d["y"])


def levels(d: Mapping[str, Tensor]) -> None:
    """A level for each of sixteen groups, and a slope of each kind along what is zero in some rows."""
    level, slope = pyro.param("level", start(16)), pyro.param("slope", start(2))
    with pyro.plate("rows", len(d["y"])):
        z = two_kinds()
        pyro.sample("y", dist.Normal(level[4 * d["group"] + d["other"]] + slope[z] * d["other"], 1.0), obs=d["y"])


def many_levels(d: Mapping[str, Tensor]) -> None:
    """Counts with a level for each of 60 places, of which few rows have few, beside a slope."""
    level, slope = pyro.param("level", start(60) / 60), pyro.param("slope", start(1) / 10)
    with pyro.plate("rows", len(d["y"])):
        pyro.sample("n", dist.Poisson((level[d["place"]] + slope * d["x"][:, 0]).exp()), obs=d["n"])
