"""Weights: constant scales, and a tensor `poutine.scale` that gives each row its own."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from programs.case import program


def _points() -> Tensor:
    return tensor([-1.3, 0.2, 2.9])


def _weights() -> Tensor:
    return pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)


def _loc() -> Tensor:
    return pyro.param("loc", tensor([-0.4, 2.3]))


@program(lambda: (_points(),))
def constant_scale(x: Tensor) -> None:
    """Scale everything by one constant."""
    weights, loc = _weights(), _loc()
    with poutine.scale(scale=2.5), pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(lambda: (_points(),), map_values=lambda: {"centre": tensor(0.7)})
def scaled_data_plain_prior(x: Tensor) -> None:
    """Scale the data but not the prior of a parameter above them."""
    weights, loc = _weights(), _loc()
    centre = pyro.sample("centre", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)), poutine.scale(scale=0.5):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(centre + loc[z], 1.0), obs=x)


@program(lambda: (_points(), tensor([0.5, 2.25, 1.0])), trace_enum=False)
def row_weights(x: Tensor, w: Tensor) -> None:
    """Weigh rows by fractions."""
    weights, loc = _weights(), _loc()
    scale = pyro.param("scale", tensor([0.9, 1.4]), constraint=constraints.positive)
    with pyro.plate("row", len(x)), poutine.scale(scale=w):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


@program(
    lambda: (_points(), tensor([2.0, 1.0, 3.0])),
    repeated=lambda: (_points()[torch.tensor([0, 0, 1, 2, 2, 2])], torch.ones(6)),
    trace_enum=False,
)
def row_counts(x: Tensor, w: Tensor) -> None:
    """Weigh rows by how often each occurred, under a latent above them that occurs once."""
    regime = pyro.param("regime", tensor([0.3, 0.7]), constraint=constraints.simplex)
    weights = pyro.param("weights", tensor([[0.2, 0.8], [0.6, 0.4]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    g = pyro.sample("g", dist.Categorical(regime))
    with pyro.plate("row", len(x)), poutine.scale(scale=w):
        z = pyro.sample("z", dist.Categorical(weights[g]))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(
    lambda: (tensor([[-0.7, 0.4], [1.9, 2.2]]), tensor([1.0, 3.0])),
    repeated=lambda: (tensor([[-0.7, 0.4], [1.9, 2.2], [1.9, 2.2], [1.9, 2.2]]), torch.ones(4)),
    trace_enum=False,
)
def sequence_counts(y: Tensor, w: Tensor) -> None:
    """Weigh whole sequences: every step of a row carries the row's weight."""
    initial = pyro.param("initial", tensor([0.35, 0.65]), constraint=constraints.simplex)
    transition = pyro.param("transition", tensor([[0.8, 0.2], [0.4, 0.6]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    x = torch.tensor(0)
    with pyro.plate("sequence", len(y)), poutine.scale(scale=w):
        for t in pyro.markov(range(y.shape[1])):
            x = pyro.sample(f"x_{t}", dist.Categorical(transition[x] if t else initial))
            pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[:, t])


@program(
    lambda: (tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), tensor([2.0, 1.0])),
    repeated=lambda: (tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), torch.ones(3)),
    trace_enum=False,
)
def person_counts(answers: Tensor, w: Tensor) -> None:
    """Weigh persons whose items lie in an inner plate: the items carry the person's weight."""
    weights = _weights()
    p = pyro.param("p", tensor([0.8, 0.3]), constraint=constraints.unit_interval)
    with pyro.plate("person", answers.shape[0], dim=-2), poutine.scale(scale=w.unsqueeze(-1)):
        z = pyro.sample("z", dist.Categorical(weights))
        with pyro.plate("item", answers.shape[1], dim=-1):
            pyro.sample("answer", dist.Bernoulli(p[z]), obs=answers)


@program(
    lambda: (tensor([[0.3], [1.9]]), tensor([2.0, 1.0]), tensor([2.0])),
    repeated=lambda: (tensor([[0.3, 0.3], [0.3, 0.3], [1.9, 1.9]]), torch.ones(3), torch.ones(2)),
    trace_enum=False,
)
def nested_counts(x: Tensor, group_w: Tensor, member_w: Tensor) -> None:
    """Weigh groups and, inside them, members: nested weights multiply."""
    weights, loc = _weights(), _loc()
    inner = pyro.param("inner", tensor([[0.25, 0.75], [0.6, 0.4]]), constraint=constraints.simplex)
    with pyro.plate("group", x.shape[0], dim=-2), poutine.scale(scale=group_w.unsqueeze(-1)):
        a = pyro.sample("a", dist.Categorical(weights))
        with pyro.plate("member", x.shape[1], dim=-1), poutine.scale(scale=member_w):
            b = pyro.sample("b", dist.Categorical(inner[a]))
            pyro.sample("x", dist.Normal(loc[b], 1.0), obs=x)
