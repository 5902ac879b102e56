"""Counts that vary more than Poisson, binomial and multinomial ones: every row has a mean or probabilities of its own.

Negative binomial and gamma-Poisson are two ways to write one law; beta-binomial and Dirichlet-multinomial are one for
two kinds and for more. Where their concentration is infinite they are the simpler law: it stops where the two can be
told apart no more.

References:
    Minka (2000), Estimating a Dirichlet distribution, section 3. Zhou & Lange (2010), MM algorithms for some discrete
    multivariate distributions.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..program.data.counts import log_choose, log_risen, rising
from ..program.named import unexpand
from ..records.frozen import frozen
from .base import Args, Role, register
from .counts import probabilities
from .newton import ITERATIONS, STILL, root
from .rowwise import CountFamily, RowFamily, looked_up, mean, tallied

FAR = 1e3  # total count, in units of one plus the mean, from which the equation for it is written as a series
LIMIT = 1e7  # concentration, in units of one plus the mean or the largest total, at which the law is the simpler one
LEAST = 1e-100  # concentration of a kind that is never counted, in place of zero
LEVEL = 1e-12  # of a curvature: below, there is none
NOISE = 1e-13  # of the parts of a slope: rounding
MINORISED = 2  # steps by minorising, before those of Newton's method
STRIDE, HALVINGS = 1.0, 30  # the longest step of a log-concentration, and how often it is halved


def nearly_poisson(x: Tensor, weights: Tensor, m: Tensor, r: Tensor) -> Tensor:
    """`mean(digamma(x + r)) - digamma(r) - log1p(m / r)` for large `r`, where its terms cancel all but a few digits.

    `digamma(r) = log r - 1/2r - 1/12r^2 + ...`, and `mean(log((r + x) / (r + m)))` is `mean(log1p(d) - d)` with
    `d = (x - m) / (r + m)`, which has mean zero.
    """
    r, m = r.unsqueeze(-1), m.unsqueeze(-1)
    d = (x - m) / (r + m)
    bent = torch.where(d.abs() < 1e-3, -d * d * (1 / 2 - d * (1 / 3 - d * (1 / 4 - d / 5))), d.log1p() - d)
    second, third = x / (2 * r * (r + x)), x * (2 * r + x) / (12 * r**2 * (r + x) ** 2)
    return mean(bent + second + third, weights)


def total_count(value: Tensor, weights: Tensor, r: Tensor, log_misses: Tensor | None) -> Tensor:
    """Maximise negative binomials over the total count `r`: `mean(digamma(x + r)) - digamma(r) + log(1 - p) = 0`.

    Counts that vary no more than Poisson counts have no finite `r`: it stops where the two can be told apart no more.
    The equation has one root or none.

    Args:
        value: counts, `(cells, rows)`.
        weights: of the rows.
        r: current values, `(cells,)`.
        log_misses: `log(1 - p)`; None where `p = mean(x) / (mean(x) + r)` is profiled out.
    """
    m = mean(value, weights)
    found = m > 0
    m = torch.where(found, m, 1.0)

    def gap(r: Tensor) -> tuple[Tensor, Tensor]:
        rows = value + r.unsqueeze(-1)
        slope = mean(rows.digamma(), weights) - r.digamma()
        curvature = r * (mean(torch.polygamma(1, rows), weights) - torch.polygamma(1, r))
        if log_misses is not None:
            return slope + log_misses, curvature
        slope = torch.where(r < FAR * (1 + m), slope - (m / r).log1p(), nearly_poisson(value, weights, m, r))
        return slope, curvature + m / (r + m)

    return torch.where(found, root(gap, r, 1e-10 * torch.ones_like(r), torch.maximum(LIMIT * (1 + m), r)), r)


class NegativeBinomial(CountFamily):
    """`log_choose(x, r) + x log p + r log(1 - p)`, the total count `r` estimated."""

    roles = {"total_count": Role("positive"), "probs": Role("unit")}

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        total = unexpand(distribution.total_count)  # type: ignore[attr-defined]
        return {"probs": probabilities(distribution), "total_count": total}

    def log_mass(self, value: Tensor, args: Args) -> Tensor:
        hits, misses = args["probs"], args["probs_complement"]
        log_p = torch.where(value > 0, value * hits, 0.0)
        return log_choose(value, args["total_count"], log_risen) + log_p + args["total_count"] * misses

    def solve_counts(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Solve for the total count, then `p = mean(x) / (mean(x) + r)`."""
        m, r = mean(value, weights), args["total_count"]
        if "total_count" in free:
            r = total_count(value, weights, r, None if "probs" in free else (-args["probs"]).log1p())
        probs = torch.where(weights.sum(-1) > 0, m / (m + r), args["probs"])
        return {key: {"total_count": r, "probs": probs}[key] for key in free}


@register(dist.GammaPoisson)
class GammaPoisson(CountFamily):
    """The negative binomial of `r = concentration` and `1 - p = rate / (1 + rate)`."""

    roles = {"concentration": Role("positive"), "rate": Role("positive")}

    def log_mass(self, value: Tensor, args: Args) -> Tensor:
        r, rate = args["concentration"], args["rate"]
        return log_choose(value, r, log_risen) - r * rate.reciprocal().log1p() - value * rate.log1p()

    def solve_counts(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Solve for the concentration, then `rate = concentration / mean(x)`; zeros alone have no finite rate."""
        m, r, rate = mean(value, weights), args["concentration"], args["rate"]
        if "concentration" in free:
            r = total_count(value, weights, r, None if "rate" in free else -rate.reciprocal().log1p())
        rate = torch.where(weights.sum(-1) > 0, r / m.clamp(min=1 / LIMIT), rate)
        return {key: {"concentration": r, "rate": rate}[key] for key in free}


# ---- kinds: Polya urns -----------------------------------------------------------------------------------------------


def urns(counts: Tensor, weights: Tensor, start: Tensor, free: Tensor) -> Tensor:
    """Maximise Dirichlet-multinomials over the free entries of the concentrations `a`.

    With `A = sum a`: `sum_r w_r (sum_c log Gamma(a_c + x_rc) / Gamma(a_c) - log Gamma(A + n_r) / Gamma(A))`. Rows enter
    only by how often each number was counted. The Hessian is diagonal plus one dyad, so that Newton takes linear time;
    it climbs in `log a`, each step halved until it ascends, after two steps by minorising, which no start is too far
    for.

    Args:
        counts: rows of every cell, `(cells, rows, C)`.
        weights: of the rows, `(cells, rows)`.
        start: current values, `(cells, C)`.
        free: which of the entries move, `(C,)`.
    """
    tally = Tally.of(counts, weights)
    cells = tally.seen.any(-1, keepdim=True)
    moving = free & tally.seen
    most = (LIMIT * (1 + tally.totals.max())).maximum(start.sum(-1, keepdim=True))

    def held(a: Tensor) -> Tensor:
        moved = torch.where(moving, a, 0.0).sum(-1, keepdim=True)
        return torch.where(moving, a * ((most - a.sum(-1, keepdim=True) + moved) / moved).clamp(max=1.0), a)

    a = torch.where(free & cells & ~tally.seen, LEAST, start)
    for _ in range(MINORISED):
        gain, _, cost, _ = tally.slopes(a)
        a = held(torch.where(moving, a * gain / torch.where(cells, cost, 1.0), a))
    before = torch.full(a.shape[:-1], torch.inf).to(a)
    for _ in range(ITERATIONS):
        gain, bend, cost, dyad = tally.slopes(a)
        slope = torch.where(moving, a * (gain - cost), 0.0)
        noise = NOISE * torch.where(moving, a * gain, 0.0).sum(-1)
        step = _newton(slope, noise, a * (gain - cost) + a * a * bend, a, dyad.squeeze(-1), moving)
        step = step * (STRIDE / step.abs().amax(-1, keepdim=True).clamp(min=STRIDE))
        new = held(a * step.exp())
        size = (new / a).log().abs().amax(-1)
        done = (size <= STILL) | ((size < 1e-9) & (size >= before))
        if bool(done.all()):
            break
        new = _halved(tally, a, new, done | (size < 1e-4))
        before = torch.where((new == a).all(-1), 0.0, size)
        a = torch.where(done.unsqueeze(-1), a, new)
    return torch.where(cells, a, start)


@frozen
class Tally:
    """How often each number was counted of every kind, and in all.

    Attributes:
        values: numbers, `(V,)`, or `(cells, C, rows)` as they are.
        each: their weight in every kind, `(cells, C, V)`.
        totals: numbers in all, `(U,)` or `(cells, 1, rows)`.
        drawn: their weight, `(cells, 1, U)`.
    """

    values: Tensor
    each: Tensor
    totals: Tensor
    drawn: Tensor

    @classmethod
    def of(cls, counts: Tensor, weights: Tensor) -> Tally:
        """Of counts `(cells, rows, C)` and weights `(cells, rows)`."""
        weights = weights.unsqueeze(-2)
        return cls(*tallied(counts.mT, weights), *tallied(counts.sum(-1).unsqueeze(-2), weights))

    @property
    def seen(self) -> Tensor:
        """Which kinds were counted at all, `(cells, C)`."""
        return (self.each * self.values).sum(-1) > 0

    def height(self, a: Tensor) -> Tensor:
        """Log-mass of all rows at concentrations `(cells, C)`, less the multinomial coefficients."""
        each, whole = log_risen(self.values, a.unsqueeze(-1)), log_risen(self.totals, a.sum(-1)[..., None, None])
        parts = ((self.each, each), (self.drawn, whole))
        first, second = (torch.where(some != 0, some * part, 0.0).sum((-1, -2)) for some, part in parts)
        return first - second

    def slopes(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """First and second derivatives of the entries by themselves, and what those of their sum take away."""
        own, bent = rising(self.values, a.unsqueeze(-1))
        whole, dyad = rising(self.totals, a.sum(-1)[..., None, None])
        gain, bend = ((self.each * part).sum(-1) for part in (own, bent))
        cost, less = ((self.drawn * part).sum(-1) for part in (whole, dyad))
        return gain, bend, cost, -less


def _halved(tally: Tally, a: Tensor, new: Tensor, near: Tensor) -> Tensor:
    """Halve a step until it ascends; where it is so near that values cannot tell, let it be."""
    old = tally.height(a)
    for halved in range(HALVINGS):
        worse = ~near & ~(tally.height(new) >= old)
        if not bool(worse.any()):
            break
        back = a if halved == HALVINGS - 1 else (a * new).sqrt()
        new = torch.where(worse.unsqueeze(-1), back, new)
    return new


def _newton(slope: Tensor, noise: Tensor, bend: Tensor, a: Tensor, dyad: Tensor, moving: Tensor) -> Tensor:
    """Newton's step for the Hessian `diag(bend) + dyad a a'`, each of its curvatures taken for negative.

    A slope along all entries together that is below `noise`, `(cells,)`, is rounding.
    """
    steep = torch.where(bend < 0, -bend, torch.maximum(bend.abs(), slope.abs())).clamp(min=torch.finfo(a.dtype).tiny)
    ahead, across = torch.where(moving, slope / steep, 0.0), torch.where(moving, a / steep, 0.0)
    bent = dyad * (a * across).sum(-1)
    left = (1 - bent).abs().clamp(min=LEVEL, max=1.0)  # of the curvature, along all together
    left = torch.where(slope.sum(-1).abs() <= noise, 1.0, left)
    shared = dyad * (1 - left) / bent.clamp(min=LEVEL) / left
    return ahead + (shared * (a * ahead).sum(-1)).unsqueeze(-1) * across


@register(dist.DirichletMultinomial)
class DirichletMultinomial(RowFamily):
    """Rows of counts of `n` drawn with probabilities that are Dirichlet of `concentration`, in every row anew."""

    event_dim = 1
    roles = {"concentration": Role("positive", event_dim=1)}

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        return self._log_prob(value, args["concentration"])

    def weighed(self, value: Tensor, weights: Tensor, args: Args) -> Tensor:
        return self._weighed(value, weights, args["concentration"])

    def _log_prob(self, counts: Tensor, a: Tensor) -> Tensor:
        """Of rows of counts `(..., rows, C)`, `a` of shape `(..., 1, C)`."""
        each = looked_up(counts.mT, lambda numbers: log_risen(numbers, a.mT)).sum(-2)
        whole = looked_up(counts.sum(-1), lambda numbers: log_risen(numbers, a.sum(-1)))
        return self._coefficient(counts) + each - whole

    def _weighed(self, counts: Tensor, weights: Tensor, a: Tensor) -> Tensor:
        """By how often each number was counted; `a` of shape `(cells, 1, C)`."""
        counts = counts.expand((*weights.shape, counts.shape[-1]))
        return Tally.of(counts, weights).height(a.squeeze(-2)) + (self._coefficient(counts) * weights).sum(-1)

    def _coefficient(self, value: Tensor) -> Tensor:
        return (value.sum(-1) + 1).lgamma() - (value + 1).lgamma().sum(-1)

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Solve for all entries of a row together."""
        a = args["concentration"]
        return {"concentration": urns(value, weights, a, torch.ones_like(a[0], dtype=torch.bool))}


@register(dist.BetaBinomial)
class BetaBinomial(DirichletMultinomial):
    """The Dirichlet-multinomial of `(x, n - x)`, the total `n` known and possibly different in each row."""

    event_dim = 0
    roles = {"concentration1": Role("positive"), "concentration0": Role("positive")}

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        total = unexpand(distribution.total_count)  # type: ignore[attr-defined]
        return {**super().read(distribution), "total_count": total}

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        return self._log_prob(self._counts(value, args), self._concentrations(args))

    def weighed(self, value: Tensor, weights: Tensor, args: Args) -> Tensor:
        return self._weighed(self._counts(value, args), weights, self._concentrations(args))

    def _concentrations(self, args: Args) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*(args[key] for key in self.roles)), -1)

    def _counts(self, value: Tensor, args: Args) -> Tensor:
        return torch.stack(torch.broadcast_tensors(value, args["total_count"] - value), -1)

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Solve for one concentration or both."""
        start = self._concentrations(args)
        moving = torch.tensor([key in free for key in self.roles], device=start.device)
        solved = urns(self._counts(value, args), weights, start, moving)
        return {key: solved[..., k] for k, key in enumerate(self.roles) if key in free}
