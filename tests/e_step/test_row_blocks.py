"""Families that need all rows: their log-densities are those of all rows, in however many blocks they are computed."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import farthest, lay_out
from oracles.steps import em_step
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro.e_step.sites import rows

X = 0.2 + torch.rand(23, generator=torch.Generator().manual_seed(0)).double() * 3
SEEN = torch.arange(23) % 5 != 0


def above_zero(name: str, start: tuple[float, float]) -> Tensor:
    """Declare two positive numbers."""
    return pyro.param(name, tensor(start, dtype=torch.float64), constraint=constraints.positive)


def student(z: Tensor) -> dist.TorchDistribution:
    """A Student whose degrees of freedom are known."""
    return dist.StudentT(4.0, above_zero("loc", (0.7, 2.1))[z], above_zero("scale", (0.5, 0.8))[z])


def masked(z: Tensor) -> dist.TorchDistribution:
    """A Weibull that is not seen in all rows."""
    return dist.Weibull(above_zero("scale", (0.9, 2.0))[z], above_zero("shape", (1.5, 2.5))[z]).mask(SEEN)


def counts(z: Tensor) -> dist.TorchDistribution:
    """A negative binomial of which all is free."""
    probs = pyro.param("probs", tensor([0.3, 0.6]).double(), constraint=constraints.unit_interval)
    return dist.NegativeBinomial(above_zero("size", (2.0, 3.0))[z], probs[z])


@pytest.mark.parametrize("law", [student, masked, counts])
@pytest.mark.parametrize("block", [1, 9])
def test_blocks_are_all_rows(law: Callable[..., Any], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evidence and the step are the same; rows in another order are noticed."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6]).double()))
            pyro.sample("x", law(z), obs=x)

    built = lay_out(model, (X.round() if law is counts else X,))
    new, found = em_step(built.compiled, built.plan, built.here)
    monkeypatch.setattr(rows, "BLOCK", block)
    apart, also = em_step(built.compiled, built.plan, built.here)
    assert float((also.log_evidence / found.log_evidence - 1).abs()) < IDENTITY
    assert farthest(apart, new) < IDENTITY
    whole = rows.ByRow.of_rows
    monkeypatch.setattr(rows.ByRow, "of_rows", lambda self, args: whole(self, args).flip(-1))
    assert farthest(em_step(built.compiled, built.plan, built.here)[0], new) > IDENTITY
