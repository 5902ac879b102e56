"""A change of units or of origin changes the parameters with it, the log-density by what is known, and nothing else."""

from functools import cache
from math import log

import pyro
import pytest
import torch
from oracles.tolerances import IDENTITY
from programs.units import CLIMBED, DOUBLE, ROWS, SHIFTED, SINGLE, World
from torch import Tensor

from em_pyro import EM

STEPS = 8


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


@pytest.mark.parametrize("name", ROWS)
def test_a_default_fit_has_the_plan_and_the_ending_of_other_units(name: str) -> None:
    """Its tolerance is relative to an objective that has units: nothing else differs."""
    drawn, other = ended(name, 1.0), ended(name, 2.0**-200)
    assert drawn[:2] == other[:2]
    assert drawn[2] == pytest.approx(other[2], abs=1e-4)
