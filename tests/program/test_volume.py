"""The volume of unconstrained coordinates: the logarithm of a Jacobian, by support."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from programs.probed import N, real
from torch import Tensor
from torch.distributions import biject_to, constraints

from em_pyro import EM, ModelError
from em_pyro.program.volume import log_volume

SUPPORTS: dict[str, Any] = {
    "simplex": constraints.simplex,
    "rows": constraints.independent(constraints.simplex, 1),
    "probability": constraints.unit_interval,
    "interval": constraints.interval(-2.0, 3.0),
    "positive": constraints.positive,
    "nonnegative": constraints.nonnegative,
    "above": constraints.greater_than(1.5),
    "below": constraints.less_than(-0.5),
    "real": constraints.real,
    "vectors": constraints.real_vector,
    "correlations": constraints.corr_cholesky,
    "order": dist.constraints.ordered_vector,
}


@pytest.mark.laws
@pytest.mark.parametrize("name", SUPPORTS)
def test_the_volume_is_that_of_torch(name: str) -> None:
    """By `biject_to`, whatever its formula is here."""
    transform = biject_to(SUPPORTS[name])
    u = 0.7 * real(4, 3)
    value = transform(u)
    same(log_volume(SUPPORTS[name], value), transform.log_abs_det_jacobian(u, value))


def test_the_volume_of_a_simplex_is_that_of_log_ratios() -> None:
    """Of logarithms of ratios to the last entry, too, by a determinant."""
    u = real(3)
    law = lambda u: torch.softmax(torch.cat([u, u.new_zeros(1)]), -1)[:-1]  # noqa: E731
    determinant = torch.linalg.slogdet(torch.autograd.functional.jacobian(law, u)).logabsdet
    same(log_volume(constraints.simplex, torch.softmax(torch.cat([u, torch.zeros(1)]), -1)), determinant)


def test_the_volume_of_a_positive_definite_matrix() -> None:
    """Its Cholesky factor, the diagonal in logarithms, by a determinant."""

    def matrix(u: Tensor) -> Tensor:
        factor = torch.zeros(3, 3).index_put((torch.tensor([1, 2, 2]), torch.tensor([0, 0, 1])), u[3:])
        factor = factor + torch.diag(u[:3].exp())
        return factor @ factor.T

    u = 0.5 * real(6)
    lower = torch.tril_indices(3, 3)
    jacobian = torch.autograd.functional.jacobian(lambda u: matrix(u)[lower[0], lower[1]], u)
    same(log_volume(constraints.positive_definite, matrix(u)), torch.linalg.slogdet(jacobian).logabsdet)


def test_a_support_without_coordinates_is_refused() -> None:
    """A direction has none; nothing is left out in silence."""

    def model(x: Tensor) -> None:
        direction = pyro.sample("direction", dist.ProjectedNormal(torch.ones(2)))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(direction[0], 1.0), obs=x)

    with pytest.raises(ModelError, match="unconstrained coordinates"):
        EM(model, prior_density="unconstrained").fit(real(N))
