"""Mixtures whose arguments are computed, tied or partly impossible."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from torch import Tensor, tensor
from torch.distributions import constraints

from programs.case import program


def _points() -> tuple[Tensor, ...]:
    return (tensor([-1.3, 0.2, 2.9, 3.4]),)


@program(lambda: (tensor([-1.0, 0.3, 1.2, 2.0]), tensor([0.4, 0.9, -1.1, 2.3])))
def mixture_of_regressions(x: Tensor, y: Tensor) -> None:
    """Fit a line in each component: a mean affine in its parameters, no selection."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    b = pyro.param("b", tensor([[0.2, 0.9], [0.5, -1.1]]))
    scale = pyro.param("scale", tensor([0.7, 1.2]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(b[z, 0] + b[z, 1] * x, scale[z]), obs=y)


@program(_points)
def structural_zeros(x: Tensor) -> None:
    """Hold a logit of exactly minus infinity in a parameter: the state is impossible and stays so."""
    logits = pyro.param("logits", tensor([0.3, -torch.inf, -0.4]))
    loc = pyro.param("loc", tensor([-0.4, 1.0, 2.3]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(logits=logits))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(_points)
def unnormalised_weights(x: Tensor) -> None:
    """Pass positive weights that only `Categorical` normalises, and a scale on the log scale."""
    weights = pyro.param("weights", tensor([0.7, 2.1]), constraint=constraints.positive)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    log_scale = pyro.param("log_scale", tensor([-0.2, 0.3]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], log_scale[z].exp()), obs=x)


@program(lambda: (*_points(), tensor([-0.9, 0.5, 2.2, 4.0])))
def shared_parameter(x: Tensor, y: Tensor) -> None:
    """Use the same means at two sites with different known scales, and a constant for the last state."""
    weights = pyro.param("weights", tensor([0.3, 0.5, 0.2]), constraint=constraints.simplex)
    loc = torch.cat([pyro.param("loc", tensor([-0.4, 2.3])), tensor([5.0])])
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
        pyro.sample("y", dist.Normal(loc[z], 1.7), obs=y)


@program(_points)
def factor_statement(x: Tensor) -> None:
    """Reward a state by `pyro.factor`, outside every family."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    bonus = pyro.param("bonus", tensor([0.3, -0.5]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
        pyro.factor("reward", bonus[z] * x.abs())


@program(_points)
def deterministic_statement(x: Tensor) -> None:
    """Record the mean by `pyro.deterministic` before using it."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        mean = pyro.deterministic("mean", loc[z])
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


@program(lambda: (tensor([-1.3, 0.2, 2.9, 3.4], dtype=torch.float64),))
def mixed_precision(x: Tensor) -> None:
    """Hold parameters in float32 beside float64 data."""
    weights = pyro.param("weights", tensor([0.35, 0.65], dtype=torch.float32), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3], dtype=torch.float32))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(lambda: (torch.tensor([2, 0, 1, 2]), torch.tensor([0, 1, 3, 1])))
def integer_counts(symbol: Tensor, count: Tensor) -> None:
    """Observe integers: a Categorical symbol and a Poisson count of dtype int64."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    probs = pyro.param("probs", tensor([[0.5, 0.3, 0.2], [0.15, 0.25, 0.6]]), constraint=constraints.simplex)
    rate = pyro.param("rate", tensor([0.8, 2.4]), constraint=constraints.positive)
    with pyro.plate("row", len(symbol)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("symbol", dist.Categorical(probs[z]), obs=symbol)
        pyro.sample("count", dist.Poisson(rate[z]), obs=count)


@program(_points, trace_enum=False)
def no_latent(x: Tensor) -> None:
    """Sum over nothing: one Normal, no latent."""
    loc = pyro.param("loc", tensor(0.4))
    scale = pyro.param("scale", tensor(1.3), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(loc, scale), obs=x)


@program(_points)
def barren_latent(x: Tensor) -> None:
    """Sample a second latent that nothing observed depends on."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    next_weights = pyro.param("next_weights", tensor([[0.2, 0.8], [0.7, 0.3]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("following", dist.Categorical(next_weights[z]))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(_points)
@config_enumerate(default="parallel", expand=True)
def configured_by_user(x: Tensor) -> None:
    """Mark the latent for enumeration oneself, expanded over the plate."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(_points)
def no_plate(x: Tensor) -> None:
    """Let one latent choose the mean of a whole event, outside any plate."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    z = pyro.sample("z", dist.Categorical(weights))
    pyro.sample("x", dist.Normal(loc[z].unsqueeze(-1), 1.5).expand(loc[z].shape + x.shape).to_event(1), obs=x)
