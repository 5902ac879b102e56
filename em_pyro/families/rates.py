"""Families with a rate: `Q` is `a log(rate) - b rate`, and so is a Gamma prior; the maximum is `a / b`.

Where the rate is multiplied by an exposure that differs by row, as in `Poisson(exposure * rate)`, `b` counts exposures.
Counts with more zeros than Poisson counts have are one equation.

References:
    Lambert (1992), Zero-inflated Poisson regression, with an application to defects in manufacturing. Technometrics 34.
"""

from __future__ import annotations

from functools import cached_property, partial

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..program.named import unexpand
from .base import Args, Family, Role, register
from .charts import safe_log
from .counts import probabilities
from .newton import root

ROUNDING = 1e-16  # of a mean, below which no rate is looked for


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


# ---- more zeros ------------------------------------------------------------------------------------------------------


@register(dist.ZeroInflatedPoisson)
class ZeroInflatedPoisson(Family):
    """`log(gate + (1 - gate) exp(-rate))` at zero, `log(1 - gate) - rate + x log rate - log x!` above."""

    summed = "one if x = 0, one if x > 0, x"
    roles = {"gate": Role("unit"), "rate": Role("positive")}

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        gate = probabilities(distribution, name="gate", logit="gate_logits")
        return {"gate": gate, "rate": unexpand(distribution.rate)}  # type: ignore[attr-defined]

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return (value == 0).to(value.dtype), (value > 0).to(value.dtype), value

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        counted = args["gate_complement"] - args["rate"]
        return torch.logaddexp(args["gate"], counted), counted, safe_log(args["rate"])

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return -torch.lgamma(value + 1)

    def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """The rate solves `rate / (1 - exp(-rate)) = mean of x > 0`; the gate makes up for zeros that are missing.

        Where there are fewer zeros than Poisson counts have, the gate is zero. With the gate known `Q` may have two
        maxima by the rate: a step of its own EM is taken where Newton leads to the lower one.
        """
        none, some, total = statistics
        every, gate, rate = none + some, args["gate"], args["rate"]
        found = every > 0
        share = torch.where(found, none / torch.where(found, every, 1.0), 0.0)
        if "rate" in free and "gate" in free:
            m = torch.where(some > 0, total / torch.where(some > 0, some, 1.0), 2.0)
            solved = root(partial(_mean_above_zero, m), m, ROUNDING * m, m)
            few = share <= (-solved).exp()  # zeros
            rate = torch.where(some > 0, torch.where(few, total / torch.where(found, every, 1.0), solved), rate)
        elif "rate" in free:
            rate = _rate(none, some, total, gate, rate)
        below = (-rate).exp()
        gate = torch.where(found, ((share - below) / -(-rate).expm1()).clamp(0.0, 1.0), gate)
        return {key: {"gate": gate, "rate": rate}[key] for key in free}


def _mean_above_zero(m: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """`m - rate / (1 - exp(-rate))`, and its derivative by `log rate`."""
    some = -(-rate).expm1()
    return m - rate / some, -rate * (some - rate * (1 - some)) / some.square()


def _rate(none: Tensor, some: Tensor, total: Tensor, gate: Tensor, old: Tensor) -> Tensor:
    """The rate of zero-inflated counts whose gate is known."""

    def chance(rate: Tensor) -> Tensor:
        """That a zero was counted."""
        counted = (1 - gate) * (-rate).exp()
        return counted / (gate + counted)

    def gap(rate: Tensor) -> tuple[Tensor, Tensor]:
        zero = chance(rate)
        return total / rate - some - none * zero, -total / rate + rate * none * zero * (1 - zero)

    def q(rate: Tensor) -> Tensor:
        return none * (gate + (1 - gate) * (-rate).exp()).log() - some * rate + total * rate.log()

    found = some > 0
    m = torch.where(found, total / torch.where(found, some, 1.0), 1.0)
    new = root(gap, torch.minimum(old, m), ROUNDING * m, m)
    of_em = total / torch.where(found, some + none * chance(old), 1.0)
    return torch.where(found, torch.where(q(new) >= q(old), new, of_em), old)
