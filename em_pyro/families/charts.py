"""The small table of invertible functions through which a parameter may enter an argument, and the domains they join.

A closed form is solved over the argument and mapped back, which is exact if the function carries all values that the
parameter's constraint allows onto all values that the argument may take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..records.frozen import frozen


@frozen
class Chart:
    """An invertible function from a parameter to an argument."""

    name: str
    domains: Mapping[str, str]  # domain of the parameter -> domain of the argument, each onto
    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    log: Callable[[Tensor], Tensor] | None = None  # stable log f, for probabilities
    log_complement: Callable[[Tensor], Tensor] | None = None  # stable log(1 - f)

    def logarithm(self, value: Tensor, *, complement: bool) -> Tensor:
        """Return `log f`, or `log(1 - f)`, of a probability `f = forward(value)`."""
        stable = self.log_complement if complement else self.log
        if stable is not None:
            return stable(value)
        return (safe_log_complement if complement else safe_log)(self.forward(value))


def _same(x: Tensor) -> Tensor:
    return x


def safe_log(x: Tensor) -> Tensor:
    """Return the logarithm with `log 0 = -inf` whose gradient at 0 is 0, not nan; nan below zero."""
    if not x.requires_grad:
        return x.log()
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).log(), torch.where(x < 0, torch.nan, -torch.inf))


def safe_log_complement(x: Tensor) -> Tensor:
    """Return `safe_log` of `1 - x`, with all digits where `x` is small: a large count may multiply it."""
    if not x.requires_grad:
        return torch.log1p(-x)
    return torch.where(x < 1, torch.log1p(-torch.where(x < 1, x, 0.0)), torch.where(x > 1, torch.nan, -torch.inf))


def _cholesky(x: Tensor) -> Tensor:
    """The lower root; nan where rounding has left none, which is no value of the objective, and no error."""
    root, failed = torch.linalg.cholesky_ex(x)
    return torch.where((failed == 0)[..., None, None], root, torch.nan)


def _gram(x: Tensor) -> Tensor:
    return x @ x.mT


def _precision_cholesky(x: Tensor) -> Tensor:
    """Return the Cholesky factor of the inverse, by the flipped factor of `x` (as `MultivariateNormal` does)."""
    flipped = _cholesky(x.flip((-2, -1)))
    inverse = flipped.flip((-2, -1)).mT
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.linalg.solve_triangular(inverse, eye, upper=False)


def _inverse_gram(x: Tensor) -> Tensor:
    return torch.cholesky_inverse(x)


CHARTS = (
    Chart(
        "itself",
        {d: d for d in ("real", "positive", "unit", "simplex")} | {"lower_cholesky": "scale_tril"},
        _same,
        _same,
    ),
    Chart("exp", {"real": "positive"}, torch.exp, torch.log),
    Chart("softplus", {"real": "positive"}, torch.nn.functional.softplus, lambda y: y + torch.log(-torch.expm1(-y))),
    Chart("log", {"positive": "real"}, torch.log, torch.exp),
    Chart("sqrt", {"positive": "positive", "unit": "unit"}, torch.sqrt, torch.square),
    Chart("square", {"positive": "positive", "unit": "unit"}, torch.square, torch.sqrt),
    Chart("reciprocal", {"positive": "positive"}, torch.reciprocal, torch.reciprocal),
    Chart("rsqrt", {"positive": "positive"}, torch.rsqrt, lambda y: y**-2),
    Chart(
        "sigmoid",
        {"real": "unit"},
        torch.sigmoid,
        torch.logit,
        torch.nn.functional.logsigmoid,
        lambda x: torch.nn.functional.logsigmoid(-x),
    ),
    Chart(
        "softmax",
        {"real": "simplex"},
        lambda x: torch.softmax(x, -1),
        torch.log,
        lambda x: torch.log_softmax(x, -1),
    ),
    Chart(
        "normalised",
        {"positive": "simplex"},
        lambda x: x / x.sum(-1, keepdim=True),
        _same,
    ),
    Chart("covariance", {"positive_definite": "scale_tril"}, _cholesky, _gram),
    Chart("precision", {"positive_definite": "scale_tril"}, _precision_cholesky, _inverse_gram),
)


BOXES = ("GreaterThan", "GreaterThanEq", "SoftplusPositive", "LessThan", "Interval", "HalfOpenInterval")
"""Constraints of single numbers that allow all between bounds."""

COORDINATES: Mapping[str, Chart] = {
    domain: next(chart for chart in CHARTS if chart.name == name)
    for domain, name in (("real", "itself"), ("positive", "exp"), ("unit", "sigmoid"))
}
"""From the coordinate in which a parameter enters a predictor to its value, by the domain of the parameter."""


def domain_of(constraint: Any) -> str:
    """Name the values that a constraint allows; "other" for those that have no name here (an interval, an order)."""
    constraint = _of_entries(constraint)
    name = type(constraint).__name__.lstrip("_")
    lower = getattr(constraint, "lower_bound", None)
    if name == "Real":
        return "real"
    if name in ("GreaterThan", "GreaterThanEq") and _is(lower, 0):
        return "positive"
    if name == "SoftplusPositive":
        return "positive"
    if name in ("Interval", "HalfOpenInterval") and _is(lower, 0) and _is(constraint.upper_bound, 1):
        return "unit"
    return {
        "Simplex": "simplex",
        "LowerCholesky": "lower_cholesky",
        "SoftplusLowerCholesky": "lower_cholesky",
        "PositiveDefinite": "positive_definite",
    }.get(name, "other")


def may_vanish(constraint: Any) -> bool:
    """Tell whether a scale made of such a parameter may be zero: it is positive, or the root of correlations."""
    return domain_of(constraint) in ("positive", "lower_cholesky") or is_correlation(constraint)


def is_correlation(constraint: Any) -> bool:
    """Tell whether what a constraint allows are roots of correlation matrices."""
    return type(_of_entries(constraint)).__name__.lstrip("_") == "CorrCholesky"


def is_ordered(constraint: Any) -> bool:
    """Tell whether what a constraint allows are numbers in their order, as cutpoints are."""
    return type(_of_entries(constraint)).__name__.lstrip("_") == "OrderedVector"


def bounds_of(constraint: Any, shape: Sequence[int] = ()) -> tuple[Tensor, Tensor] | None:
    """Return the lower and the upper bound of every entry where a constraint says no more; None where it does.

    An end is infinite where there is none. Bounds belong to what is allowed, open or not: a maximum may be there.

    Args:
        constraint: of a parameter.
        shape: of its values, for roots of covariances, which are zero above the diagonal and not below zero on it.
    """
    constraint = _of_entries(constraint)
    if domain_of(constraint) == "lower_cholesky":
        ones = torch.ones(*(shape or (1, 1))[-2:], dtype=torch.float64)
        return torch.where(ones.tril(-1) > 0, -torch.inf, 0.0), torch.where(ones.tril() > 0, torch.inf, 0.0)
    if type(constraint).__name__.lstrip("_") not in BOXES:
        return None
    lower, upper = (getattr(constraint, f"{end}_bound", None) for end in ("lower", "upper"))
    return (
        torch.as_tensor(-torch.inf if lower is None else lower).double(),
        torch.as_tensor(torch.inf if upper is None else upper).double(),
    )


def _of_entries(constraint: Any) -> Any:
    """Take off what only says that dimensions belong together."""
    while isinstance(constraint, type(constraints.real_vector)) and hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint


def _is(bound: Any, number: float) -> bool:
    bound = torch.as_tensor(bound)
    return bound.numel() > 0 and bool((bound == number).all())
