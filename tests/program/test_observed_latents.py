"""What is observed is data: a value computed from discrete latents is refused by name, and its remedy is exact."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.reparam import LatentStableReparam
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError

X = torch.linspace(0.0, 2.0, 5, dtype=torch.float64)

State = Callable[[str, dist.TorchDistribution, Tensor], None]


def observe(name: str, law: dist.TorchDistribution, value: Tensor) -> None:
    """As a user may write it."""
    pyro.sample(name, law, obs=value)


def weigh(name: str, law: dist.TorchDistribution, value: Tensor) -> None:
    """As the error tells to."""
    pyro.factor(name, law.log_prob(value))


def share() -> Tensor:
    """A probability."""
    value: Tensor = pyro.param("share", tensor(0.4, dtype=torch.float64), constraint=constraints.unit_interval)
    return value


def outside_of_plates(state: State) -> None:
    """The sum of two."""
    one, other = pyro.sample("one", dist.Bernoulli(share())), pyro.sample("other", dist.Bernoulli(tensor(0.2).double()))
    state("y", dist.Normal(tensor(0.0).double(), 1.0), one + other)


def residuals(state: State) -> None:
    """What a state takes from data, in a plate."""
    scale = pyro.param("scale", tensor(1.0, dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("rows", 5):
        one = pyro.sample("one", dist.Bernoulli(share()))
        state("y", dist.Laplace(0.0, scale), X - one)


def vectors(state: State) -> None:
    """With an event, in two plates."""
    with pyro.plate("rows", 5), pyro.plate("blocks", 3):
        one = pyro.sample("one", dist.Bernoulli(share()))
        zero = torch.zeros(2, dtype=torch.float64)
        state("y", dist.MultivariateNormal(zero, torch.eye(2).double()), torch.stack([X - one, X * one], -1))


def chain(state: State) -> None:
    """In a loop of states."""
    last = tensor(0.0).double()
    for t in pyro.markov(range(4)):
        now = pyro.sample(f"one_{t}", dist.Bernoulli(0.2 + share() * last / 2))
        state(f"y_{t}", dist.Normal(last, 1.0), X[t] - now)
        last = now


WHICH = {outside_of_plates: '"one", "other"', residuals: '"one"', vectors: '"one"', chain: '"one_0"'}


@pytest.mark.parametrize("model", WHICH, ids=lambda model: model.__name__)
def test_a_value_that_is_computed_from_latents(model: Callable[[State], None]) -> None:
    """The error names the latents, and a term of the model in its place has the evidence that Pyro gives both."""
    with pytest.raises(ModelError, match=f"got a value that is computed from latent {WHICH[model]}.*pyro.factor"):
        EM(model).plan(observe)
    found = float(EM(model).posterior(weigh).log_evidence)
    for state in (observe, weigh):
        theirs = TraceEnum_ELBO(max_plate_nesting=2).loss(config_enumerate(model), lambda _: None, state)
        assert found == pytest.approx(-theirs, rel=IDENTITY)


def test_data_of_the_wrong_shape_are_told_of_their_shape() -> None:
    """A dimension too many is that of a latent only where the latent is what the value is computed from."""

    def model() -> None:
        with pyro.plate("rows", 5):
            one = pyro.sample("one", dist.Bernoulli(share()))
            pyro.sample("y", dist.Normal(one, 1.0), obs=torch.stack([X, X]))

    with pytest.raises(ModelError, match="expected a batch that its plates broadcast to"):
        EM(model).plan()


def test_a_site_that_a_reparametrisation_leaves_behind() -> None:
    """It is a point mass of which torch cannot say statically what numbers it may have."""

    @poutine.reparam(config={"z": LatentStableReparam()})  # type: ignore[misc]
    def model() -> None:
        stability, skew = pyro.sample("stability", dist.Uniform(0.1, 1.9)), pyro.sample("skew", dist.Uniform(-0.9, 0.9))
        z = pyro.sample("z", dist.Stable(stability, skew))
        pyro.sample("x", dist.Poisson(z.abs() + 0.1), obs=tensor(1.0))

    pyro.set_rng_seed(0)
    assert EM(model, max_steps=5).fit().outcome
