"""Priors: continuous latent sites outside data plates, which are MAP parameters."""

import pyro
import pyro.distributions as dist
from torch import Tensor, tensor
from torch.distributions import constraints

from programs.case import program


def _points() -> Tensor:
    return tensor([-1.3, 0.2, 2.9, 3.4])


@program(
    lambda: (tensor([0.0, 1.0, 10.0, 11.0, 12.0]),),
    map_values=lambda: {"weights": tensor([0.4, 0.6]), "scale": tensor(1.7), "locs": tensor([1.1, 9.4])},
)
def tutorial_mixture(data: Tensor) -> None:
    """Fit the Gaussian mixture of Pyro's tutorial, unmodified."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * data.new_ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


@program(
    lambda: (tensor([5.0, 9.0, 8.0, 4.0]),),
    map_values=lambda: {"weights": tensor([0.4, 0.6]), "bias": tensor([0.7, 0.45])},
)
def beta_coins(heads: Tensor) -> None:
    """Put Beta priors on the biases and a Dirichlet on the weights: all conjugate."""
    weights = pyro.sample("weights", dist.Dirichlet(tensor([1.5, 2.5])))
    with pyro.plate("coins", 2):
        bias = pyro.sample("bias", dist.Beta(2.0, 3.0))
    with pyro.plate("sequence", len(heads)):
        z = pyro.sample("coin", dist.Categorical(weights))
        pyro.sample("heads", dist.Binomial(10, bias[z]), obs=heads)


@program(
    lambda: (tensor([1.0, 7.0, 2.0, 9.0]), tensor([0.4, 2.7, 0.9, 3.3])),
    map_values=lambda: {"rate": tensor([1.3, 4.1]), "speed": tensor([1.7, 0.4])},
)
def gamma_rates(count: Tensor, wait: Tensor) -> None:
    """Put Gamma priors on Poisson and Exponential rates, as one event and as a plate."""
    weights = pyro.param("weights", tensor([0.55, 0.45]), constraint=constraints.simplex)
    rate = pyro.sample("rate", dist.Gamma(tensor([2.0, 3.0]), 0.8).to_event(1))
    with pyro.plate("components", 2):
        speed = pyro.sample("speed", dist.Gamma(1.5, 1.2))
    with pyro.plate("row", len(count)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("count", dist.Poisson(rate[z]), obs=count)
        pyro.sample("wait", dist.Exponential(speed[z]), obs=wait)


@program(
    lambda: (_points(),),
    map_values=lambda: {"centre": tensor(0.8), "loc": tensor([-0.6, 2.4])},
)
def hierarchical_means(x: Tensor) -> None:
    """Let the prior of a parameter depend on a parameter that has a prior, and on one that has none."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    spread = pyro.param("spread", tensor(1.8), constraint=constraints.greater_than(0.5))
    centre = pyro.sample("centre", dist.Normal(0.0, 3.0))
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(centre, spread))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(
    lambda: (_points(),),
    map_values=lambda: {"logit": tensor(-0.6), "scale": tensor([0.9, 1.6])},
)
def priors_without_conjugacy(x: Tensor) -> None:
    """Put a Normal prior on a logit and HalfCauchy priors on the scales."""
    logit = pyro.sample("logit", dist.Normal(0.0, 1.5))
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    with pyro.plate("components", 2):
        scale = pyro.sample("scale", dist.HalfCauchy(1.2))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(logits=logit)).long()
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


@program(
    lambda: (tensor([-0.7, 0.4, 2.6]),),
    map_values=lambda: {
        "initial": tensor([0.35, 0.65]),
        "transition": tensor([[0.8, 0.2], [0.4, 0.6]]),
        "loc": tensor([-0.4, 2.3]),
    },
)
def bayesian_chain(y: Tensor) -> None:
    """Put Dirichlet priors on the rows of a transition matrix and Normal priors on the means."""
    initial = pyro.sample("initial", dist.Dirichlet(tensor([1.3, 1.6])))
    with pyro.plate("state", 2):
        transition = pyro.sample("transition", dist.Dirichlet(tensor([2.0, 1.4])))
        loc = pyro.sample("loc", dist.Normal(0.5, 2.0))
    x = None
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(initial if x is None else transition[x]))
        pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])
