"""Families with a rate: `Q` is `a log(rate) - b rate`, and so is a Gamma prior; the maximum is `a / b`.

Where the rate is multiplied by an exposure that differs by row, as in `Poisson(exposure * rate)`, `b` counts exposures.
"""

from __future__ import annotations

from functools import cached_property

import pyro.distributions as dist
import torch
from torch import Tensor

from .base import Args, Family, Role, register
from .charts import safe_log


class RateFamily(Family):
    """A family with a rate, whose statistics are `(a, b)`."""

    solver = "rates"
    roles = {"rate": Role("positive", multiples=True)}

    @cached_property
    def exposed(self) -> Family | None:
        return Exposed(self)

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        return safe_log(args["rate"]), -args["rate"]


@register(dist.Poisson)
class Poisson(RateFamily):
    """`x log(rate) - rate - log x!`."""

    summed = "x, 1"
    counting = frozenset({1})

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return value, torch.ones_like(value)

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return -torch.lgamma(value + 1)


@register(dist.Exponential)
class Exponential(RateFamily):
    """`log(rate) - rate x`."""

    summed = "1, x"
    counting = frozenset({0})

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return torch.ones_like(value), value


class Exposed(RateFamily):
    """A family whose rate is `exposure * rate`, the exposure known.

    Args:
        inner: the family of what has been exposed once.
    """

    exposed = None

    def __init__(self, inner: RateFamily) -> None:
        """Say what is summed: here it is a matter of the instance."""
        self.inner, (events, once) = inner, inner.summed.split(", ")
        self.summed = f"{events}, exposure{'' if once == '1' else ' ' + once}"  # type: ignore[misc]

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        events, exposure = self.inner.statistics(value, known)
        return events, exposure * known["exposure"]

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        own, (events, _) = self.inner.base(value, known), self.inner.statistics(value, known)
        own = torch.zeros((), dtype=torch.float64) if own is None else own
        return own + torch.special.xlogy(events, known["exposure"])
