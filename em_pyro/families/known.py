"""Families that are simpler where an argument is known: a Gamma is then a rate, a negative binomial a probability.

Where a parameter enters that argument, the distribution is read by the `wider` family.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..program.data.counts import log_choose
from ..program.named import unexpand
from . import overdispersed, positive
from .base import Args, Family, Role, register
from .rates import RateFamily


@register(dist.Gamma)
class Gamma(RateFamily):
    """`a log(rate) - rate x`, the concentration `a` known and possibly different in each row."""

    summed = "concentration, x"
    wider = positive.Gamma()

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        concentration = unexpand(distribution.concentration)  # type: ignore[attr-defined]
        return {**super().read(distribution), "concentration": concentration}

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return known["concentration"] + torch.zeros_like(value), value

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        a = known["concentration"]
        return (a - 1) * value.log() - a.lgamma()


@register(dist.InverseGamma)
class InverseGamma(Gamma):
    """The Gamma of `1 / x`, with the Jacobian `-2 log x` in the base measure."""

    summed = "concentration, 1 / x"
    wider = positive.InverseGamma()

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return super().statistics(value.reciprocal(), known)

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        a = known["concentration"]
        return -(a + 1) * value.log() - a.lgamma()


@register(dist.NegativeBinomial)
class NegativeBinomial(Family):
    """`x log p + r log(1 - p)` with `r = total_count` known, and the binomial coefficient as base measure."""

    summed = "x, total_count"
    solver = "counts"
    wider = overdispersed.NegativeBinomial()
    roles = {"probs": Role("unit")}

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        assert self.wider is not None
        return self.wider.read(distribution)

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        return args["probs"], args["probs_complement"]

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return value, known["total_count"] + torch.zeros_like(value)

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return log_choose(value, known["total_count"])
