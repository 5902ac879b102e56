"""Intervals: symmetric on a scale without bounds, and mapped back from there."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import transform_to

from ...errors import ParameterError
from ...families.charts import domain_of
from ...program.coordinates import entrywise

KINDS = {
    "observed": "standard errors by the observed information",
    "opg": "standard errors by the outer product of the rows' scores",
    "robust": "robust standard errors, by the sandwich",
    "complete": "standard errors as if the latents had been seen",
}
"""What `kind` is called."""


class Interval(NamedTuple):
    """The ends of intervals, each of the shape of what they are of."""

    lower: Tensor
    upper: Tensor


def on_scale(kind: str) -> str:
    """Say in words what standard errors are computed from."""
    return KINDS[kind]


def deviations(level: float) -> float:
    """Return how many standard errors an interval of a level reaches to either side.

    Raises:
        ParameterError: the level is not between zero and one.
    """
    if not isinstance(level, Real) or not 0 < level < 1:
        raise ParameterError(f"level: expected a number between 0 and 1, got {level!r}. Ask for 0.95, say.")
    return float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))


def interval_of(value: Tensor, se: Tensor, constraint: Any, many: float) -> Interval:
    """Return value plus and minus `many` standard errors on the unconstrained scale, mapped back."""
    domain = domain_of(constraint)
    if domain in ("lower_cholesky", "positive_definite"):
        on_diagonal = torch.eye(value.shape[-1], dtype=torch.bool)
        plain, logs = Interval(value - many * se, value + many * se), _positive(value, se, many)
        return Interval(*(torch.where(on_diagonal, b, a) for a, b in zip(plain, logs, strict=True)))
    if domain == "positive":
        return _positive(value, se, many)
    if domain in ("unit", "simplex"):
        odds, far = torch.logit(value), many * se / (value * (1 - value))
        return Interval(torch.sigmoid(odds - far), torch.sigmoid(odds + far))
    onto = entrywise(transform_to(constraint))
    if domain == "real" or onto.domain.event_dim or onto.codomain.event_dim:
        return Interval(value - many * se, value + many * se)
    with torch.enable_grad():
        point = onto.inv(value).detach().requires_grad_()
        (slope,) = torch.autograd.grad(onto(point).sum(), point)
    ends = [onto(point.detach() + sign * many * se / slope.abs()) for sign in (-1, 1)]
    return Interval(torch.minimum(*ends), torch.maximum(*ends))


def _positive(value: Tensor, se: Tensor, many: float) -> Interval:
    far = (many * se / value).exp()
    return Interval(value / far, value * far)
