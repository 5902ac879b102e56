"""Rows of clusters far apart are given to the one cell that they are near, and nothing else changes."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, lay_out
from oracles.steps import em_step, expect
from oracles.tolerances import IDENTITY
from torch import Tensor
from torch.distributions import constraints

from em_pyro.e_step.contraction import apart, mixture
from em_pyro.e_step.contraction.apart import EVERY, Rows, split
from em_pyro.e_step.sites import centring

ROWS, EVENTS = 60, 3
CENTRES = 90 * torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 0.02, 1]], dtype=torch.float64)
"""Of four clusters, of which the last two overlap."""


def drawn() -> Tensor:
    """Rows of all clusters in turn, and one between two."""
    noise = torch.randn(ROWS, EVENTS, generator=torch.Generator().manual_seed(0))
    x = CENTRES[torch.tensor([0, 1, 2, 0, 1, 2, 3]).repeat(9)[:ROWS]] + noise
    x[0] = (CENTRES[0] + CENTRES[1]) / 2
    return x


def weights() -> Tensor:
    """Shares of the clusters."""
    return pyro.param("weights", torch.tensor([0.2, 0.3, 0.4, 0.1]), constraint=constraints.simplex)


def loc() -> Tensor:
    """Centres of the clusters."""
    return pyro.param("loc", CENTRES + 0.3)


def scale(shape: tuple[int, ...]) -> Tensor:
    """Standard deviations."""
    return pyro.param("scale", torch.linspace(0.8, 1.3, len(CENTRES)).reshape(shape), constraint=constraints.positive)


def diagonal(x: Tensor) -> None:
    """Normals side by side."""
    w, m, s = weights(), loc(), scale((-1, 1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(m[z], s[z]).to_event(1), obs=x)


def full(x: Tensor) -> None:
    """A Cholesky factor for each."""
    start = torch.diag_embed(torch.linspace(0.7, 1.2, 4 * EVENTS).reshape(4, EVENTS)) + 0.1 * torch.ones(3, 3).tril(-1)
    w, m = weights(), loc()
    tril = pyro.param("tril", start, constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.MultivariateNormal(m[z], scale_tril=tril[z]), obs=x)


def two_sites(x: Tensor) -> None:
    """One site for the first column, one for the others."""
    w, m, s = weights(), loc(), scale((-1, 1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("first", dist.Normal(m[z, 0], s[z, 0]), obs=x[:, 0])
        pyro.sample("others", dist.Normal(m[z][..., 1:], s[z]).to_event(1), obs=x[:, 1:])


def weighed(x: Tensor) -> None:
    """Rows that count several times, and some not at all."""
    with pyro.poutine.scale(scale=torch.arange(float(len(x))) % 4):
        diagonal(x)


def masked(x: Tensor) -> None:
    """Cells that have not been seen."""
    w, m, s = weights(), loc(), scale((-1, 1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        seen = torch.arange(x.numel()).reshape(x.shape) % 7 != 0
        pyro.sample("x", dist.Normal(m[z], s[z]).mask(seen).to_event(1), obs=x)


@pytest.mark.parametrize("model", [diagonal, full, two_sites, weighed, masked])
@pytest.mark.parametrize("shares", [[0.2, 0.3, 0.4, 0.1], [0.2, 0.3, 0.5, 0.0]])
def test_as_with_all_cells(model: Callable[..., Any], shares: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence and new parameters are those of all rows with all cells; most rows are near one cell only."""
    monkeypatch.setattr(apart, "FEW", 0)
    monkeypatch.setattr(centring, "FARTHEST", 0.0)  # every cell is around its own location, whatever its scale
    parts: list[Rows] = []

    def noted(*args: Any) -> list[Rows]:
        parts.extend(found := split(*args))
        return found

    monkeypatch.setattr(mixture, "split", noted)
    built = lay_out(model, (drawn(),))
    here = {**built.here, "weights": torch.tensor(shares)}
    ours, first = em_step(built.compiled, built.plan, here)
    lone = sum(len(rows) for cells, rows in parts if cells != EVERY.cells and rows is not None)
    assert ROWS / 3 < lone <= ROWS - shares.count(0.1)  # the first row is between two of four
    monkeypatch.setattr(mixture, "split", lambda *args: [EVERY])
    theirs, second = em_step(built.compiled, built.plan, here)
    assert distance(first.objective, second.objective) < IDENTITY
    assert max(distance(ours[n], theirs[n]) for n in theirs) < IDENTITY
    if min(shares):  # torch counts a probability of zero as a rounding of one
        assert distance(first.objective, expect(built.replayed, here).objective) < IDENTITY


def test_within_the_rounding_of_one_centre_a_row_is_near_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two narrow cells the product of one centre is rounding, however many nats it says that one is behind."""
    monkeypatch.setattr(apart, "FEW", 0)
    x, width = torch.tensor([-0.5, 1e-15, 0.5]), 1e-9
    features = torch.stack([torch.ones_like(x), x, x * x])
    at = torch.tensor([-0.5, 0.5])
    eta = torch.stack([-0.5 * (at / width) ** 2, at / width**2, torch.full_like(at, -0.5 / width**2)], -1)
    rough = eta @ features[:, 1]
    assert float(rough[1] - rough[0]) > 900
    *lone, (every, both) = split(eta, torch.zeros(2), features, features.abs().amax(-1), 1)
    assert every == EVERY.cells
    assert both is not None
    assert both.tolist() == [1]
    assert [(cells.start, rows.tolist()) for cells, rows in lone if rows is not None] == [(0, [0]), (1, [2])]
