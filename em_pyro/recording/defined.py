"""Logarithms and exponentials that have a slope wherever they have a value: none at zero, and none at infinity.

A probability that is a difference, as of an interval, may be zero to the last digit in a state that nothing speaks for.
Its logarithm is minus infinity and counts for nothing, but torch makes zero times infinity of its slope. An exponential
that is infinite may saturate a probability, as `1 - exp(-exp(x))`, whose slope torch gets wrong in the same way. So it
does of `x log y` at zeros of both, as in the density of a uniform Dirichlet at its boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _log(x: Tensor) -> Tensor:
    """Return `log(x)`; no slope leads to zero."""
    zero = x == 0
    return torch.where(zero, -torch.inf, torch.where(zero, 1.0, x).log())


def _log1p(x: Tensor) -> Tensor:
    """Return `log(1 + x)`; no slope leads to minus one."""
    zero = x == -1
    return torch.where(zero, -torch.inf, torch.where(zero, 0.0, x).log1p())


def _exp(x: Tensor) -> Tensor:
    """Return `exp(x)`; no slope leads on from infinity."""
    if not x.is_floating_point():
        return x.exp()
    over = x > math.log(torch.finfo(x.dtype).max)
    return torch.where(over, torch.inf, torch.where(over, 0.0, x).exp())


def _xlogy(x: Any, y: Any) -> Tensor:
    """Return `x log(y)`; no slope leads to a `y` of zero, whatever multiplies its logarithm."""
    if not isinstance(y, Tensor):
        return torch.xlogy(x, y)
    none = torch.as_tensor(x == 0, device=y.device)  # there it is zero
    return torch.xlogy(x, torch.where(y == 0, none.to(y.dtype), y))


def _pow(x: Tensor, y: Any) -> Tensor:
    """Return `x ** y`; no slope leads to a zero where it is infinite or has none itself, nor to the exponent there.

    What the hazard of a Weibull is at time zero: torch makes zero times infinity of `(t / scale) ** shape`.
    """
    kind = torch.result_type(x, y)
    if not kind.is_floating_point or (not isinstance(y, Tensor) and (y in (0, 1) or y >= 2)):
        return torch.pow(x, y)
    x, y = x.to(kind), y.to(kind) if isinstance(y, Tensor) else x.new_tensor(y, dtype=kind)
    fixed, zero = y.detach(), x == 0
    smooth = zero & ((fixed == 0) | (fixed == 1) | (fixed >= 2))
    at_zero = torch.where(smooth, torch.where(smooth, x, 1.0) ** fixed, torch.zeros_like(x) ** fixed)
    return torch.where(zero, at_zero, torch.where(zero, 1.0, x) ** y)


class Defined(TorchFunctionMode):
    """Give `x log y` such slopes in the density of a distribution of torch."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, or what stands for it; inside no mode is on."""
        return (_xlogy if func is torch.xlogy else func)(*args, **(kwargs or {}))


DEFINED = (
    (torch.ops.aten.exp.default, _exp),
    (torch.ops.aten.log.default, _log),
    (torch.ops.aten.log1p.default, _log1p),
    (torch.ops.aten.xlogy.Tensor, _xlogy),
    (torch.ops.aten.xlogy.Scalar_Self, _xlogy),
    (torch.ops.aten.pow.Tensor_Tensor, _pow),
    (torch.ops.aten.pow.Tensor_Scalar, _pow),
)
"""Operations as they are recorded, and what is run for each: the same values, and slopes that are numbers."""
