"""Which states of latents are compared with their enumeration, and how often: as the rows ask."""

from collections.abc import Iterator, Mapping
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

SHARED = 1  # a run in which all rows have one state


def model(x: Tensor, plated: bool = True) -> None:  # noqa: FBT001, FBT002
    """A mixture of two, in a plate; or one latent for all rows."""
    loc = pyro.param("loc", tensor([-1.0, 1.0]))
    z = None if plated else pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6]))) if plated else z
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def chain(x: Tensor, steps: int, states: int) -> None:
    """Rows of a chain of `steps` latents, seen at its end."""
    A = pyro.param("A", torch.eye(states) + 1 / states, constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z0", dist.Categorical(torch.ones(states) / states))
        for t in range(1, steps):
            z = pyro.sample(f"z{t}", dist.Categorical(A[z] / A[z].sum(-1, keepdim=True)))
        pyro.sample("x", dist.Normal(z.to(x.dtype), 1.0), obs=x)


@pytest.mark.parametrize(("rows", "draws"), [(1, 8), (20, 5), (50, 2), (900, 2)])
def test_more_rows_want_fewer_draws(rows: int, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is a draw by itself: a hundred of them, and two at least."""
    assert len(runs(monkeypatch, model, torch.linspace(-2, 2, rows))) == SHARED + draws


@pytest.mark.parametrize(("rows", "plated"), [(1500, True), (20, False)])
def test_states_are_shared_in_long_plates_and_without_any(
    rows: int,
    plated: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each state is seen once, in all rows."""
    seen = runs(monkeypatch, model, torch.linspace(-2, 2, rows), plated=plated)
    assert [states["z"].tolist() for states in seen] == [0, 1]


@pytest.mark.parametrize(("steps", "states"), [(2, 2), (3, 4), (6, 2)])
def test_every_row_is_led_through_all_joint_values(steps: int, states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are at most 64; and the rows are not in the same ones."""
    seen = runs(monkeypatch, chain, torch.linspace(-2, 2, 5), steps, states)[SHARED:]
    rows = torch.stack([torch.stack(list(drawn.values())) for drawn in seen])  # (runs, latents, rows)
    assert all(len(set(map(tuple, rows[..., row].tolist()))) == states**steps for row in range(5))
    assert any(len(set(map(tuple, run.T.tolist()))) > 1 for run in rows)


@pytest.mark.parametrize("states", [2, 3, 5])
def test_neighbours_are_led_through_all_pairs(states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a chain that has too many joint values: in every row, at every step."""
    seen = runs(monkeypatch, chain, torch.linspace(-2, 2, 3), 8, states)[SHARED:]
    rows = torch.stack([torch.stack(list(drawn.values())) for drawn in seen])
    for step in range(7):
        for row in range(3):
            assert len(set(map(tuple, rows[:, step : step + 2, row].tolist()))) == states**2


def runs(monkeypatch: pytest.MonkeyPatch, program: Any, *args: Any, **kwargs: Any) -> list[Mapping[str, Tensor]]:
    """The states of its latents at which a model is run, each by itself or all at once."""
    seen, choices = list[Mapping[str, Tensor]](), em_pyro.reading.check._choices

    def watched(program: Any, *, apart: bool) -> Iterator[Mapping[str, Tensor]]:
        for states in choices(program, apart=apart):
            seen.append(states)
            yield states

    monkeypatch.setattr(em_pyro.reading.check, "_choices", watched)
    EM(program).plan(*args, **kwargs)
    return seen


@pytest.mark.parametrize("together", [1, 10**9])
def test_the_states_are_named_where_an_argument_differs(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first run that differs, however many are compared at once."""
    monkeypatch.setattr(em_pyro.reading.check, "ENTRIES", together)

    def wrong(x: Tensor) -> None:
        z = pyro.sample("z", dist.Categorical(tensor([0.2, 0.3, 0.5])))
        loc = pyro.param("loc", tensor([-1.0, 0.0, 1.0]))
        pyro.sample("x", dist.Normal(loc[0] if z.numel() == 1 and z >= 1 else loc[z], 1.0).to_event(0), obs=x)

    with pytest.raises(ModelError, match=r'Site "x".* got another one at z=1\. '):
        EM(wrong).plan(tensor(0.5))


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
