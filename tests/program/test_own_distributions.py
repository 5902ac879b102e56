"""Distributions of the user's own, and transforms: those that Pyro can use are fitted, what they lack is named."""

import math
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from pyro.distributions import transforms
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError

X = torch.cat([torch.linspace(-3.0, -1.0, 6), torch.linspace(1.0, 3.0, 6)]).double()


class Bare(dist.TorchDistribution):
    """A log-cosh law, of which nothing but the density is stated."""

    def __init__(self, loc: Tensor) -> None:
        """Take a location."""
        self.loc = torch.as_tensor(loc).double()
        super().__init__(self.loc.shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Bare":
        """As plates do."""
        return type(self)(self.loc.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Of density `sech(x) / pi`."""
        return -torch.cosh(value - self.loc).log() - math.log(math.pi)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Nothing random."""
        return self.loc.expand(sample_shape + self.batch_shape)


class Undecided(Bare):
    """One whose support leaves open whether it is discrete."""

    support = constraints.dependent


Law = Callable[[Tensor], dist.TorchDistribution]


def mixture(law: Law, value: Tensor) -> None:
    """Two locations."""
    weights = pyro.param("weights", tensor([0.4, 0.6], dtype=torch.float64), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-1.0, 1.0], dtype=torch.float64))
    with pyro.plate("rows", 12):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", law(loc[z]), obs=value)


def test_a_density_is_enough_for_what_is_observed() -> None:
    """No support is stated, and none is asked for."""
    fit = EM(mixture).fit(Bare, X)
    assert fit.converged
    theirs = TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(mixture), lambda *_: None, Bare, X)
    assert fit.log_likelihood == pytest.approx(-theirs, rel=IDENTITY)


@pytest.mark.parametrize("law", [Bare, Undecided])
@pytest.mark.parametrize("inside", [True, False])
def test_a_latent_needs_a_support(law: type[Bare], *, inside: bool) -> None:
    """Whether it is to be enumerated, integrated or maximised hangs on it."""

    def model() -> None:
        if not inside:
            shift = pyro.sample("shift", law(tensor(0.0)))
        with pyro.plate("rows", 12):
            if inside:
                shift = pyro.sample("shift", law(tensor(0.0)))
            pyro.sample("x", dist.Normal(shift, 1.0), obs=X)

    with pytest.raises(ModelError, match=f'Site "shift": expected a latent .* got {law.__name__}, whose class'):
        EM(model).plan()


def test_a_transform_without_an_inverse() -> None:
    """A planar flow has samples and no density of data."""
    pyro.set_rng_seed(0)
    flow = transforms.Planar(2).double()

    def law(loc: Tensor) -> dist.TorchDistribution:
        wide = torch.stack([loc, loc], -1)
        return dist.TransformedDistribution(dist.Normal(wide, 1.0).to_event(1), [flow])

    with pytest.raises(ModelError, match='Site "x": expected a density of what was observed, .* got KeyError'):
        EM(mixture).plan(law, torch.stack([X, X + 1], -1))


def test_a_density_that_takes_no_further_dimensions() -> None:
    """States of latents stand on the left of rows; a formula that looks rows up by position does not take them."""

    class Fixed(Bare):
        support = constraints.real

        def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Fixed":
            return Fixed(self.loc.expand(batch_shape))

        def log_prob(self, value: Tensor) -> Tensor:
            return -(value - self.loc).square().reshape(12)

    with pytest.raises(ModelError, match='Site "x": expected a density .* got RuntimeError from Fixed'):
        EM(mixture).plan(Fixed, X)


def test_what_is_expanded_by_hand() -> None:
    """The remedy for an expansion to the rows alone is to leave it out."""
    with pytest.raises(ModelError, match=r'at once, "z" \(2\), got RuntimeError: expand.* Leave out \.expand'):
        EM(mixture).plan(lambda loc: dist.Normal(loc, 1.0).expand([12]), X)


def chain(law: Callable[..., dist.TorchDistribution]) -> None:
    """One site of six steps, whose noise is a parameter inside of what the law is made of."""
    scale, one = pyro.param("scale", tensor(1.0).double(), constraint=constraints.positive), torch.eye(1).double()
    noise = dist.MultivariateNormal(torch.zeros(1).double(), scale_tril=scale * one)
    pyro.sample("x", law(noise, one, noise, one, noise, duration=6), obs=X[:6, None])


def test_a_law_of_pyros_without_a_density() -> None:
    """It has draws alone."""
    with pytest.raises(ModelError, match='Site "x": expected a distribution that has a density, got LinearHMM'):
        EM(chain).plan(dist.LinearHMM)


def test_a_parameter_inside_of_a_law_of_gammas_and_normals() -> None:
    """The plan names the site that it enters."""
    plan = EM(chain).plan(partial(dist.GammaGaussianHMM, dist.Gamma(2.0, tensor(2.0).double())))
    assert "x" in plan.lines["scale"].sites
