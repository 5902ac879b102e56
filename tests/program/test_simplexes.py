"""Parameters on a simplex and latents without states: normalised as Pyro does, or refused by name."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.refusals import refuse
from test_passed import X
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("random", [False, True])
def test_a_simplex_is_normalised(dtype: torch.dtype, random: bool) -> None:  # noqa: FBT001
    """As `pyro.param` does, in rows, from a tensor or an initialiser, a structural zero included."""
    rows = tensor([[2.0, 6.0], [0.0, 3.0]], dtype=dtype)

    def model(x: Tensor) -> None:
        w = pyro.param("w", (lambda: rows) if random else rows, constraint=constraints.simplex)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2, dtype=dtype)))
            pyro.sample("x", dist.Categorical(w[z]), obs=x)

    em = EM(model)
    em.plan(tensor([0, 1, 1]))
    close(em.params["w"], rows / rows.sum(-1, keepdim=True), 1e-6)


def test_a_start_that_cannot_be_normalised() -> None:
    """A negative entry is refused."""

    def model(x: Tensor) -> None:
        w = pyro.param("w", tensor([1.5, -0.2]), constraint=constraints.simplex)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Categorical(w), obs=x)

    refuse("parameter", '^Parameter "w": expected its start within Simplex', model, tensor([0, 1]))


def test_bad_data_come_before_the_starts_made_of_them() -> None:
    """A start that is NaN because the data are is not to blame."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", x.mean())
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    refuse("data", r'^Site "x": expected finite data, got nan at index \(1,\)', model, tensor([0.0, torch.nan]))


def test_a_latent_without_states() -> None:
    """K = 0 is refused by the latent's name."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Categorical(torch.ones(0)))
            pyro.sample("x", dist.Normal(pyro.param("loc", tensor(0.0)), 1.0), obs=x)

    refuse("model", '^Site "z": expected at least one state', model, tensor([0.0]))


@pytest.mark.parametrize("constraint", [constraints.real, constraints.positive])
def test_a_forgotten_simplex_is_named(constraint: Any) -> None:
    """In a table, along a chain."""

    def model(x: Tensor) -> None:
        w = pyro.param("w", tensor([[0.5, 0.5], [0.2, 0.8]]), constraint=constraint)
        z = pyro.sample("z0", dist.Categorical(tensor([0.5, 0.5])))
        for t in pyro.markov(range(1, len(x))):
            z = pyro.sample(f"z{t}", dist.Categorical(w[z]))
            pyro.sample(f"x{t}", dist.Normal(3.0 * z, 1.0), obs=x[t])

    line = EM(model).plan(tensor(X)).lines["w"]
    assert line.how == "closed form" or 'declare "w" with constraint=constraints.simplex' in line.why, line
