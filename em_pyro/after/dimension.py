"""How many parameters a program has: dimensions of what their constraints leave them."""

from __future__ import annotations

import math

import torch
from torch.autograd.functional import jacobian
from torch.distributions import transform_to

from ..families.charts import domain_of
from ..fit.problem import Problem
from ..program.site import Parameter


def dimension(problem: Problem) -> int:
    """Return the number of free parameters, those of sites with a prior included.

    It is that of an interior point: a row of a simplex of K entries has K - 1, a symmetric matrix or a triangle of D
    rows D (D + 1) / 2. Parameters that the plan keeps fixed have none.
    """
    return sum(_dimension(problem.program.parameters[name]) for name in problem.plan.free)


def _dimension(parameter: Parameter) -> int:
    shape, domain = tuple(parameter.initial.shape), domain_of(parameter.constraint)
    if domain in ("lower_cholesky", "positive_definite"):
        return math.prod(shape[:-2]) * shape[-1] * (shape[-1] + 1) // 2
    if domain == "simplex":
        return math.prod(shape[:-1]) * (shape[-1] - 1)
    return _rank(parameter) if domain == "other" else math.prod(shape)


def _rank(parameter: Parameter) -> int:
    """Count the directions in which one event moves with its unconstrained coordinates; all events are alike."""
    events = max(parameter.constraint.event_dim, transform_to(parameter.constraint).codomain.event_dim)
    shape = tuple(parameter.initial.shape)
    batch, event = shape[: len(shape) - events], shape[len(shape) - events :]
    if not math.prod(shape):
        return 0
    onto, value = transform_to(parameter.constraint), parameter.initial.detach().double()
    one = onto.inv(value).reshape(math.prod(batch), -1)[0] if events else onto.inv(value).reshape(-1)[:1]
    inner = onto.inverse_shape(event) if events else ()
    moves = jacobian(lambda point: onto(point.reshape(inner)).reshape(-1), one)
    return math.prod(batch) * int(torch.linalg.matrix_rank(moves))
