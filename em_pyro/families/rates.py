"""Families with a rate: `Q` is `a log(rate) - b rate`, and so is a Gamma prior; the maximum is `a / b`."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from .base import Args, Family, Role, register
from .charts import safe_log


class _Rate(Family):
    solver = "rates"
    roles = {"rate": Role("positive", multiples=True)}

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        return safe_log(args["rate"]), -args["rate"]


@register(dist.Poisson)
class Poisson(_Rate):
    """`x log(rate) - rate - log x!`."""

    summed = "x, 1"
    counting = frozenset({1})

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return value, torch.ones_like(value)

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return -torch.lgamma(value + 1)


@register(dist.Exponential)
class Exponential(_Rate):
    """`log(rate) - rate x`."""

    summed = "1, x"
    counting = frozenset({0})

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return torch.ones_like(value), value
