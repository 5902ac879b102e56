"""A model that goes ways which no recording can follow, as it is told."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, tensor

X = tensor([0.0, 1.0, 1.0, 2.0, 5.0, 6.0, 7.0, 5.0], dtype=torch.float64)
"""Counts to fit it to."""


class Straight(torch.autograd.Function):
    """The identity, with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return it."""
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        """Say twice the slope."""
        return 2 * slope


CALLS = torch.zeros(())
"""What the model writes into, though it did not make it."""


def counts(x: Tensor, how: str) -> None:
    """Poisson counts whose rate is reached by a way that no family knows."""
    start = tensor([0.4, 0.9])
    if how == "start":  # a number read from random ones, of which nothing is left
        start = start + 0.0 * torch.rand(2).sort().values[0].item()
    a = pyro.param("a", start)
    rate = (1 + a.square()).log().exp()
    if how == "branch":
        rate = rate if a[0] < a[1] else rate.flip(0).flip(0)
    elif how == "number":
        rate = rate + 0.0 * a[0].item()
    elif how == "caught":
        try:
            rate = rate + 0.0 * a[0].item()
        except Exception:  # noqa: BLE001
            rate = rate + 0.0
    elif how == "list":
        rate = rate + torch.as_tensor([0.1 * v for v in a.tolist()])
    elif how == "gradient":
        rate = Straight.apply(rate)
    elif how == "shape":
        rate = torch.cat([rate[rate > 1.0], rate[rate <= 1.0]])
    elif how == "buffer":
        CALLS.add_(1)
    elif how == "random":
        rate = rate + 1e-12 * torch.rand(2)
    elif how == "order":
        table = torch.ones(2)
        rate = rate + table - 1
        table[0] = 5.0
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)
