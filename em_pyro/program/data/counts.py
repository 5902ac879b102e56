"""Log-densities of counts, and of Student's t, that keep their digits where a concentration is large.

`log Gamma(r + x) - log Gamma(r)` is the rounding of two large numbers there, in torch and Pyro: it gives log-densities
above zero, and a fit climbs them. The limit is that of a simpler family: Poisson, binomial, multinomial, normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid, softplus

from ..named import broadcast, unwrap

SERIES = 1e3  # from which differences of digammas are a series
STIRLING = 20.0  # from where four terms of the series are exact to rounding


def density(fn: Distribution, value: Tensor) -> Tensor | None:
    """Return the log-density of a law of the table, under `.to_event` and `.mask`; None if it is none of these."""
    whole = unwrap(fn)
    formula = FORMULAS.get(type(whole.base))
    if formula is None or getattr(whole.base, "approx_log_prob_tol", None):
        return None
    log_prob = formula(whole.base, value)
    log_prob = log_prob if whole.mask is None else torch.where(whole.mask, log_prob, 0.0)
    if not whole.event_rank:
        return log_prob
    events = fn.batch_shape + fn.event_shape[: whole.event_rank]
    return log_prob.expand(broadcast(log_prob.shape, events)).flatten(-whole.event_rank).sum(-1)


def log_rising(x: Tensor, r: Tensor) -> Tensor:
    """`log Gamma(r + x) - log Gamma(r)`, without the cancellation of two large numbers where `r` is large.

    By Stirling's series `log Gamma(r) = (r - 1/2) log r - r + S(r) + const` the difference is
    `x log r + (r + x - 1/2) log1p(x / r) - x + S(r + x) - S(r)`, exact to rounding from `r = 20`. Where `r` is below
    zero no law is, and no value.
    """
    large = r >= STIRLING
    big, small = torch.where(large, r, STIRLING), torch.where(large, 1.0, r)
    y = torch.where(large, x, 1.0)
    series = _stirling(big + y) - _stirling(big)
    far = y * big.log() + (big + y - 0.5) * (y / big).log1p() - y + series
    near = (small + x).lgamma() - small.lgamma()  # log-gamma has values below zero, too
    return torch.where(large, far, torch.where(r < 0, torch.nan, near))


def _stirling(r: Tensor) -> Tensor:
    """What Stirling's formula lacks: `1/12r - 1/360r^3 + 1/1260r^5 - 1/1680r^7`."""
    u = r.reciprocal().square()
    return (1 / 12 - u * (1 / 360 - u * (1 / 1260 - u / 1680))) / r


def log_choose(value: Tensor, total_count: Tensor, rise: Callable[[Tensor, Tensor], Tensor] = log_rising) -> Tensor:
    """`log Gamma(r + x) - log Gamma(r) - log x!` of which `rise` makes the difference, zero at `r = x = 0`."""
    nothing = (total_count + value) == 0
    r = torch.where(nothing, 1.0, total_count)
    return torch.where(nothing, 0.0, rise(value, r) - (value + 1).lgamma())


def rising(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """`digamma(a + x) - digamma(a)` and its derivative, without the cancellation of two large numbers."""
    far = a > SERIES
    if not bool(far.any()):
        return (a + x).digamma() - a.digamma(), torch.polygamma(1, a + x) - torch.polygamma(1, a)
    b, near = torch.where(far, a, SERIES), torch.where(far, 1.0, a)
    c = b + x
    first = (x / b).log1p() + x / (2 * b * c) + x * (b + c) / (12 * (b * c).square()) - (b**-4 - c**-4) / 120
    slope = -x / (b * c) - x * (b + c) / (2 * (b * c).square()) + (c**-3 - b**-3) / 6
    return (
        torch.where(far, first, (near + x).digamma() - near.digamma()),
        torch.where(far, slope, torch.polygamma(1, near + x) - torch.polygamma(1, near)),
    )


class _LogRising(torch.autograd.Function):
    """`log Gamma(a + x) - log Gamma(a)` with the derivatives of `rising`, and not those of the terms of its series."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor) -> Tensor:
        """The two broadcast; `x` is data."""
        ctx.save_for_backward(x, a)
        return log_rising(x, a)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[None, Tensor]:
        """By `a`, with a derivative in its turn."""
        x, a = ctx.saved_tensors
        return None, (along * _Rising.apply(x, a)).sum_to_size(a.shape)


class _Rising(torch.autograd.Function):
    """The slope of `_LogRising`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor) -> Tensor:
        """As there."""
        first, second = rising(x, a)
        ctx.save_for_backward(second, a)
        return first

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> tuple[None, Tensor]:
        """By `a`."""
        second, a = ctx.saved_tensors
        return None, (along * second).sum_to_size(a.shape)


def log_risen(x: Tensor, a: Tensor) -> Tensor:
    """`log Gamma(a + x) - log Gamma(a)` of data `x`, which torch differentiates twice by `a`, at less cost."""
    return cast(Tensor, _LogRising.apply(x, a))


def _beta_binomial(fn: Any, x: Tensor) -> Tensor:
    a, b, n = fn.concentration1, fn.concentration0, fn.total_count
    choose = (n + 1).lgamma() - (x + 1).lgamma() - (n - x + 1).lgamma()
    return choose + log_rising(x, a) + log_rising(n - x, b) - log_rising(n, a + b)


def _extended_beta_binomial(fn: Any, x: Tensor) -> Tensor:
    n = fn.total_count.clamp(min=0)
    inside = (x >= 0) & (x <= fn.total_count)
    law = dist.BetaBinomial(fn.concentration1, fn.concentration0, n, validate_args=False)
    return torch.where(inside, _beta_binomial(law, torch.where(inside, x, 0.0)), -torch.inf)


def _dirichlet_multinomial(fn: Any, x: Tensor) -> Tensor:
    a, n = fn.concentration, x.sum(-1)
    each = (log_rising(x, a) - (x + 1).lgamma()).sum(-1)
    return (n + 1).lgamma() - log_rising(n, a.sum(-1)) + each


def _gamma_poisson(fn: Any, x: Tensor) -> Tensor:
    a, rate = fn.concentration, fn.rate
    return log_rising(x, a) - (x + 1).lgamma() - a * rate.reciprocal().log1p() - x * rate.log1p()


def _negative_binomial(fn: Any, x: Tensor) -> Tensor:
    r = fn.total_count
    if vars(fn).get("probs") is fn._param:  # given: torch clamps logits of them at rounding, which counts `r` times
        return log_choose(x, r) + r * (-fn.probs).log1p() + torch.xlogy(x, fn.probs)
    return log_choose(x, r) + r * logsigmoid(-fn.logits) + x * logsigmoid(fn.logits)


def _zero_inflated(fn: Any, x: Tensor) -> Tensor:
    known = density(fn.base_dist, x)
    beside = fn.base_dist.log_prob(x) if known is None else known
    if "gate" in vars(fn):
        inside = beside + (-fn.gate).log1p()
        return torch.where(x == 0, (fn.gate + inside.exp()).log(), inside)
    log_gate = logsigmoid(fn.gate_logits)
    return log_gate + torch.where(x == 0, softplus(beside - fn.gate_logits), beside - fn.gate_logits)


def _student_t(fn: Any, x: Tensor) -> Tensor:
    return _heavy_tailed(fn.df, ((x - fn.loc) / fn.scale).square(), 1) - fn.scale.log()


def _multivariate_student_t(fn: Any, x: Tensor) -> Tensor:
    root = fn.scale_tril
    y = torch.linalg.solve_triangular(root, (x - fn.loc).unsqueeze(-1), upper=False).squeeze(-1)
    return _heavy_tailed(fn.df, y.square().sum(-1), x.shape[-1]) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _heavy_tailed(df: Tensor, squares: Tensor, size: int) -> Tensor:
    """The density of a standard one in so many dimensions, by the squared distance from its centre."""
    half = torch.full_like(df, size / 2)
    constant = log_rising(half, df / 2) - half * (df * math.pi).log()
    return constant - (df + size) / 2 * (squares / df).log1p()


FORMULAS: Mapping[type, Callable[[Any, Tensor], Tensor]] = {
    dist.BetaBinomial: _beta_binomial,
    dist.ExtendedBetaBinomial: _extended_beta_binomial,
    dist.DirichletMultinomial: _dirichlet_multinomial,
    dist.GammaPoisson: _gamma_poisson,
    dist.NegativeBinomial: _negative_binomial,
    dist.ZeroInflatedNegativeBinomial: _zero_inflated,
    dist.ZeroInflatedDistribution: _zero_inflated,
    dist.StudentT: _student_t,
    dist.MultivariateStudentT: _multivariate_student_t,
}

LIMITS: Mapping[type, tuple[tuple[str, ...], str]] = {
    dist.BetaBinomial: (("concentration1", "concentration0"), "Binomial"),
    dist.ExtendedBetaBinomial: (("concentration1", "concentration0"), "Binomial"),
    dist.DirichletMultinomial: (("concentration",), "Multinomial"),
    dist.GammaPoisson: (("concentration",), "Poisson"),
    dist.NegativeBinomial: (("total_count",), "Poisson"),
    dist.StudentT: (("df",), "Normal"),
    dist.MultivariateStudentT: (("df",), "MultivariateNormal"),
}
"""What a family is where some of its arguments are infinite: these, and the limit."""

NEXT_TO = 1e4  # times the largest count: arguments from which a family is its limit, to all that data can tell


def limit(fn: Distribution, value: Tensor) -> str:
    """Return the family that a distribution is in some state, to all that data can tell; nothing if it is itself."""
    base = unwrap(fn).base
    names, family = LIMITS.get(type(base), ((), ""))
    if not names or not value.numel():
        return ""
    counts = bool(getattr(base.support, "is_discrete", False))
    largest = float(value.nan_to_num(nan=0.0).max()) if counts else 0.0
    enough = NEXT_TO * (1 + largest)
    least = torch.stack(torch.broadcast_tensors(*(getattr(base, name) for name in names))).amin(0)
    return family if bool((least > enough).any()) else ""
