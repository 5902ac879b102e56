"""Coefficients of Gaussian latents that are small beside one are not taken for rounding, in single precision either."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from em_pyro import EM

SINGLE, DOUBLE = torch.float32, torch.float64
ROWS, STEPS = 5, 6


def pulled(y: Tensor, start: float, law: torch.dtype, of: torch.dtype) -> None:
    """Pull states of two coordinates towards zero, under a first law and parameters of these precisions."""
    pull = pyro.param("pull", torch.tensor(start, dtype=of))
    zero, one = torch.zeros(2, dtype=law), torch.ones(2, dtype=law)
    noise = torch.full((2,), 0.5, dtype=of)
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z_0", dist.Normal(zero, one).to_event(1))
        for t in pyro.markov(range(STEPS)):
            if t:
                z = pyro.sample(f"z_{t}", dist.Normal(pull * z, noise).to_event(1))
            pyro.sample(f"y_{t}", dist.Normal(z, noise).to_event(1), obs=y[:, t])


def evidence(y: Tensor, pull: float) -> Tensor:
    """Return the log evidence by the joint normal law of a coordinate's values."""
    steps = torch.arange(STEPS, dtype=DOUBLE)
    ahead = steps[:, None] - steps
    reach = torch.where(ahead >= 0, pull**ahead, 0.0)
    own = torch.diag(torch.cat([torch.ones(1, dtype=DOUBLE), torch.full((STEPS - 1,), 0.25, dtype=DOUBLE)]))
    covariance = reach @ own @ reach.mT + 0.25 * torch.eye(STEPS, dtype=DOUBLE)
    law = dist.MultivariateNormal(torch.zeros(STEPS, dtype=DOUBLE), covariance)
    return law.log_prob(y.double().mT).sum()


@pytest.mark.parametrize("precisions", [(SINGLE, SINGLE), (SINGLE, DOUBLE), (DOUBLE, SINGLE), (DOUBLE, DOUBLE)])
@pytest.mark.parametrize("pull", [0.9, 0.05, -0.01, 0.001])
def test_evidence_of_states_that_are_hardly_pulled(pull: float, precisions: tuple[torch.dtype, torch.dtype]) -> None:
    """Whatever the start, the residuals are those of the model."""
    y = torch.randn(ROWS, STEPS, 2, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    exact = precisions == (DOUBLE, DOUBLE)
    y = y if exact else y.to(SINGLE)
    found = EM(pulled).posterior(y, pull, *precisions).log_evidence
    known = evidence(y, pull)
    assert abs(found - known) < (1e-10 if exact else 1e-5) * (1 + abs(known))


@pytest.mark.parametrize("rows", [5, 200])
def test_a_fit_of_many_rows_in_single_precision(rows: int) -> None:
    """Probes at random parameters, with many rows as with few, end where double precision does."""
    y = torch.randn(rows, STEPS, 2, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    found = {}
    for dtype in (SINGLE, DOUBLE):
        pyro.clear_param_store()
        found[dtype] = EM(pulled, max_steps=20).fit(y.to(dtype), 0.05, dtype, dtype)
    apart = found[SINGLE].params["pull"].double() - found[DOUBLE].params["pull"]
    assert abs(apart) < 1e-3
    assert found[DOUBLE].params["pull"] != 0.05
