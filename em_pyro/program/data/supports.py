"""What torch does not look at: supports of the numbers behind transformed ones, and arguments that no law has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution, constraints

from ..named import unexpand, unwrap

GAMMAS = ("concentration", "concentration1", "concentration0", "total_count")
"""Arguments of log-gamma functions, which have values below zero, too."""
INNER = ("_categorical", "_beta", "_dirichlet", "_gamma")  # that which has them, of another law
NEAR = 1e-6  # of the largest number: next to a bound


def support_of(fn: Distribution) -> Any:
    """Return the support of a distribution; None where its class states none."""
    try:
        return getattr(fn, "support", None)
    except NotImplementedError:
        return None


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
    support = support_of(base)
    if support in (None, constraints.real) or base.event_shape:
        return log_prob
    allowed = support.check(start)
    if event := len(fn.event_shape):
        allowed = allowed.flatten(-event).all(-1)
    return torch.where(allowed, log_prob, -torch.inf)


def lawful(fn: Distribution, log_prob: Tensor) -> Tensor:
    """Return a log-density, minus infinity where an argument is none that the law has: below zero, shapes or shares.

    The formulas of torch have values there all the same, and shares that sum to one with some of them below zero sum to
    more over the states: a fit without `constraint=` would end at a likelihood that there is not.
    """
    whole = unwrap(fn)
    base, rank = whole.base, whole.event_rank
    for argument, of_event in _arguments(base):
        allowed = argument >= 0
        allowed = allowed.all(-1) if of_event else allowed
        allowed = allowed.expand(base.batch_shape) if rank else allowed
        allowed = allowed.flatten(-rank).all(-1) if rank else allowed
        log_prob = torch.where(allowed, log_prob, -torch.inf)
    return log_prob


def _arguments(base: Distribution) -> Iterator[tuple[Tensor, int]]:
    """Yield shares and shapes by which a distribution was made, and over how many dimensions an event has them."""
    part = base
    for name in INNER:
        inner = getattr(part, name, None)
        part = inner if isinstance(inner, Distribution) and inner.batch_shape == base.batch_shape else part
    try:
        constrained = part.arg_constraints
    except NotImplementedError:  # of a class of the user's own
        return
    for name, constraint in constrained.items():
        checked = constraint is constraints.simplex or (name in GAMMAS and _is_positive(constraint))
        if checked and isinstance(found := vars(part).get(name), Tensor):
            yield found, constraint.event_dim


def _is_positive(constraint: constraints.Constraint) -> bool:
    """Tell whether numbers above zero are what is allowed: a vector may be called a concentration, too."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    bound = getattr(constraint, "lower_bound", None)
    return not constraint.is_discrete and bound is not None and bool((torch.as_tensor(bound) == 0).all())


def unlawful(fn: Distribution, slack: float = 0.0) -> str:
    """Say which argument of a distribution is a number that no such law has, and what it may be; empty if none is.

    Args:
        fn: the distribution.
        slack: how far beyond a bound rounding may be; at zero a bound that is open does not belong to what it may be.
    """
    base = unwrap(fn).base
    try:
        constrained = base.arg_constraints
    except NotImplementedError:  # of a class of the user's own
        return ""
    for name, constraint in constrained.items():
        bounds = vars(constraint)
        argument = getattr(base, name, None) if bounds else None
        if not isinstance(argument, Tensor) or not {"lower_bound", "upper_bound"} & {*bounds} or constraint.is_discrete:
            continue
        inside = constraint.check(argument)
        if slack:
            lower, upper = bounds.get("lower_bound", -torch.inf), bounds.get("upper_bound", torch.inf)
            inside = inside | (argument >= lower - slack) & (argument <= upper + slack)
        if bool((bad := ~inside).any()):
            got = argument.expand(bad.shape)[bad].flatten()[0].item()
            return f"{name} of {type(base).__name__} is {got:.6g}, not within {stated(constraint)}"
    return ""


def broken(fn: Distribution) -> Iterator[tuple[str, Any, Tensor, Tensor]]:
    """Yield arguments with entries that no such law has, each with its constraint and where these stand in its batch.

    Of numbers that must be whole, as totals of counts are, it is said by a fraction alone: how large they have to be
    is seen by the values. Shares may sum to anything.
    """
    base = unwrap(fn).base
    try:
        constrained = base.arg_constraints
    except NotImplementedError:  # of a class of the user's own
        return
    for name, constraint in constrained.items():
        argument = _held(base, name)
        if not isinstance(argument, Tensor) or constraints.is_dependent(constraint):  # type: ignore[attr-defined]
            continue
        slim = unexpand(argument, constraint.event_dim)
        if constraint.is_discrete:
            bad = (slim != slim.floor()) if slim.is_floating_point() else torch.zeros_like(slim, dtype=torch.bool)
            bad = bad.flatten(-constraint.event_dim).any(-1) if constraint.event_dim else bad
        elif constraint is constraints.simplex:
            bad = ~(slim >= 0).all(-1)
        else:
            bad = ~constraint.check(slim)
        if bool(bad.any()):
            yield name, constraint, argument, bad


def _held(base: Distribution, name: str) -> Any:
    """Return an argument by which a law was made; nothing of those that would be computed from the others."""
    own = vars(base)
    if name in own:
        return own[name]
    return getattr(base, name) if type(getattr(type(base), name, None)) is property else None  # a lazy one is computed


def stated(constraint: Any, index: Sequence[int] = ()) -> str:
    """Write a constraint, of bounds that differ by row those at an index; without one only that they do."""
    bounds = [f"{name}={_number(bound, index)}" for name, bound in vars(constraint).items() if name.endswith("_bound")]
    return f"{type(constraint).__name__.lstrip('_')}({', '.join(bounds)})" if bounds else str(constraint)


def _number(bound: Any, index: Sequence[int]) -> str:
    if not isinstance(bound, Tensor):
        return str(bound)
    if (one := unexpand(bound)).numel() == 1:
        return f"{one.item():.6g}"
    if not index or any(i >= size > 1 for i, size in zip(reversed(index), reversed(bound.shape), strict=False)):
        return "one a row"
    at = (0,) * max(0, bound.dim() - len(index)) + tuple(index)[max(0, len(index) - bound.dim()) :]
    return f"{bound[tuple(i if size > 1 else 0 for i, size in zip(at, bound.shape, strict=True))].item():.6g}"


def at_its_bound(fn: Distribution, value: Tensor) -> bool:
    """Tell whether some of the numbers that a transformed distribution has its value from end at their support."""
    if not isinstance(unwrap(fn).base, TransformedDistribution) or not value.numel():
        return False
    base, start = origin(fn, value)
    support = support_of(base)
    if support in (None, constraints.real) or base.event_shape:
        return False
    little = NEAR * start.abs().amax()
    return not bool((support.check(start - little) & support.check(start + little)).all())
