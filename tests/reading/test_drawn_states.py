"""How often the states of latents are drawn, to compare an argument with its enumeration: as the rows ask."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.reading.check
from em_pyro import EM
from em_pyro.errors import ModelError

JOINT = 2  # joint values of one latent with two states


def model(x: Tensor, plated: bool = True) -> None:  # noqa: FBT001, FBT002
    """A mixture of two, in a plate; or one latent for all rows."""
    loc = pyro.param("loc", tensor([-1.0, 1.0]))
    z = None if plated else pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6]))) if plated else z
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@pytest.mark.parametrize(("rows", "draws"), [(1, 8), (20, 5), (50, 2), (900, 2), (1500, 0)])
def test_more_rows_want_fewer_draws(rows: int, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is a draw by itself: a hundred of them, and two at least."""
    assert runs(monkeypatch, torch.linspace(-2, 2, rows)) == JOINT + draws


def test_without_a_plate_every_joint_value_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw would be one of them."""
    assert runs(monkeypatch, torch.linspace(-2, 2, 20), plated=False) == JOINT


def runs(monkeypatch: pytest.MonkeyPatch, *args: Any, **kwargs: Any) -> int:
    """How often the model is run with states of its latents."""
    count, run = [0], em_pyro.reading.check._run

    def counted(*args: Any) -> Any:
        count[0] += 1
        return run(*args)

    monkeypatch.setattr(em_pyro.reading.check, "_run", counted)
    EM(model).plan(*args, **kwargs)
    return count[0]


@pytest.mark.parametrize("rows", [3, 60, 400])
def test_a_reduction_over_rows_is_found(rows: int) -> None:
    """Where states differ by row, and nowhere else, the mean of a state is not that of enumeration."""

    def reduced(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
            pyro.sample("x", dist.Normal(loc[z].mean(-1, keepdim=True).expand(loc[z].shape), scale), obs=x)

    with pytest.raises(ModelError, match='Site "x"'):
        EM(reduced).plan(torch.linspace(-2, 2, rows))
