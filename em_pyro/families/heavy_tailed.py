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

from .base import Args, Role, register
from .newton import climb
from .rowwise import RowFamily, mean

NORMAL = 1e5  # degrees of freedom at which a Student is a normal, and lgamma has digits left
NEARER = 10  # steps of a Student's own EM before Newton


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
        constant = ((df + 1) / 2).lgamma() - (df / 2).lgamma() - 0.5 * (math.pi * df).log() - args["scale"].log()
        return constant - (df + 1) / 2 * (z * z / df).log1p()

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """A few steps of its own EM, then Newton in `(loc / old scale, log scale, log df)`; neither lets `Q` fall."""
        df = args["df"]
        loc, scale = self._near(value, weights, args, free)
        found = weights.sum(-1) > 0

        def at(point: Tensor) -> dict[str, Tensor]:
            return {"loc": loc + scale * point[..., 0], "scale": point[..., 1].exp(), "df": point[..., 2].exp()}

        def q(point: Tensor) -> Tensor:
            columns = {key: part.unsqueeze(-1) for key, part in at(point).items()}
            return (weights * self.log_prob(value, columns)).sum(-1)

        start = torch.stack([torch.zeros_like(loc), scale.log(), df.log()], -1)
        moving = torch.tensor([key in free for key in ("loc", "scale", "df")], device=loc.device)
        upper = torch.full_like(start, torch.inf)
        upper[..., 2] = df.clamp(min=NORMAL).log()
        new = at(climb(q, start, moving & found.unsqueeze(-1), upper))
        return {key: torch.where(found, new[key], args[key]) for key in free}

    def _near(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> tuple[Tensor, Tensor]:
        """EM on a Student as a scale mixture of normals, which no start is too far for.

        References:
            Peel & McLachlan (2000), equations 19 to 31.
        """
        df, loc, scale = args["df"], args["loc"], args["scale"]
        for _ in range(NEARER):
            z = (value - loc.unsqueeze(-1)) / scale.unsqueeze(-1)
            u = weights * (df + 1).unsqueeze(-1) / (df.unsqueeze(-1) + z * z)
            loc = torch.where(u.sum(-1) > 0, mean(value, u), loc) if "loc" in free else loc
            square = mean(u / weights.clamp(min=1e-300) * (value - loc.unsqueeze(-1)).square(), weights)
            scale = torch.where(square > 0, square.sqrt(), scale) if "scale" in free else scale
        return loc, scale
