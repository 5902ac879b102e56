"""Constraints that join entries: the closer look at an end moves the coordinates of their transforms."""

import pyro
import pyro.distributions as dist
import torch
from oracles.agreement import close
from programs.overlapping import fitted
from torch import Tensor
from torch.distributions import constraints


def test_constraints_with_coordinates_of_their_own() -> None:
    """A factor of correlations has as many coordinates as correlations, an order as many as thresholds."""

    def correlated(x: Tensor) -> None:
        root = pyro.param("root", torch.eye(3).double(), constraint=constraints.corr_cholesky)
        scale = pyro.param("scale", torch.ones(3).double(), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample(
                "x", dist.MultivariateNormal(torch.zeros(3).double(), scale_tril=scale.unsqueeze(-1) * root), obs=x
            )

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    x[:, 1] += x[:, 0]
    fit = fitted(correlated, x)
    assert fit.outcome == "converged"
    assert not fit.notes
    root = fit.params["scale"].unsqueeze(-1) * fit.params["root"]
    close(root @ root.mT, x.mT @ x / 40, 1e-4)
