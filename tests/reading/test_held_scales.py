"""Normal latents whose scale is fitted, but held back from zero: by a clamp, a bound or a prior.

Their joint density with it has a bound, where that holds: it says nothing of the spread. They are integrated as those
are whose scale is free. The oracle is the same program with effects that are not centred.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

GROUP = torch.arange(24) // 4
Y = tensor([1.3, -0.9, 0.4, 2.1, -1.6, 0.2]).double()[GROUP] + (1.7 * torch.arange(24.0).double()).sin()

Scale = Callable[[], Tensor]


def parameter(constraint: constraints.Constraint, start: float = 1.0) -> Tensor:
    """Declare the parameter that drives a scale."""
    return pyro.param("spread", torch.tensor(start).double(), constraint=constraint)


def prior(law: dist.TorchDistribution) -> Tensor:
    """Sample it instead."""
    return pyro.sample("spread", law)


ONE = torch.ones(()).double()
HELD: dict[str, Scale] = {
    "clamp": lambda: parameter(constraints.real, 0.0).exp().clamp(1e-3),
    "both clamps": lambda: parameter(constraints.real, 0.0).clamp(-5.0, 5.0).exp(),
    "softplus": lambda: torch.nn.functional.softplus(parameter(constraints.real)) + 1e-4,
    "root": lambda: (parameter(constraints.positive) + 1e-6).sqrt(),
    "bound": lambda: parameter(constraints.greater_than(1e-3)),
    "interval": lambda: parameter(constraints.interval(1e-3, 10.0)),
    "LogNormal": lambda: prior(dist.LogNormal(0.0 * ONE, 1.0)),
    "InverseGamma": lambda: prior(dist.InverseGamma(2.0 * ONE, 1.0)),
    "Uniform": lambda: prior(dist.Uniform(0.01 * ONE, 10.0)),
}


def effects(scale: Scale, *, centred: bool = True) -> Callable[[Tensor], None]:
    """Write a model with an effect of every group."""

    def model(y: Tensor) -> None:
        mean, spread = pyro.param("mean", 0.1 * ONE), scale()
        noise = pyro.param("noise", ONE, constraint=constraints.positive)
        with pyro.plate("groups", 6):
            law = dist.Normal(mean, spread) if centred else dist.Normal(0.0 * ONE, 1.0)
            effect = pyro.sample("effect", law)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal((effect if centred else mean + spread * effect)[GROUP], noise), obs=y)

    return model


def integrated(model: Callable[[Tensor], None], x: Tensor = Y) -> set[str]:
    """Name the latents that are integrated."""
    pyro.clear_param_store()
    plan = str(EM(model).plan(x))
    return {name for name in ("effect", "loadings", "slope", "centre") if f'latent "{name}": integrated' in plan}


@pytest.mark.parametrize("name", HELD)
def test_effects_are_integrated(name: str) -> None:
    """The fit is that of effects that are not centred."""
    fits = []
    for centred in (True, False):
        pyro.clear_param_store()
        fits.append(EM(effects(HELD[name], centred=centred), tol=1e-12).fit(Y))
    one, other = fits
    assert distance(one.objective, other.objective) < SOLVERS
    assert "effect" not in one.params
    assert all(distance(one.params[n], other.params[n]) < 100 * SOLVERS for n in other.params)


def test_the_reason_is_the_parameter() -> None:
    """It is what the latent would run after."""
    for scale in (HELD["bound"], lambda: prior(dist.Normal(0.0 * ONE, 1.0)).exp().clamp(1e-3)):
        pyro.clear_param_store()
        assert 'integrated ("spread" drives its scale)' in str(EM(effects(scale)).plan(Y))


def test_a_known_scale_stays_a_prior() -> None:
    """Nothing drives it."""
    assert integrated(effects(lambda: 0.7 * ONE)) == set()


def test_what_cannot_be_integrated_stays_a_parameter() -> None:
    """Slopes of a logistic regression with a prior of their spread; loadings of factors, which multiply latents."""

    def logistic(y: Tensor) -> None:
        spread = pyro.sample("spread", dist.LogNormal(0.0 * ONE, 1.0))
        slope = pyro.sample("slope", dist.Normal(torch.zeros(2).double(), spread).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=slope[0] + slope[1] * GROUP), obs=(y > 0).double())

    def factors(y: Tensor) -> None:
        spread = pyro.sample("spread", dist.LogNormal(0.0 * ONE, 1.0))
        loadings = pyro.sample("loadings", dist.Normal(torch.zeros(4).double(), spread).to_event(1))
        with pyro.plate("rows", 6):
            z = pyro.sample("z", dist.Normal(0.0 * ONE, 1.0))
            pyro.sample("y", dist.Normal(z[:, None] * loadings, 1.0).to_event(1), obs=y.reshape(6, 4))

    assert integrated(logistic) == set()
    assert integrated(factors) == set()


def test_means_of_a_mixture_stay_parameters() -> None:
    """Every row may be of each: there would be a law for every choice of all rows."""

    def mixture(y: Tensor) -> None:
        spread = pyro.sample("spread", dist.LogNormal(0.0 * ONE, 1.0))
        with pyro.plate("components", 2):
            centre = pyro.sample("centre", dist.Normal(0.0 * ONE, spread))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5]).double()))
            pyro.sample("y", dist.Normal(centre[z], 1.0), obs=y)

    assert integrated(mixture) == set()


def test_one_that_cannot_be_leaves_the_others() -> None:
    """Effects of groups beside a slope that enters through its exponential."""

    def both(y: Tensor) -> None:
        spread = pyro.sample("spread", dist.LogNormal(0.0 * ONE, 1.0))
        slope = pyro.sample("slope", dist.Normal(0.0 * ONE, spread))
        with pyro.plate("groups", 6):
            effect = pyro.sample("effect", dist.Normal(0.0 * ONE, spread))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(slope.exp() + effect[GROUP], 1.0), obs=y)

    assert integrated(both) == {"effect"}
