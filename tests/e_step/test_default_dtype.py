"""Data in double precision keep their digits, whatever the default dtype is: also with Gaussian latents."""

import pyro
import pyro.distributions as dist
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

Y = 3 * torch.sin(torch.arange(600, dtype=torch.float64).reshape(200, 3))


def intercepts(y: Tensor) -> None:
    """Two hundred groups of three."""
    mean = pyro.param("mean", tensor(0.5, dtype=torch.float64))
    scale = pyro.param("scale", tensor([1.5, 0.7], dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("groups", len(y), dim=-2):
        b = pyro.sample("b", dist.Normal(0 * mean, scale[0]))
        with pyro.plate("rows", 3, dim=-1):
            pyro.sample("y", dist.Normal(mean + b, scale[1]), obs=y)


def test_log_evidence_has_the_digits_of_the_data() -> None:
    """That of the objective, of the model itself, and of the posterior."""
    found = []
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        pyro.clear_param_store()
        fit = EM(intercepts, tol=0, max_steps=2, acceleration=None).fit(Y)
        found.append(tensor([*fit.path, fit.log_likelihood, float(fit.posterior.log_evidence)], dtype=torch.float64))
    assert distance(found[1], found[0]) < IDENTITY
