"""Logarithms and exponentials that have a slope wherever they have a value: none at zero, and none at infinity.

A probability that is a difference, as of an interval, may be zero to the last digit in a state that nothing speaks for.
Its logarithm is minus infinity and counts for nothing, but torch makes zero times infinity of its slope. An exponential
that is infinite may saturate a probability, as `1 - exp(-exp(x))`, whose slope torch gets wrong in the same way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


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


DEFINED = (
    (torch.ops.aten.exp.default, _exp),
    (torch.ops.aten.log.default, _log),
    (torch.ops.aten.log1p.default, _log1p),
)
"""Operations as they are recorded, and what is run for each: the same values, and slopes that are numbers."""
