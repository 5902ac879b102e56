"""Normal and LogNormal: the weighted mean, then the weighted variance around the new mean."""

from __future__ import annotations

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..program.named import unexpand
from .base import Args, Family, Role, register


@register(dist.Normal)
class Normal(Family):
    """`-(x - loc)^2 / (2 scale^2) - log(scale)`, linear in `(1, x, x^2)`."""

    summed = "1, x, x^2"
    solver = "normal"
    counting = frozenset({0})
    location: ClassVar[str | None] = "loc"
    roles = {"loc": Role("real", multiples=True), "scale": Role("positive", multiples=True)}

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return torch.ones_like(value), value, value * value

    def columns(self, value: Tensor, known: Args, out: Tensor) -> bool:
        flat = value.reshape(len(value), -1)
        if len(out) != 1 + 2 * flat.shape[1]:
            return False
        out[0] = 1
        x = out[1 : 1 + flat.shape[1]]
        x.copy_(flat.mT)
        torch.mul(x, x, out=out[1 + flat.shape[1] :])
        return True

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        loc, precision = args["loc"], args["scale"] ** -2
        linear = loc * precision
        return -0.5 * loc * linear - args["scale"].log(), linear, -0.5 * precision

    def whitening(self, args: Args) -> tuple[Tensor, Tensor]:
        return args["scale"].reciprocal(), -args["scale"].log()

    def whitened(self, deviation: Tensor, factor: Tensor, room: Tensor) -> Tensor:
        return deviation.mul_(factor.unsqueeze(-1))

    def moments(self, deviation: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        weighted = deviation * weights
        return weights.sum(-1), weighted.sum(-1), weighted.mul_(deviation).sum(-1)

    def shifted(self, statistics: tuple[Tensor, ...], by: Tensor) -> tuple[Tensor, ...]:
        n, first, second = statistics
        moved = torch.addcmul(first, n, by, value=-1)
        return n, moved, torch.addcmul(second, by, first + moved, value=-1)

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return value.new_full((), -0.5 * math.log(2 * math.pi))


@register(dist.LogNormal)
class LogNormal(Normal):
    """The Normal of `log x`, with the Jacobian `-log x` as base measure."""

    summed = "1, log x, (log x)^2"
    location = None

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        inner = distribution.base_dist  # type: ignore[attr-defined]
        return {role: unexpand(getattr(inner, role)) for role in self.roles}

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return super().statistics(value.log(), known)

    def columns(self, value: Tensor, known: Args, out: Tensor) -> bool:
        return super().columns(value.log(), known, out)

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return -value.log() - 0.5 * math.log(2 * math.pi)
