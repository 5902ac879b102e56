"""Eight measures of 305 girls, explained by factors: R's `Harman23.cor`, and what `factanal` prints of it.

Harman, H. H. (1976). Modern Factor Analysis, 3rd edition, page 22. The page of R's help on the data prints, of two
factors, these uniquenesses, and the statistic 75.74 on 13 degrees of freedom, by Bartlett's correction.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from oracles.agreement import prints_as
from test_golden_fits import correlated
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM, Fit

ROWS = 305
BELOW = [
    [],
    [0.846],
    [0.805, 0.881],
    [0.859, 0.826, 0.801],
    [0.473, 0.376, 0.380, 0.436],
    [0.398, 0.326, 0.319, 0.329, 0.762],
    [0.301, 0.277, 0.237, 0.327, 0.730, 0.583],
    [0.382, 0.415, 0.345, 0.365, 0.629, 0.577, 0.539],
]
LOWER = torch.tensor([[*row, 1.0, *(0.0 for _ in BELOW[len(row) + 1 :])] for row in BELOW], dtype=torch.float64)
CORRELATIONS = LOWER + LOWER.tril(-1).mT
UNIQUE = "0.170 0.107 0.166 0.199 0.089 0.364 0.416 0.537"


def factors(x: Tensor, k: int) -> None:
    """Explain all measures by `k` factors of each girl."""
    start = 0.5 * torch.cos(torch.arange(8.0)[:, None] * (1 + torch.arange(k)))
    loadings = pyro.param("loadings", start)
    scale = pyro.param("scale", torch.full((8,), 0.7), constraint=constraints.positive)
    with pyro.plate("girls", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(k), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ loadings.T, scale).to_event(1), obs=x)


def statistic(fit: Fit, k: int) -> float:
    """Bartlett's, of the hypothesis that so many factors suffice."""
    gap = -2 / ROWS * fit.log_likelihood - 8 * (1 + math.log(2 * math.pi)) - float(torch.logdet(CORRELATIONS))
    return (ROWS - 1 - (2 * 8 + 5) / 6 - 2 * k / 3) * gap


def test_two_factors() -> None:
    """Uniquenesses and the statistic, as printed."""
    torch.manual_seed(0)
    fit = EM(factors, tol=1e-10).fit(correlated(CORRELATIONS.tolist(), ROWS), 2)
    assert fit.converged
    prints_as(fit.params["scale"] ** 2, UNIQUE)
    prints_as(statistic(fit, 2), "75.74")


def test_three_factors_leave_nothing_of_arm_span() -> None:
    """A Heywood case: its uniqueness is zero at the maximum, and named."""
    torch.manual_seed(0)
    fit = EM(factors, tol=1e-10).fit(correlated(CORRELATIONS.tolist(), ROWS), 3)
    assert fit.converged
    assert 'at the boundary: "scale"[1]' in fit.notes
    assert float(fit.params["scale"][1]) < 1e-2
    assert statistic(fit, 3) < 22.81  # where R holds it at 0.005
