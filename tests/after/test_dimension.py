"""How many parameters a program has: the dimension of what constraints leave, for each that torch and Pyro have."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints as pyros
from torch import Tensor, tensor
from torch.distributions import constraints, transform_to

from em_pyro import EM
from em_pyro.after.dimension import dimension
from em_pyro.fit.problem import prepare

CONSTRAINTS = {
    "real": (constraints.real, (2, 3), 6),
    "real vector": (constraints.real_vector, (2, 3), 6),
    "independent": (constraints.independent(constraints.positive, 1), (2, 3), 6),
    "positive": (constraints.positive, (4,), 4),
    "nonnegative": (constraints.nonnegative, (4,), 4),
    "greater than": (constraints.greater_than(1.0), (4,), 4),
    "less than": (constraints.less_than(1.0), (4,), 4),
    "unit": (constraints.unit_interval, (4,), 4),
    "interval": (constraints.interval(-1.0, 2.0), (2, 2), 4),
    "simplex": (constraints.simplex, (2, 3), 4),
    "lower Cholesky": (constraints.lower_cholesky, (2, 3, 3), 12),
    "positive definite": (constraints.positive_definite, (2, 3, 3), 12),
    "correlation root": (constraints.corr_cholesky, (2, 3, 3), 6),
    "softplus positive": (pyros.softplus_positive, (4,), 4),
    "softplus Cholesky": (pyros.softplus_lower_cholesky, (3, 3), 6),
    "unit Cholesky": (pyros.unit_lower_cholesky, (3, 3), 3),
    "ordered": (pyros.ordered_vector, (2, 3), 6),
    "positive ordered": (pyros.positive_ordered_vector, (2, 3), 6),
    "sphere": (pyros.sphere, (2, 3), 4),
}
"""A constraint, the shape of a parameter, and the dimension of what it may be (of a sphere in D dimensions, D - 1)."""


def inside(constraint: constraints.Constraint, shape: tuple[int, ...]) -> Tensor:
    """Return a value within a constraint."""
    onto = transform_to(constraint)
    points = torch.randn(onto.inverse_shape(shape), generator=torch.Generator().manual_seed(0))
    return onto(points)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_dimension_of_a_constraint(name: str) -> None:
    """The parameter enters a location, so that every entry matters; the scale beside it is one more."""
    constraint, shape, want = CONSTRAINTS[name]
    value = inside(constraint, shape)

    def model(x: Tensor) -> None:
        theta = pyro.param("theta", value, constraint=constraint)
        scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(theta.sum(), scale), obs=x)

    problem = prepare(model, (torch.linspace(-1, 1, 7),), {}, {}, check=True)
    assert dimension(problem) == want + 1


def test_fixed_parameters_do_not_count_and_priors_do() -> None:
    """A parameter that the plan keeps where it is has no dimension; a site with a prior has that of its support."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    x = torch.linspace(-1, 1, 7)
    assert EM(model).fit(x).num_parameters == 2
    pyro.clear_param_store()
    assert EM(model, m_step={"scale": "fixed"}).fit(x).num_parameters == 1


def test_tied_parameters_count_once() -> None:
    """One tensor at two sites is one parameter."""

    def model(x: Tensor, y: Tensor) -> None:
        scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)
            pyro.sample("y", dist.Normal(1.0, scale), obs=y)

    assert EM(model).fit(torch.linspace(-1, 1, 7), torch.linspace(-1, 2, 7)).num_parameters == 1
