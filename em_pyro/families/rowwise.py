"""Families without finite sufficient statistics: their maximum is found over the weighted rows themselves.

Here Weibull and negative binomial, whose shape is profiled: one equation. A table like any other, so that the engine
need not know: the statistic is the row, and `log_prob` and `solve_rows` stand in for `natural` and `solve`.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..program.data.counts import log_choose
from ..program.named import unexpand
from .base import Args, Family, Role, register
from .newton import root

FAR = 1e3  # total count, in the same unit as the next, from which the equation for it is written as a series
ENDLESS = 1e12  # concentration of values that are all equal, in place of one without bound
POISSON = 1e7  # total count, in units of one plus the mean, at which a negative binomial is Poisson


class RowFamily(Family):
    """A family whose `Q` is a sum over rows. Subclass it, fill in the table, and write these two."""

    summed = "for every row whether it is that one: the sums are the weights of all rows"
    solver = "rows"

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        """The value: what distinguishes one row from another."""
        return (value.double(),)

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        """Log-density, differentiable in `args`, which hold the known arguments too.

        Roles of domain "unit" arrive as logarithms, as for `Family.natural`.
        """
        raise NotImplementedError

    def weighed(self, value: Tensor, weights: Tensor, args: Args) -> Tensor:
        """Return `sum_r weights_r log_prob(value_r)` of every cell, differentiable twice where `log_prob` is.

        Args:
            value: rows, shape `(cells, rows)` + event, finite also where the weight is zero.
            weights: shape `(cells, rows)`.
            args: arguments, shape `(cells, 1)`; known ones `(cells, rows)`.
        """
        return torch.where(weights != 0, self.log_prob(value, args) * weights, 0.0).sum(-1)

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Maximise `sum_r weights_r log_prob(value_r)` over the `free` roles.

        Args:
            value: rows of every cell, shape `(cells, rows)` + event; finite also where the weight is zero.
            weights: their posterior weights, shape `(cells, rows)`.
            args: current arguments in the user's units, shape `(cells,)`; known ones `(cells, rows)`.
            free: roles to solve for.

        Returns:
            The free roles, shape `(cells,)`. A cell with no solution keeps its current value. Raise
            `NotImplementedError` where there is no solution for this set of roles.
        """
        raise NotImplementedError


def mean(value: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the rows; zero where there is no weight."""
    total = weights.sum(-1)
    return (weights * value).sum(-1) / torch.where(total > 0, total, 1.0)


@register(dist.Weibull)
class Weibull(RowFamily):
    """`log(k / scale) + (k - 1) log(x / scale) - (x / scale)^k`, with concentration `k`."""

    roles = {"scale": Role("positive"), "concentration": Role("positive")}

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        k, log_ratio = args["concentration"], value.log() - args["scale"].log()
        return k.log() - value.log() + k * log_ratio - (k * log_ratio).exp()

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """`scale^k = mean(x^k)`; `1/k = mean(x^k log x) / mean(x^k) - mean(log x)` with the scale profiled out.

        Values that are all equal have no finite concentration: the loop sees that it has run off.
        """
        found = weights.sum(-1) > 0
        log_x = value.log()
        top = torch.where(weights > 0, log_x, -torch.inf).amax(-1)
        top = torch.where(found, top, 0.0)
        y = (log_x - top.unsqueeze(-1)).clamp(max=0.0)  # at most 0, so that no power overflows
        k = args["concentration"]
        if "concentration" in free:
            level = mean(y, weights)
            spread = mean((y - level.unsqueeze(-1)).square(), weights).sqrt()
            apart = found & (spread > 1e-14 * (1 + top.abs()))
            start = torch.where(apart, 1.28 / torch.where(apart, spread, 1.0), k)
            offset = top - args["scale"].log()
            endless = found & ~apart
            if "scale" not in free:  # equal values beside the scale do have one
                endless = endless & ((level + offset).abs() <= 1e-14 * (1 + top.abs()))
                apart = found & ~endless

            def gap(k: Tensor) -> tuple[Tensor, Tensor]:
                if "scale" in free:
                    power = weights * (k.unsqueeze(-1) * y).exp()
                    first, second = mean(y, power), mean(y.square(), power)
                    return 1 / k - first + level, -1 / k - k * (second - first.square())
                ratio = y + offset.unsqueeze(-1)
                power = (k.unsqueeze(-1) * ratio).clamp(max=700.0).exp()
                slope = 1 / k + mean(ratio - power * ratio, weights)
                return slope, -1 / k - k * mean(power * ratio.square(), weights)

            lower = 1e-6 * start.clamp(max=1.0)  # a row of hardly any weight makes the spread that of no shape
            k = torch.where(apart, root(gap, start, lower, 1e6 * start), torch.where(endless, ENDLESS, k))
        log_power = mean((k.unsqueeze(-1) * y).exp(), weights)
        scale = torch.where(found, (top + log_power.clamp(min=1e-300).log() / k).exp(), args["scale"])
        return {key: {"scale": scale, "concentration": k}[key] for key in free}


def nearly_poisson(x: Tensor, weights: Tensor, m: Tensor, r: Tensor) -> Tensor:
    """`mean(digamma(x + r)) - digamma(r) - log1p(m / r)` for large `r`, where its terms cancel all but a few digits.

    `digamma(r) = log r - 1/2r - 1/12r^2 + ...`, and `mean(log((r + x) / (r + m)))` is `mean(log1p(d) - d)` with
    `d = (x - m) / (r + m)`, which has mean zero.
    """
    r, m = r.unsqueeze(-1), m.unsqueeze(-1)
    d = (x - m) / (r + m)
    bent = torch.where(d.abs() < 1e-3, -d * d * (1 / 2 - d * (1 / 3 - d * (1 / 4 - d / 5))), d.log1p() - d)
    second, third = x / (2 * r * (r + x)), x * (2 * r + x) / (12 * r**2 * (r + x) ** 2)
    return mean(bent + second + third, weights)


class NegativeBinomial(RowFamily):
    """`log_choose(x, r) + x log p + r log(1 - p)`, the total count `r` estimated."""

    roles = {"total_count": Role("positive"), "probs": Role("unit")}

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        if "probs" in vars(distribution):
            probs = unexpand(distribution.probs)  # type: ignore[attr-defined]
        else:
            probs = torch.sigmoid(unexpand(distribution.logits))  # type: ignore[attr-defined]
        return {"probs": probs, "total_count": unexpand(distribution.total_count)}  # type: ignore[attr-defined]

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        hits, misses = args["probs"], args["probs_complement"]
        log_p = torch.where(value > 0, value * hits, 0.0)
        return log_choose(value, args["total_count"]) + log_p + args["total_count"] * misses

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """`p = mean(x) / (mean(x) + r)`; `mean(digamma(x + r)) - digamma(r) + log(1 - p) = 0`, `p` profiled out.

        Counts that vary no more than Poisson counts have no finite `r`: it stops where the two can be told apart no
        more. The equation has one root or none.
        """
        m, r = mean(value, weights), args["total_count"]
        found = (weights.sum(-1) > 0) & (m > 0)
        m = torch.where(found, m, 1.0)
        if "total_count" in free:
            fixed = None if "probs" in free else (-args["probs"]).log1p()

            def gap(r: Tensor) -> tuple[Tensor, Tensor]:
                rows = value + r.unsqueeze(-1)
                slope = mean(rows.digamma(), weights) - r.digamma()
                curvature = r * (mean(torch.polygamma(1, rows), weights) - torch.polygamma(1, r))
                if fixed is not None:
                    return slope + fixed, curvature
                slope = torch.where(r < FAR * (1 + m), slope - (m / r).log1p(), nearly_poisson(value, weights, m, r))
                return slope, curvature + m / (r + m)

            most = torch.maximum(POISSON * (1 + m), r)
            solved = root(gap, r, 1e-10 * torch.ones_like(r), most)
            r = torch.where(found, solved, r)
        probs = torch.where(weights.sum(-1) > 0, torch.where(found, m / (m + r), 0.0), args["probs"])
        return {key: {"total_count": r, "probs": probs}[key] for key in free}
