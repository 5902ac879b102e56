"""Rows of an outer plate are taken in chunks where those of a longer one inside it cannot be."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import farthest, lay_out
from oracles.steps import em_step
from oracles.tolerances import IDENTITY
from torch import Tensor
from torch.distributions import constraints

from em_pyro.e_step import chunks

GROUPS, ROWS = 30, 300


def classes(x: Tensor, weights: Tensor) -> None:
    """A class for each group, and a component for each of its rows; groups have weights."""
    pi = pyro.param("pi", torch.tensor([0.2, 0.3, 0.5]), constraint=constraints.simplex)
    share = pyro.param("share", torch.tensor([[0.5, 0.5], [0.3, 0.7], [0.8, 0.2]]), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
    scale = pyro.param("scale", torch.tensor([1.0, 1.5]), constraint=constraints.positive)
    with pyro.plate("groups", x.shape[1]), pyro.poutine.scale(scale=weights):
        z = pyro.sample("z", dist.Categorical(pi))
        with pyro.plate("rows", len(x)):
            y = pyro.sample("y", dist.Categorical(share[z]))
            pyro.sample("x", dist.Normal(loc[y], scale[y]), obs=x)


def test_groups_in_chunks_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evidence and the step are those of all groups at once; a lost chunk is noticed."""
    g = torch.Generator().manual_seed(1)
    data = torch.randn(ROWS, GROUPS, generator=g), 0.5 + torch.rand(GROUPS, generator=g)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 40)
    whole = lay_out(classes, data)
    (new, found), parts = em_step(whole.compiled, whole.plan, whole.here), whole.compiled.parts
    assert [len(part.chunks()) for part in parts] == [1]
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 17)
    blocked = lay_out(classes, data, whole.here, whole.there)
    (part,) = blocked.compiled.parts
    assert part.plate == "groups"
    assert len(part.chunks()) == 3
    assert blocked.compiled.whole == ""
    here, also = em_step(blocked.compiled, blocked.plan, blocked.here)
    assert float((also.log_evidence - found.log_evidence).abs() / found.log_evidence.abs()) < IDENTITY
    assert farthest(here, new) < IDENTITY
    every = type(part).chunks
    monkeypatch.setattr(type(part), "chunks", lambda self, starts=1: every(self, starts)[:-1])
    assert farthest(em_step(blocked.compiled, blocked.plan, blocked.here)[0], new) > IDENTITY
