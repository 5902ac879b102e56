"""Laplace and Student: the weighted median, and a Newton ascent over the weighted rows.

References:
    Peel & McLachlan (2000), Robust mixture modelling using the t distribution.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..program.data.counts import log_risen
from .base import Args, Role, register
from .newton import Near, climb, differentiable
from .rowwise import RowFamily, mean

BLOCK = 65_536  # entries of weighted rows at a time: measured, larger ones leave the cache
NORMAL = 1e8  # degrees of freedom at which a Student is a normal
SERIES = 1e3  # degrees of freedom from which the differences of digammas are a series


def median(value: Tensor, weights: Tensor) -> Tensor:
    """Weighted median over the rows: the middle of all points with at most half the weight on either side."""
    value, order = value.sort(-1)
    below = weights.gather(-1, order).cumsum(-1)
    half, slack = below[..., -1:] / 2, 1e-14 * below[..., -1:]
    last = value.shape[-1] - 1
    first = torch.searchsorted(below, half - slack).clamp(max=last)
    second = torch.searchsorted(below, half + slack, right=True).clamp(max=last)
    return (value.gather(-1, first) + value.gather(-1, second)).squeeze(-1) / 2


class Distance(torch.autograd.Function):
    """`|x - loc|`, whose slope by `loc` is the smallest that its kinks allow, all rows of a cell together.

    At a row that sits on `loc` the slope is anything from -1 to 1, so that a maximum at a kink (a median) is recognised
    by a slope of zero, as any other is: zero lies between the one-sided derivatives.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, loc: Tensor) -> Tensor:
        """`value`: shape `(..., rows)`, `loc`: shape `(..., 1)`."""
        ctx.save_for_backward(value, loc)
        return (value - loc).abs()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[None, Tensor]:
        """The slope of the rows beside `loc`, less what those on it can take away."""
        value, loc = ctx.saved_tensors
        on = (value - loc).abs() <= 4 * torch.finfo(value.dtype).eps * loc.abs()
        beside = (torch.where(on, 0.0, -(value - loc).sign()) * weights).sum(-1, keepdim=True)
        slack = torch.where(on, weights.abs(), 0.0).sum(-1, keepdim=True)
        return None, (beside - torch.minimum(torch.maximum(beside, -slack), slack)).sum_to_size(loc.shape)


@register(dist.Laplace)
class Laplace(RowFamily):
    """`-|x - loc| / scale - log(2 scale)`."""

    location = "loc"
    kinked = frozenset({"loc"})
    roles = {"loc": Role("real"), "scale": Role("positive")}

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        return -Distance.apply(value, args["loc"]) / args["scale"] - (2 * args["scale"]).log()

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """The weighted median, then the mean absolute deviation around it."""
        found = weights.sum(-1) > 0
        new = dict(args)
        if "loc" in free:
            new["loc"] = torch.where(found, median(value, weights), args["loc"])
        if "scale" in free:
            deviation = mean((value - new["loc"].unsqueeze(-1)).abs(), weights)
            new["scale"] = torch.where(found, deviation.clamp(min=1e-300), args["scale"])
        return {key: new[key] for key in free}


@register(dist.StudentT)
class StudentT(RowFamily):
    """The t distribution with `df` degrees of freedom.

    `Q` may have several maxima, as the likelihood of one sample may: Newton climbs from where the parameters are.
    """

    location = "loc"
    roles = {"df": Role("positive"), "loc": Role("real"), "scale": Role("positive")}

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        df, z = args["df"], (value - args["loc"]) / args["scale"]
        constant = log_risen(torch.full_like(df, 0.5), df / 2) - 0.5 * (math.pi * df).log() - args["scale"].log()
        return constant - (df + 1) / 2 * (z * z / df).log1p()

    def weighed(self, value: Tensor, weights: Tensor, args: Args) -> Tensor:
        """By sums over the rows that hold both derivatives: no graph over the rows is made."""
        total = weights.sum(-1)
        df, loc, scale, total = torch.broadcast_tensors(
            *(args[key].squeeze(-1) for key in ("df", "loc", "scale")), total
        )
        origin, unit = loc.detach(), scale.detach()
        point = torch.stack([(loc - origin) / unit, scale.log(), df.log()], -1)
        return differentiable(point, lambda point: _near(value, weights, total, origin, unit, point))

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Newton in `(loc / old scale, log scale, log df)`, and its own EM where that is too far: `Q` never falls."""
        total = weights.sum(-1)
        unit = args["scale"]
        point = torch.stack([torch.zeros_like(unit), unit.log(), args["df"].log()], -1)
        moving = torch.tensor([key in free for key in ("loc", "scale", "df")], device=unit.device)
        upper = torch.full_like(point, torch.inf)
        upper[..., 2] = args["df"].clamp(min=NORMAL).log()

        def near(point: Tensor) -> Near:
            return _near(value, weights, total, args["loc"], unit, point)

        found = climb(near, point, moving & (total > 0).unsqueeze(-1), upper)
        new = {"loc": args["loc"] + unit * found[..., 0], "scale": found[..., 1].exp(), "df": found[..., 2].exp()}
        return {key: torch.where(total > 0, new[key], args[key]) for key in free}


def _near(value: Tensor, weights: Tensor, total: Tensor, loc: Tensor, unit: Tensor, point: Tensor) -> Near:
    """A Student's `Q` near a point: with `h = 1 / (df + z^2)` all derivatives are a few sums over the rows.

    Args:
        value: rows of every cell, shape `(cells, rows)`.
        weights: of the same shape.
        total: what they add up to, shape `(cells,)`.
        loc: where the first coordinate is zero.
        unit: in which it is measured.
        point: `(loc, log scale, log df)`, shape `(cells, 3)`.

    References:
        Peel & McLachlan (2000), equations 19 to 31, for the step of EM on a scale mixture of normals.
    """
    df, scale = point[..., 2].exp(), point[..., 1].exp()
    sums = _sums(value, weights, loc + unit * point[..., 0], scale, df)
    first, second, spread = sums[:3], sums[3:7], sums[7]
    more, u = df + 1, unit / scale
    constant = log_risen(torch.full_like(df, 0.5), df / 2) - 0.5 * (math.pi * df).log()
    q = total * (constant - point[..., 1]) - more / 2 * spread
    rate, bend = _rate(df)
    by_df = 0.5 * (total * rate - spread + more / df * first[2])
    slope = torch.stack([more * u * first[1], more * first[2] - total, df * by_df], -1)

    by_df_twice = 0.5 * (total * bend + first[2] / df - first[2] / df.square() - more / df * second[1])
    loc_scale = 2 * more * u * (second[2] - first[1])
    loc_df = df * u * (first[1] - more * second[0])
    scale_df = df * (first[2] - more * second[1])
    entries = (
        more * u.square() * (2 * second[1] - first[0]), loc_scale, loc_df,
        loc_scale, 2 * more * (second[3] - first[2]), scale_df,
        loc_df, scale_df, df.square() * by_df_twice + df * by_df,
    )  # fmt: skip
    hessian = torch.stack(entries, -1).unflatten(-1, (3, 3))
    return Near(q, slope, hessian, lambda moving: _step_of_em(point, moving, total, more, u, *first))


def _rate(df: Tensor) -> tuple[Tensor, Tensor]:
    """Return `psi((df + 1) / 2) - psi(df / 2) - 1 / df` and its derivative; far out `1/2df^2 - 1/4df^4 + 1/2df^6`."""
    near, u = df.clamp(max=SERIES), 1 / df
    rate = ((near + 1) / 2).digamma() - (near / 2).digamma() - 1 / near
    bend = 0.5 * (torch.polygamma(1, (near + 1) / 2) - torch.polygamma(1, near / 2)) + 1 / near.square()
    far = df > SERIES
    rate = torch.where(far, u**2 / 2 - u**4 / 4 + u**6 / 2, rate)
    return rate, torch.where(far, -(u**3) + u**5 - 3 * u**7, bend)


def _sums(value: Tensor, weights: Tensor, loc: Tensor, scale: Tensor, df: Tensor) -> tuple[Tensor, ...]:
    """Sum `h (1, z, z^2)`, `h^2 (z, z^2, z^3, z^4)` and `log(1 + z^2 / df)` over the weighted rows, in blocks."""
    total = torch.zeros((*df.shape, 1, 8), dtype=value.dtype, device=value.device)
    loc, scale, df = (part.unsqueeze(-1) for part in (loc, scale, df))
    size = max(1, BLOCK // max(1, df.numel()))
    for x, w in zip(value.split(size, -1), weights.split(size, -1), strict=True):
        z = (x - loc).div_(scale)
        square = z * z
        made = torch.empty((8, *z.shape), dtype=z.dtype, device=z.device)
        one, by_z, by_square, twice, by_z_twice, by_cube, by_fourth, spread = made
        torch.reciprocal(torch.add(square, df, out=one), out=one)
        torch.mul(one, z, out=by_z)
        torch.mul(one, square, out=by_square)
        torch.mul(by_z, one, out=twice)
        torch.mul(by_square, one, out=by_z_twice)
        torch.mul(by_z_twice, z, out=by_cube)
        torch.mul(by_z_twice, square, out=by_fourth)
        torch.log1p(torch.div(square, df, out=spread), out=spread)
        total += w.unsqueeze(-2) @ made.movedim(0, -1)
    return total.squeeze(-2).unbind(-1)


def _step_of_em(
    point: Tensor, moving: Tensor, total: Tensor, more: Tensor, u: Tensor, one: Tensor, z: Tensor, square: Tensor
) -> Tensor:
    """Location and scale of one step of EM on a scale mixture of normals, which no start is too far for."""
    ahead = torch.where(moving[..., 0] & (one > 0), z / one, 0.0)  # in units of the scale
    spread = more * (square - 2 * ahead * z + ahead.square() * one) / total
    wide = 0.5 * torch.where(moving[..., 1] & (spread > 0), spread, 1.0).log()
    return point + torch.stack([ahead / u, wide, torch.zeros_like(wide)], -1)
