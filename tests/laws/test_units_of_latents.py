"""Units of what is observed, and of what multiplies a latent, change nothing of a program with Gaussian latents."""

from functools import cache

import pyro
import pytest
import torch
from oracles.tolerances import IDENTITY
from programs.units_of_latents import DOUBLE, PROGRAMS, Units, change

from em_pyro import EM
from em_pyro.reading.latents import replays
from em_pyro.reading.latents.bilinear import Places

SINGLE = torch.float32
STEPS = 6
OTHERS = [(100, 0), (0, -100), (-100, 100)]
"""Powers of two, of the data and of the covariate: both ways for each, alone and together."""


def units(powers: tuple[int, int], dtype: torch.dtype = DOUBLE) -> Units:
    """Return them."""
    return Units(2.0 ** powers[0], 2.0 ** powers[1], dtype)


@cache
def path(name: str, u: Units) -> tuple[dict[str, str], torch.Tensor]:
    """Return the plan, and the path of the log-likelihood in the units of the data as drawn."""
    pyro.clear_param_store()
    fit = EM(PROGRAMS[name][0], tol=0.0, acceleration=None, max_steps=STEPS).fit(u)
    return {n: line.how for n, line in fit.plan.lines.items()}, torch.tensor(fit.path, dtype=DOUBLE) + change(name, u)


def apart(name: str, powers: tuple[int, int], dtype: torch.dtype) -> float:
    """Return how far a path is from the one in the units as drawn; the plans are the same."""
    (plan, other), (drawn, own) = path(name, units(powers, dtype)), path(name, units((0, 0), dtype))
    assert plan == drawn
    assert own[-1] > own[0] + 1e-3  # nats: there is a path
    return float((other - own).abs().max() / (1 + own.abs().max()))


@pytest.mark.parametrize("powers", OTHERS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_units(name: str, powers: tuple[int, int]) -> None:
    """Powers of two change no digit, however little a latent moves what is large."""
    assert apart(name, powers, DOUBLE) < IDENTITY


@pytest.mark.parametrize("powers", [(30, -30), (-30, 30)])
@pytest.mark.parametrize("name", PROGRAMS)
def test_units_in_single_precision(name: str, powers: tuple[int, int]) -> None:
    """The same of float32, in which parameters are rounded."""
    assert apart(name, powers, SINGLE) < 1e-5


@cache
def ended(name: str, u: Units) -> tuple[dict[str, str], str, int, float]:
    """Return plan, ending, number of notes and objective of a default fit, in the units as drawn."""
    pyro.clear_param_store()
    fit = EM(PROGRAMS[name][0]).fit(u)
    plan = {n: line.how for n, line in fit.plan.lines.items()}
    return plan, fit.outcome, len(fit.notes), fit.objective + change(name, u)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_default_fit_has_the_ending_of_other_units(name: str) -> None:
    """Its tolerance is relative to an objective that has units: nothing else differs."""
    drawn, other = ended(name, Units()), ended(name, units((100, -100)))
    assert drawn[:3] == other[:3]
    assert drawn[1] == "converged"
    assert drawn[3] == pytest.approx(other[3], abs=1e-4)


def lost(name: str, powers: tuple[int, int]) -> float:
    """Return by how much a path differs, none of it remembered."""
    (_, other), (_, own) = (path.__wrapped__(name, units(one)) for one in (powers, (0, 0)))
    return float((other - own).abs().max())


def test_short_steps_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A latent that is moved by one, and is lost then, is taken for idle: many nats are missing."""
    monkeypatch.setattr(replays, "FAR", dict.fromkeys(replays.FAR, 0))
    assert lost("slopes", (0, -100)) > 1


def test_latents_that_are_moved_together_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is lost beside another of the same cell is seen where it moves without it."""
    monkeypatch.setattr(Places, "parts", lambda *_: ())
    assert lost("both", (0, 100)) > 1
