"""Priors of matrices: torch draws again where a draw came out singular, and its warning is not ours to pass on."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from em_pyro import EM
from em_pyro.program.devices import draw

N = 40
X = torch.stack([torch.sin(torch.arange(N) * 0.9), torch.cos(torch.arange(N) * 1.7)], -1).double()
NARROW = dist.Wishart(torch.tensor(2.0, dtype=torch.float64), 1e-8 * torch.eye(2, dtype=torch.float64))
"""Next to all its draws are taken for singular."""


def precisions(x: Tensor) -> None:
    """A normal law with a prior of its precision."""
    loc = pyro.param("loc", x.new_zeros(2))
    precision = pyro.sample("precision", dist.Wishart(x.new_tensor(4.0), 1e-6 * torch.eye(2, dtype=x.dtype)))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.MultivariateNormal(loc, precision_matrix=precision), obs=x)


def test_such_a_draw_warns_by_itself() -> None:
    """Else the tests below would hold of anything."""
    with pytest.warns(UserWarning, match="Singular sample"):
        NARROW.sample()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(NARROW)


def test_a_prior_of_matrices_starts_without_a_warning() -> None:
    """From a draw and from several; and the mode is that of the conjugate law."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = EM(precisions, starts=3).fit(X)
        fit.simulate()
    spread = (X - X.mean(0)).mT @ (X - X.mean(0)) + 1e6 * torch.eye(2)
    assert torch.allclose(fit.params["precision"], (N + 4 - 3) * torch.linalg.inv(spread), rtol=1e-4)
