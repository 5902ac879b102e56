"""Affine transforms of normal laws are normal laws: latents of them are integrated, and arguments found inside."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from pyro.distributions.transforms import AffineTransform, LowerCholeskyAffine
from torch import Tensor, tensor
from torch.distributions import constraints, transforms

from em_pyro import EM
from em_pyro.program.continuous.moved import as_normal

ROOT = tensor([[1.0, 0.0], [0.5, 2.0]]).double()
SHIFT, STRETCH = tensor([0.3, -1.0]).double(), tensor([2.0, -0.5]).double()


def numbers() -> Any:
    """Normal numbers."""
    return dist.Normal(SHIFT, STRETCH.abs())


def vectors() -> Any:
    """A normal vector."""
    return dist.MultivariateNormal(SHIFT, scale_tril=ROOT)


def moved(law: Any, *by: Any) -> Any:
    """Return the law of a value that transforms make of one."""
    return dist.TransformedDistribution(law, list(by))


AFFINE = {
    "numbers": lambda: moved(numbers(), AffineTransform(0.5, STRETCH)),
    "twice": lambda: moved(numbers(), AffineTransform(0.5, 2.0), AffineTransform(SHIFT, STRETCH)),
    "backwards": lambda: moved(numbers(), AffineTransform(SHIFT, STRETCH).inv),
    "composed": lambda: moved(
        numbers(), transforms.ComposeTransform([AffineTransform(1.0, 2.0), AffineTransform(SHIFT, STRETCH)]).inv
    ),
    "event": lambda: moved(numbers().to_event(1), AffineTransform(SHIFT, STRETCH, event_dim=1)),
    "vectors": lambda: moved(vectors(), AffineTransform(SHIFT, STRETCH, event_dim=1)),
    "a root": lambda: moved(numbers().to_event(1), LowerCholeskyAffine(SHIFT, ROOT)),
    "roots": lambda: moved(vectors(), LowerCholeskyAffine(SHIFT, ROOT), AffineTransform(SHIFT, STRETCH, event_dim=1)),
    "rows": lambda: moved(numbers(), AffineTransform(0.5, STRETCH)).expand((3, 2)).to_event(1),
    "transforms of many": lambda: moved(numbers(), AffineTransform(torch.zeros(3, 1).double(), 2.0)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_the_law_is_the_same(name: str) -> None:
    """Shapes, mean and density."""
    law = AFFINE[name]()
    found = as_normal(law)
    assert "Normal" in str(found)
    assert (found.batch_shape, found.event_shape) == (law.batch_shape, law.event_shape)
    x = law.sample((4,))
    assert distance(found.log_prob(x), law.log_prob(x)) < IDENTITY


def test_other_laws_stay() -> None:
    """A transform that bends, a law that is not normal, and what no transform moves."""
    for law in (
        moved(numbers(), AffineTransform(0.0, 2.0), transforms.ExpTransform()),
        moved(dist.Logistic(SHIFT, STRETCH.abs()), AffineTransform(0.0, 2.0)),
        dist.LogNormal(SHIFT, STRETCH.abs()),
        numbers().to_event(1),
    ):
        assert as_normal(law) is law
    assert as_normal(masked := AFFINE["numbers"]().mask(tensor([True, False]))).log_prob(SHIFT)[1] == 0
    assert as_normal(masked).base_dist.scale[0] == 4.0


GROUP = torch.arange(24) % 6
Y = torch.sin(torch.arange(24.0).double() ** 2) + GROUP - 0.3 * GROUP**2


def effects(law: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor], None]:
    """Write a model with an effect of every group, by their law."""

    def model(y: Tensor) -> None:
        mean = pyro.param("mean", torch.zeros(()).double())
        between = pyro.param("between", torch.ones(()).double(), constraint=constraints.positive)
        within = pyro.param("within", torch.ones(()).double(), constraint=constraints.positive)
        with pyro.plate("groups", 6):
            effect = pyro.sample("effect", law(mean, between))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(effect[GROUP], within), obs=y)

    return model


def test_effects_are_integrated() -> None:
    """As those that are written plainly: they were maximised, and mean and spread kept at their starts."""
    zero = torch.zeros(()).double()
    plain = EM(effects(dist.Normal), tol=1e-12).fit(Y)
    pyro.clear_param_store()
    fit = EM(effects(lambda m, s: moved(dist.Normal(zero, 1.0), AffineTransform(m, s))), tol=1e-12).fit(Y)
    assert distance(tensor(fit.log_likelihood), tensor(plain.log_likelihood)) < SOLVERS
    assert all(distance(fit.params[name], plain.params[name]) < SOLVERS for name in plain.params)
    assert distance(fit.posterior.marginal("effect").mean, plain.posterior.marginal("effect").mean) < SOLVERS


@pytest.mark.parametrize(
    "law",
    [
        lambda m: moved(dist.Logistic(torch.zeros(()).double(), 1.0), AffineTransform(m, 1.0)),
        lambda m: moved(dist.Gumbel(torch.zeros(()).double(), 1.0), AffineTransform(m, 1.0)).mask(m > -100),
    ],
    ids=["logistic", "masked"],
)
def test_a_parameter_inside_of_a_transform_of_a_prior_is_fitted(law: Callable[[Tensor], Any]) -> None:
    """Where the density of the prior is stationary in it, and not where it started."""
    fit = EM(effects(lambda m, s: law(m)), tol=1e-12).fit(Y)
    mean = fit.params["mean"].requires_grad_()
    (slope,) = torch.autograd.grad(law(mean).log_prob(fit.params["effect"]).sum(), mean)
    assert mean.abs() > 0.1
    assert slope.abs() < 1e-4
