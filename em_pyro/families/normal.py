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

    @property
    def linear(self) -> Family | None:
        return LINEAR

    def response(self, value: Tensor) -> Tensor:
        return value

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        x = self.response(value)
        return torch.ones_like(x), x, x * x

    def columns(self, value: Tensor, known: Args, out: Tensor) -> bool:
        flat = self.response(value).reshape(len(value), -1)
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

    def response(self, value: Tensor) -> Tensor:
        return value.log()

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return -value.log() - 0.5 * math.log(2 * math.pi)


class LinearNormal(Family):
    """The Normal whose location is `x' loc`: with a residual `r`, linear in `(1, x x', x r, r^2)`.

    Its location is a vector of coefficients, so that statistics move with it as those of a Normal do: `r` is what is
    left of the value by the coefficients around which it is summed.
    """

    summed = "1, x x', x y, y^2"
    solver = "normal"
    counting = frozenset({0})
    location: ClassVar[str | None] = "loc"
    roles = {"loc": Role("real", event_dim=1), "scale": Role("positive", multiples=True)}

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        loc, precision = args["loc"], args["scale"] ** -2
        linear = precision.unsqueeze(-1) * loc
        return -args["scale"].log(), -0.5 * loc.unsqueeze(-1) * linear.unsqueeze(-2), linear, -0.5 * precision

    def shifted(self, statistics: tuple[Tensor, ...], by: Tensor) -> tuple[Tensor, ...]:
        n, gram, first, second = statistics
        moved = first - (gram @ by.unsqueeze(-1)).squeeze(-1)
        return n, gram, moved, second - (by * (first + moved)).sum(-1)

    def bearing(self, role: str, statistics: tuple[Tensor, ...]) -> Tensor | None:
        return statistics[1].diagonal(dim1=-2, dim2=-1) if role == "loc" else None


LINEAR = LinearNormal()
"""What a Normal, or the Normal of a logarithm, is where its location is affine in parameters."""
