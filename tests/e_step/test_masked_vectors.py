"""Rows of vectors that take the same latents by slopes of their own, some of them masked: by dense matrices."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from pyro import poutine
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints

from em_pyro import EM

G, T = 5, 3
DRAWS = torch.Generator().manual_seed(2)
Y = torch.randn((G, T, 2), generator=DRAWS, dtype=torch.float64)
SLOPES = torch.tensor([[1.0, 0.5], [0.2, -1.0], [2.0, 0.3]]).double()
SEEN = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]]).bool()


def model(y: Tensor, *, joint: bool) -> None:
    """Measure one effect of a group by two numbers, three times."""
    spread = pyro.param("spread", torch.tensor(0.8).double(), constraint=constraints.positive)
    root = pyro.param("root", torch.eye(2).double(), constraint=constraints.lower_cholesky)
    scale = pyro.param("scale", torch.ones(2).double(), constraint=constraints.positive)
    with pyro.plate("groups", G):
        b = pyro.sample("b", dist.Normal(torch.zeros(()).double(), spread))
        for t in range(T):
            mean = b.unsqueeze(-1) * SLOPES[t]
            law = dist.MultivariateNormal(mean, scale_tril=root) if joint else dist.Normal(mean, scale).to_event(1)
            with poutine.mask(mask=SEEN[:, t]):
                pyro.sample(f"y_{t}", law, obs=y[:, t])


def dense(params: dict[str, Tensor], *, joint: bool) -> Tensor:
    """Log-density of all that is seen."""
    error = params["root"] @ params["root"].T if joint else params["scale"].square().diag()
    total = torch.zeros(()).double()
    for y, seen in zip(Y, SEEN, strict=True):
        slope = SLOPES[seen].flatten()
        covariance = params["spread"] ** 2 * torch.outer(slope, slope) + torch.block_diag(*[error] * int(seen.sum()))
        total = total + MultivariateNormal(torch.zeros(len(slope)).double(), covariance).log_prob(y[seen].flatten())
    return total


@pytest.mark.parametrize("joint", [True, False])
def test_evidence_is_that_of_a_dense_normal_law(joint: bool) -> None:  # noqa: FBT001
    """At the start, and after steps, which lead higher."""
    heights = []
    for steps in (0, 5):
        pyro.clear_param_store()
        fit = EM(model, max_steps=steps).fit(Y, joint=joint)
        assert distance(torch.tensor(fit.log_likelihood), dense(dict(fit.params), joint=joint)) < IDENTITY
        heights.append(fit.log_likelihood)
    assert heights[1] > heights[0]
