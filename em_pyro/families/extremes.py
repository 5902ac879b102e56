"""Weibull and Gumbel, the laws of extremes: one is the logarithm of the other, and their shape solves one equation.

References:
    Johnson, Kotz & Balakrishnan (1994, 1995), Continuous univariate distributions, chapters 21 and 22.
"""

from __future__ import annotations

from math import inf

import pyro.distributions as dist
import torch
from torch import Tensor

from .base import Args, Role, register
from .newton import root
from .rowwise import RowFamily, mean

ROUNDING = 1e-14  # of the largest logarithm: values that differ by less are equal
SHAPE = 1.28  # the standard deviation of the logarithm of a Weibull of concentration one, about
ENDLESS = 1e12  # concentration of values that are all equal, in place of one without bound
FARTHEST = 600.0  # an exponent whose exponential has finite derivatives: no row beyond is possible
WIDE = 1e6  # times the concentration that the spread suggests, or one part in so many: where it is looked for


def extremes(
    log_x: Tensor, weights: Tensor, k: Tensor, log_scale: Tensor, free: tuple[bool, bool], unit: float
) -> tuple[Tensor, Tensor]:
    """Maximise the density of Weibulls over concentration, log-scale or both.

    With `z = log x - log scale`: `mean(exp(k z)) = 1`, and with the scale profiled out `1 / k = mean(x^k log x) /
    mean(x^k) - mean(log x)`. Values that are all equal have no finite concentration: the loop sees that it has run off.

    Args:
        log_x: logarithms of the rows, `(cells, rows)`.
        weights: of the rows.
        k: current concentrations, `(cells,)`.
        log_scale: current log-scales.
        free: whether the concentration moves, and whether the scale does.
        unit: of the logarithms where they were taken of rows; zero where they are the rows, in any unit.
    """
    found = weights.sum(-1) > 0
    top = torch.where(found, torch.where(weights > 0, log_x, -torch.inf).amax(-1), 0.0)
    y = (log_x - top.unsqueeze(-1)).clamp(max=0.0)  # at most 0, so that no power overflows
    if free[0]:
        level, least = mean(y, weights), ROUNDING * (unit + top.abs())
        spread = mean((y - level.unsqueeze(-1)).square(), weights).sqrt()
        apart = found & (spread > least)
        start = torch.where(apart, SHAPE / torch.where(apart, spread, 1.0), k)
        offset = top - log_scale
        endless = found & ~apart
        if not free[1]:  # equal values beside the scale do have one
            endless = endless & ((level + offset).abs() <= least)
            apart = found & ~endless

        def gap(k: Tensor) -> tuple[Tensor, Tensor]:
            if free[1]:
                power = weights * (k.unsqueeze(-1) * y).exp()
                first, second = mean(y, power), mean(y.square(), power)
                return 1 / k - first + level, -1 / k - k * (second - first.square())
            ratio = y + offset.unsqueeze(-1)
            power = (k.unsqueeze(-1) * ratio).clamp(max=700.0).exp()
            slope = 1 / k + mean(ratio - power * ratio, weights)
            return slope, -1 / k - k * mean(power * ratio.square(), weights)

        # A row of hardly any weight makes the spread that of no shape.
        lower = start.clamp(max=1 / unit if unit else inf) / WIDE
        k = torch.where(apart, root(gap, start, lower, WIDE * start), torch.where(endless, ENDLESS, k))
    if free[1]:
        log_power = mean((k.unsqueeze(-1) * y).exp(), weights)
        log_scale = torch.where(found, top + log_power.clamp(min=1e-300).log() / k, log_scale)
    return k, log_scale


@register(dist.Weibull)
class Weibull(RowFamily):
    """`log(k / scale) + (k - 1) log(x / scale) - (x / scale)^k`, with concentration `k`."""

    roles = {"scale": Role("positive"), "concentration": Role("positive")}
    sharpens = frozenset({"concentration"})

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        k, log_ratio = args["concentration"], value.log() - args["scale"].log()
        power = k * log_ratio
        return k.log() - value.log() + power - power.clamp(max=FARTHEST).exp()

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Solve for the shape, then for the scale."""
        moving = "concentration" in free, "scale" in free
        k, log_scale = extremes(value.log(), weights, args["concentration"], args["scale"].log(), moving, 1.0)
        return {key: {"scale": log_scale.exp(), "concentration": k}[key] for key in free}


@register(dist.Gumbel)
class Gumbel(RowFamily):
    """`-z - exp(-z) - log scale` with `z = (x - loc) / scale`: `exp(-x)` is a Weibull of concentration `1 / scale`."""

    location = "loc"
    roles = {"loc": Role("real"), "scale": Role("positive")}

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        below = (args["loc"] - value) / args["scale"]
        return below - below.clamp(max=FARTHEST).exp() - args["scale"].log()

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Solve for the scale, then for the location."""
        moving = "scale" in free, "loc" in free
        k, log_scale = extremes(-value, weights, args["scale"].reciprocal(), -args["loc"], moving, 0.0)
        return {key: {"loc": -log_scale, "scale": k.reciprocal()}[key] for key in free}
