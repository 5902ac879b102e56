"""The field of a race where nobody is named."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import SOLVERS
from torch import Tensor
from torch.distributions import constraints

import em_pyro


@pytest.mark.parametrize("prior", [False, True])
def test_the_field_where_nobody_is_named(prior: bool) -> None:  # noqa: FBT001
    """EM, SVI and L-BFGS race on the same objective; SVI climbs to the modes of priors."""

    def model(x: Tensor) -> None:
        start = torch.tensor(0.3, dtype=torch.float64)
        flat = dist.Beta(2 * torch.ones((), dtype=torch.float64), 2.0)
        p = pyro.sample("p", flat) if prior else pyro.param("p", start, constraint=constraints.unit_interval)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Bernoulli(p), obs=x)

    x = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    found = em_pyro.race(model, x, starts=1, budget_seconds=0.2, echo=lambda line: None)
    assert all(lane.ending != "not able" and lane.points for lane in found.lanes), str(found)
    assert len(found.lanes) == 5
    close(found.best.params["p"], torch.tensor((3 + prior) / (4 + 2 * prior), dtype=torch.float64), SOLVERS)
