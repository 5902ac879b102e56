"""Latents whose mean is one of the parameters: found in any units, and where it is none, not found."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ObjectiveError
from em_pyro.e_step.gaussian import take

GROUP = torch.arange(40) // 5


def slopes(y: Tensor, fixed: Tensor, own: Tensor, noise: float) -> None:
    """Slopes that differ between groups, on a covariate `own`; a fixed effect, of `fixed`."""
    mean = pyro.param("mean", tensor(0.0).double())
    scale = pyro.param("scale", tensor(1.0).double(), constraint=constraints.positive)
    sigma = pyro.param("sigma", tensor(noise).double(), constraint=constraints.positive)
    with pyro.plate("groups", 8):
        u = pyro.sample("u", dist.Normal(torch.zeros((), dtype=torch.float64), scale))
    with pyro.plate("rows", 40):
        pyro.sample("y", dist.Normal(mean * fixed + u[GROUP] * own, sigma), obs=y)


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**40])
@pytest.mark.parametrize("same_covariate", [True, False])
def test_in_any_units(unit: float, *, same_covariate: bool) -> None:
    """Four steps are those of other units of all that is observed; the path moves by the logarithm of the unit."""
    own = torch.linspace(0.3, 9.0, 40).double().sin()
    fixed = own if same_covariate else torch.linspace(0.0, 7.0, 40).double().cos()
    y = 2 * fixed + own * GROUP.double().cos() + 0.3 * torch.linspace(0.0, 50.0, 40).double().sin()
    fits = []
    for scale in (1.0, unit):
        pyro.clear_param_store()
        fits.append(EM(slopes, max_steps=4).fit(scale * y, scale * fixed, scale * own, scale))
    plain, moved = fits
    same(tensor(moved.path) + 40 * math.log(unit), tensor(plain.path))
    same(moved.params["mean"], plain.params["mean"])
    same(moved.params["scale"], plain.params["scale"])
    same(moved.params["sigma"] / unit, plain.params["sigma"])


def bounded(y: Tensor, constraint: Any) -> None:
    """Groups around a mean of which something is known."""
    mean = pyro.param("mean", tensor(0.4).double(), constraint=constraint)
    spread = pyro.param("spread", tensor(1.0).double(), constraint=constraints.positive)
    with pyro.plate("groups", 8):
        u = pyro.sample("u", dist.Normal(torch.zeros((), dtype=torch.float64), spread))
    with pyro.plate("rows", 40):
        pyro.sample("y", dist.Normal(mean + u[GROUP], spread), obs=y)


def elsewhere(y: Tensor, other: str) -> None:
    """Groups around a mean that is part of another site, too: of one without latents, of a scale, of a prior."""
    mean = pyro.param("mean", tensor(0.4).double())
    spread = pyro.param("spread", tensor(1.0).double(), constraint=constraints.positive)
    with pyro.plate("groups", 8):
        u = pyro.sample("u", dist.Normal(torch.zeros((), dtype=torch.float64), spread))
        if other == "site":
            pyro.sample("seen", dist.Normal(mean, 0.1), obs=y[:8])
        if other == "rate":
            pyro.sample("seen", dist.Poisson(mean.exp()), obs=y[:8].abs().round())
    with pyro.plate("rows", 40):
        scale = mean.exp() if other == "scale" else tensor(0.7).double()
        pyro.sample("y", dist.Normal(mean + u[GROUP], scale), obs=y)


WAVES = 3 * torch.linspace(0.0, 50.0, 40).double().sin() + GROUP.double().cos()


def check_climbs(model: Callable[..., None], *args: Any) -> None:
    """Steps that may be expanded do not lead down, nor out of what is allowed: either would be an error."""
    pyro.clear_param_store()
    path = EM(model, max_steps=6).fit(*args).path
    assert path[-1] > path[0] + 0.1


@pytest.mark.parametrize("mean", [-2.0, 2.0])
@pytest.mark.parametrize("constraint", [constraints.positive, constraints.interval(-0.5, 0.5)])
def test_a_mean_with_bounds_is_not_translated(constraint: Any, mean: float) -> None:
    """It would be moved out of them."""
    check_climbs(bounded, WAVES + mean, constraint)


@pytest.mark.parametrize("other", ["site", "rate", "scale"])
def test_a_mean_that_is_elsewhere_is_not_translated(other: str) -> None:
    """What it is there would change with it."""
    check_climbs(elsewhere, WAVES + 1.0, other)


def test_translations_that_should_not_be_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were every parameter movable, the objective would fall."""
    monkeypatch.setattr(take, "_movable", lambda left, latents, sites: dict(latents.sizes))
    with pytest.raises(ObjectiveError, match="not to fall"):
        check_climbs(bounded, WAVES - 2.0, constraints.positive)
    with pytest.raises(ObjectiveError, match="not to fall"):
        check_climbs(elsewhere, WAVES + 1.0, "site")
