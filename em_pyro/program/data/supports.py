"""Supports that torch does not look at: those of the numbers from which a transformed one is computed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution, constraints

from ..named import unwrap

NEAR = 1e-6  # of the largest number: next to a bound


def origin(fn: Distribution, value: Tensor) -> tuple[Distribution, Tensor]:
    """Return the distribution of numbers, and the numbers, from which a transformed distribution has its value."""
    base: Distribution = unwrap(fn).base
    while isinstance(base, TransformedDistribution) and not base.event_shape:
        for transform in reversed(base.transforms):
            value = transform.inv(value)
        base = unwrap(base.base_dist).base
    return base, value


def inside(fn: Distribution, log_prob: Tensor, value: Tensor) -> Tensor:
    """Return a log-density, minus infinity where a transformed number comes from outside the support.

    torch evaluates the formula there all the same: with a bound that is fitted, the density of an exponential number
    beyond it grows for ever.
    """
    if not isinstance(unwrap(fn).base, TransformedDistribution):
        return log_prob
    base, start = origin(fn, value)
    support = getattr(base, "support", None)
    if support in (None, constraints.real) or base.event_shape:
        return log_prob
    allowed = support.check(start)
    if event := len(fn.event_shape):
        allowed = allowed.flatten(-event).all(-1)
    return torch.where(allowed, log_prob, -torch.inf)


def at_its_bound(fn: Distribution, value: Tensor) -> bool:
    """Tell whether some of the numbers that a transformed distribution has its value from end at their support."""
    if not isinstance(unwrap(fn).base, TransformedDistribution) or not value.numel():
        return False
    base, start = origin(fn, value)
    support = getattr(base, "support", None)
    if support in (None, constraints.real) or base.event_shape:
        return False
    little = NEAR * start.abs().amax()
    return not bool((support.check(start - little) & support.check(start + little)).all())
