"""VonMises: the mean direction in closed form, the concentration by one equation in Bessel functions."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from .base import Args, Family, Role, register
from .newton import root

FLAT, POINT = 1e-10, 1e10  # concentrations beyond which all directions, or all values, are alike


def _normaliser(concentration: Tensor) -> Tensor:
    """`-log I0(k)` as the program has it: torch's approximation, good to 1e-7, is the one that must be maximised."""
    law = dist.VonMises(torch.zeros_like(concentration), concentration, validate_args=False)
    found = law.log_prob(torch.zeros_like(concentration)) + math.log(2 * math.pi) - concentration
    return torch.where(concentration < 0, torch.nan, found)  # it has a value there, and no law has such a concentration


def _mean_length(concentration: Tensor) -> tuple[Tensor, Tensor]:
    """`A(k) = d log I0(k) / dk`, and its derivative by `log k`."""
    with torch.enable_grad():
        k = concentration.detach().requires_grad_()
        (slope,) = torch.autograd.grad(-_normaliser(k).sum(), k, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), k)
    return slope.detach(), k.detach() * curvature


@register(dist.VonMises)
class VonMises(Family):
    """`k cos(x - loc) - log I0(k) - log 2 pi`, linear in `(1, cos x, sin x)`."""

    summed = "1, cos x, sin x"
    counting = frozenset({0})
    roles = {"loc": Role("real"), "concentration": Role("positive")}
    sharpens = frozenset({"concentration"})

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return torch.ones_like(value), value.cos(), value.sin()

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        loc, k = args["loc"], args["concentration"]
        return _normaliser(k), k * loc.cos(), k * loc.sin()

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return value.new_full((), -math.log(2 * math.pi))

    def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """The direction of the mean vector, as the angle nearest to the old one; then `A(k) = length of the mean`.

        References:
            Banerjee, Dhillon, Ghosh and Sra (2005), equation 4.4 (the start).
        """
        n, cosine, sine = statistics
        found = n > 0
        rows = torch.where(found, n, 1.0)
        loc, k = args["loc"], args["concentration"]
        if "loc" in free:
            turn = torch.atan2(sine, cosine) - loc
            turn = torch.atan2(turn.sin(), turn.cos())
            loc = torch.where(found & (cosine.square() + sine.square() > 0), loc + turn, loc)
        if "concentration" in free:
            length = (cosine * loc.cos() + sine * loc.sin()) / rows
            found = found & (length < 1)
            r = torch.where(found, length, 0.5).clamp(min=0)
            start = (r * (2 - r * r) / (1 - r * r)).clamp(FLAT, POINT)

            def gap(x: Tensor) -> tuple[Tensor, Tensor]:
                value, slope = _mean_length(x)
                return r - value, -slope

            k = torch.where(found, root(gap, start, FLAT, POINT), k)
        return {key: {"loc": loc, "concentration": k}[key] for key in free}
