"""Latents whose mean is one of the parameters: found in any units, and where it is none, not found."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

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
