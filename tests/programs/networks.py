"""Two experts whose gate is a network, and data that it can tell apart."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, tensor
from torch.distributions import constraints


class Gate:
    """Two experts whose gate is a network with hidden units."""

    def __init__(self) -> None:
        """Start from weights of a fixed seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            layers = torch.nn.Linear(1, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)
            self.net = torch.nn.Sequential(*layers)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Run the mixture on `x` and `y`, both of shape `(N,)`."""
        net = pyro.module("gate", self.net)
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        scale = pyro.param("scale", tensor(1.5), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=net(x.unsqueeze(-1))))
            pyro.sample("y", dist.Normal(loc[z], scale), obs=y)


def lines(seed: int = 0) -> tuple[Tensor, Tensor]:
    """High in the middle, low at both ends, with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-2, 2, 40)
    return x, torch.where(x.abs() < 1, 2.0, -2.0) + torch.randn(40, generator=generator, dtype=torch.float64)
