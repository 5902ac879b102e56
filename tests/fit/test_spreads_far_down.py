"""A scale that is zero at the maximum, where the precision of a chain far down leaves the objective few digits."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.fit.verdict import spreads
from em_pyro.fit.verdict.ground import Ground


def quarters(seed: int, steps: int = 32) -> Tensor:
    """A trend, a level that wanders, four seasons and noise."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(steps)
    seasons = tensor([1.0, -0.5, 0.3, -0.8])[time % 4]
    level, noise = torch.randn((2, steps), generator=generator)
    return 0.1 * time + seasons + 0.3 * level.cumsum(0) + 0.1 * noise


def structural(y: Tensor) -> None:
    """The basic structural model: a random walk, dummies of three seasons before, and noise."""
    walk, season, noise = (
        pyro.param(name, tensor(start), constraint=constraints.positive)
        for name, start in (("walk", 0.5), ("season", 0.3), ("noise", 0.5))
    )
    level = pyro.sample("level_0", dist.Normal(0.0, 5.0))
    before = [pyro.sample(f"first_{k}", dist.Normal(0.0, 5.0)) for k in range(3)]
    for t in pyro.markov(range(len(y)), history=4):
        if t:
            level = pyro.sample(f"level_{t}", dist.Normal(level, walk))
            before.append(pyro.sample(f"season_{t}", dist.Normal(-(before[-1] + before[-2] + before[-3]), season)))
        pyro.sample(f"y_{t}", dist.Normal(level + before[-1], noise), obs=y[t])


def fitted(seed: int) -> Fit:
    """Fit a drawn series."""
    pyro.clear_param_store()
    return EM(structural).fit(quarters(seed))


SEED = 9


def found(fit: Fit) -> str:
    """What a closer look has found."""
    return " ".join(note for note in fit.notes if "boundary" in note or "identified" in note)


def test_scales_of_none_are_at_the_boundary() -> None:
    """Their objective is flat below and falls above: that is a maximum at the boundary, and nothing is unidentified."""
    fit = fitted(SEED)
    assert max(float(fit.params[name]) for name in ("season", "noise")) < 1e-4
    assert found(fit) == 'at the boundary: "season", "noise"'


@pytest.mark.parametrize(("room", "seen"), [(spreads.DEEP, "at the boundary"), (spreads.LEVEL, "not identified")])
def test_rounding_far_down(room: float, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heights a thousand times below lose some digits; without room for that a scale would seem not identified."""
    heights = Ground.heights

    def rounded(ground: Ground, ways: Tensor) -> Tensor:
        true = heights(ground, ways)
        return true - 3e-8 * (1 + true.abs()) * (ways.abs().amax(1) > spreads.SHRUNK / 2)

    monkeypatch.setattr(Ground, "heights", rounded)
    monkeypatch.setattr(spreads, "DEEP", room)
    assert seen in found(fitted(SEED))
