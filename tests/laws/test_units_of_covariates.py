"""A change of the units of a covariate changes its slopes, and nothing else."""

from collections.abc import Callable
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs.units import DOUBLE, SINGLE, data, lengths
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM

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
    ("power", "apart", "dtype"), [(-200, True, DOUBLE), (200, True, DOUBLE), (30, False, DOUBLE), (-40, True, SINGLE)]
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


@cache
def seen(law: str, unit: float, dtype: torch.dtype) -> tuple[float, list[str], str, float]:
    """Return objective, plan and ending of a fit over the covariate in another unit, and its slope in the first."""
    pyro.clear_param_store()
    fit = EM(lines_from_nothing).fit((COVARIATE * unit).to(dtype), unit, law)
    plan = [line.how for line in fit.plan.lines.values()]
    return fit.objective, plan, fit.outcome, float(fit.params["b"].double()) * unit


@pytest.mark.parametrize(("power", "dtype"), [(-200, DOUBLE), (-60, DOUBLE), (200, DOUBLE), (-20, SINGLE)])
@pytest.mark.parametrize("law", ["Normal", "Poisson", "Bernoulli"])
def test_a_slope_that_starts_at_zero_is_seen_in_any_unit(law: str, power: int, dtype: torch.dtype) -> None:
    """A covariate that is lost beside the intercept, or in which that is lost, does not hide its slope."""
    drawn, other = (seen(law, unit, dtype) for unit in (1.0, 2.0**power))
    assert drawn[1:3] == other[1:3]
    assert drawn[0] == pytest.approx(other[0], rel=1e-8 if dtype == DOUBLE else 1e-5)
    assert abs(other[3]) > 0.01
