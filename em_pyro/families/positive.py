"""Positive values and shares: the shapes of Gamma, Beta and Dirichlet solve an equation in digammas, by Newton.

References:
    Minka (2002), Estimating a Gamma distribution. Minka (2000), Estimating a Dirichlet distribution.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..program.named import unexpand
from .base import Args, Family, Role, register
from .newton import dirichlet, inverse_digamma, log_minus_digamma, root

ENDLESS = 1e12  # shape of values that are all at their bound, in place of one without bound


def log_gamma(shape: Tensor) -> Tensor:
    """Return `log Gamma(a)`; nan below zero, where the function has values, and no law has such a shape."""
    return torch.where(shape < 0, torch.nan, shape).lgamma()


class Gamma(Family):
    """`a log b - log Gamma(a) + (a - 1) log x - b x`, concentration `a` and rate `b`, linear in `(1, x, log x)`."""

    summed = "1, x, log x"
    counting = frozenset({0})
    roles = {"concentration": Role("positive"), "rate": Role("positive")}
    sharpens = frozenset({"concentration"})

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return torch.ones_like(value), value, value.log()

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        a, b = args["concentration"], args["rate"]
        return a * b.log() - log_gamma(a), -b, a

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return -value.log()

    def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Rate `a / mean(x)`, in closed form; concentration by Newton, with the rate profiled out where it is free.

        Both: `log a - digamma(a) = log mean(x) - mean(log x)`. The concentration alone: `digamma(a) = log b +
        mean(log x)`.
        Values that are all equal have no finite concentration.
        """
        n, total, total_log = statistics
        rows = torch.where(n > 0, n, 1.0)
        mean, mean_log = total / rows, total_log / rows
        found = (n > 0) & (mean > 0) & torch.isfinite(mean_log)
        mean = torch.where(found, mean, 1.0)
        a = args["concentration"]
        if "concentration" in free and "rate" in free:
            spread = mean.log() - mean_log
            found = found & (spread > 0)
            spread = torch.where(found, spread, 1.0)
            # Within 1.5 per cent (Minka 2002, equation 17); the gap lies between 1 / 2a and 1 / a.
            start = (3 - spread + ((spread - 3).square() + 24 * spread).sqrt()) / (12 * spread)

            def gap(x: Tensor) -> tuple[Tensor, Tensor]:
                value, slope = log_minus_digamma(x)
                return value - spread, slope

            a = torch.where(found, root(gap, start, 0.5 / spread, 1 / spread), a)
        elif "concentration" in free:
            level = torch.where(found, args["rate"].log() + mean_log, 0.0)
            a = torch.where(found, inverse_digamma(level), a)
        rate = torch.where(found, a / mean, args["rate"])
        return {key: {"concentration": a, "rate": rate}[key] for key in free}


class InverseGamma(Gamma):
    """The Gamma of `1 / x`, with the Jacobian `-2 log x` in the base measure."""

    summed = "1, 1 / x, -log x"

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return super().statistics(value.reciprocal(), known)


@register(dist.Dirichlet)
class Dirichlet(Family):
    """`log Gamma(sum a) - sum log Gamma(a) + sum (a - 1) log x`, linear in `(1, log x)`."""

    summed = "1, log x"
    counting = frozenset({0})
    event_dim = 1
    roles = {"concentration": Role("positive", event_dim=1)}
    sharpens = frozenset({"concentration"})

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return torch.ones_like(value[..., 0]), value.log()

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        a = args["concentration"]
        return a.sum(-1).lgamma() - log_gamma(a).sum(-1), a

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return -value.log().sum(-1)

    def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """`digamma(a_c) - digamma(sum a) = mean(log x_c)`; rows that are all equal have no finite solution."""
        n, total = statistics
        a = args["concentration"]
        return {"concentration": _shapes(n, total, a, torch.ones_like(a[..., :1], dtype=torch.bool))}


@register(dist.Beta)
class Beta(Family):
    """The Dirichlet of `(x, 1 - x)`, linear in `(1, log x, log(1 - x))`."""

    summed = "1, log x, log(1 - x)"
    counting = frozenset({0})
    roles = {"concentration1": Role("positive"), "concentration0": Role("positive")}
    sharpens = frozenset({"concentration1", "concentration0"})

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return torch.ones_like(value), value.log(), (-value).log1p()

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        a, b = args["concentration1"], args["concentration0"]
        return (a + b).lgamma() - log_gamma(a) - log_gamma(b), a, b

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return -value.log() - (-value).log1p()

    def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """As the Dirichlet does, over one concentration or both."""
        n, *totals = statistics
        keys = ("concentration1", "concentration0")
        moving = torch.tensor([key in free for key in keys], device=n.device)
        start = torch.stack(torch.broadcast_tensors(*(args[key] for key in keys)), -1)
        solved = _shapes(n, torch.stack(totals, -1), start, moving)
        return {key: solved[..., k] for k, key in enumerate(keys) if key in free}


@register(dist.HalfNormal)
class HalfNormal(Family):
    """`-x^2 / 2 scale^2 - log scale`: a Normal around zero whose sign is lost."""

    summed = "1, x^2"
    counting = frozenset({0})
    roles = {"scale": Role("positive")}

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return torch.ones_like(value), value.square()

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        return -args["scale"].log(), -0.5 * args["scale"].square().reciprocal()

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return value.new_full((), 0.5 * math.log(2 / math.pi))

    def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """The root of the mean square."""
        n, total = statistics
        found = n > 0
        return {"scale": torch.where(found, (total / torch.where(found, n, 1.0)).sqrt(), args["scale"])}


@register(dist.Pareto)
class Pareto(Family):
    """`log alpha - alpha log(x / scale) - log x`, the `scale` known, beyond which all values lie."""

    summed = "1, log(x / scale)"
    counting = frozenset({0})
    roles = {"alpha": Role("positive")}
    sharpens = frozenset({"alpha"})

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        return {**super().read(distribution), "scale": unexpand(distribution.scale)}  # type: ignore[attr-defined]

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return torch.ones_like(value), (value / known["scale"]).log()

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        return args["alpha"].log(), -args["alpha"]

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return -value.log()

    def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """One over the mean logarithm; values that are all at the scale have no finite one."""
        n, total = statistics
        return {"alpha": torch.where(n > 0, n / torch.maximum(total, n / ENDLESS), args["alpha"])}


def _shapes(n: Tensor, total_log: Tensor, start: Tensor, free: Tensor) -> Tensor:
    """Dirichlet concentrations, where there are any: the geometric means must add up to less than one."""
    mean_log = total_log / torch.where(n > 0, n, 1.0).unsqueeze(-1)
    found = (n > 0) & (mean_log < 0).all(-1) & torch.isfinite(mean_log).all(-1)
    if bool(free.all()):
        found = found & (mean_log.exp().sum(-1) < 1)
    found = found.unsqueeze(-1)
    mean_log = torch.where(found, mean_log, -2.0 * torch.ones_like(mean_log) * max(1.0, mean_log.shape[-1]))
    return torch.where(found, dirichlet(mean_log, torch.where(found, start, 1.0), free), start)
