"""Predictors `x' b`, covariates by row and coefficients by cell: `Q` and its derivatives, block by block.

With slopes and curvatures of a cell's log-density in its predictor, known in closed form,

    dQ/db = sum of slope x   and   d2Q/db2 = sum of curvature x x',

two matrix products for each block of rows, whose predictors are forgotten again.

References:
    McCullagh, P. and Nelder, J. A. (1989). Generalized Linear Models, section 2.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial

import torch
from torch import Tensor

from ...e_step.chunks import rows_of
from ...e_step.sums import Sums
from ...reading.design.apart import apart, thin
from ...reading.joined import joined
from ...reading.predictor import Affine, pairs, squared
from ...records.frozen import frozen
from .site import Site

Terms = tuple[Tensor, Tensor, Tensor]
"""`Q`, its slope and its curvature: of every cell and row, or summed."""


def _log_rates(eta: Tensor, a: Tensor, b: Tensor) -> Terms:
    """`a log(rate) - b rate`, with `eta = log(rate)`."""
    mean = b * eta.exp()
    return (a * eta).sub_(mean), a - mean, mean.neg_()


def _log_odds(eta: Tensor, a: Tensor, b: Tensor) -> Terms:
    """`a log(p) + b log(1 - p)`, with `eta` the logit of `p`."""
    p, rest = eta.sigmoid(), (-eta).sigmoid()
    larger = torch.maximum(p, rest).log_().mul_(a + b)  # what is left of each logarithm: all terms have one sign
    total = larger.addcmul_(a, eta.clamp(max=0)).addcmul_(b, eta.clamp(min=0), value=-1)
    hit, miss = a * rest, b * p
    return total, hit - miss, (hit * p).addcmul_(miss, rest).neg_()


def _without_zeros(eta: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictors, and what counts against them, without rows that have no weight and states that forbid a hit.

    Where a state makes a rate or a probability zero (`rate * z`), its logarithm is minus infinity, and `b` misses are
    certain: they are no part of `Q`. A hit there is impossible, and stays so.
    """
    certain = (a == 0) & (eta == -torch.inf)
    return eta.masked_fill(certain | ((a == 0) & (b == 0)), 0.0), b.masked_fill(certain, 0.0)


TERMS: Mapping[tuple[str, str, str], Callable[[Tensor, Tensor, Tensor], Terms]] = {
    ("rates", "positive", "exp"): _log_rates,
    ("counts", "unit", "sigmoid"): _log_odds,
}
"""By what all families of a kind have in common: their solver, and the domain and link of their argument."""

LOGITS = "counts", "simplex", "softmax"
"""The same of those that have a row of logits."""


@frozen
class Lines:
    """One site, or several side by side, whose one predictor is a line in every cell.

    Attributes:
        coefficients: of every cell, with a dimension for the covariates; the dimensions of the rows have size one.
        covariates: (J, rows).
        order: dimensions of the site's cells, those of the rows last.
        split: how many dimensions the cells have without those of the rows.
        shape: of the site's cells.
        terms: `Q` and its derivatives in the predictor.
        free: cells that are part of `Q`. In the others a state makes a rate or a probability zero (`p * z`), or one, in
            every row: what that forbids has no weight, and the rest is certain. None where all are.
    """

    coefficients: Affine = field(repr=False)
    covariates: Tensor = field(repr=False)
    order: tuple[int, ...]
    split: int
    shape: tuple[int, ...]
    terms: Callable[[Tensor, Tensor, Tensor], Terms]
    free: Tensor | None = field(default=None, repr=False)

    def expand(self, theta: Tensor, sums: Sums) -> Terms:
        """Expand `Q` to second order in all coordinates.

        Returns:
            `Q` of every start and cell, those of the rows added up, (S) + cells; gradient (S, E); Hessian (S, E, E).
        """
        found = self._expanded(theta, sums, careful=False)
        if not all(bool(torch.isfinite(part).all()) for part in found):
            found = self._expanded(theta, sums, careful=True)
        return found

    def _expanded(self, theta: Tensor, sums: Sums, *, careful: bool) -> Terms:
        """Expand block by block; with care, what is no part of `Q` is not looked at."""
        starts, size = theta.shape
        J = len(self.covariates)
        a, b = (self._laid_out(part) for part in sums.parts)
        here = self.coefficients.at(theta)
        whole = (*(1 if d in self.order[self.split :] else n for d, n in enumerate(self.shape)), J)
        here = here.expand((starts, *whole)).reshape((starts, -1, J))
        q, slope = theta.new_zeros(here.shape[:2]), torch.zeros_like(here)
        curvature = theta.new_zeros((*here.shape[:2], J * (J + 1) // 2))
        free = slice(None) if self.free is None else self.free
        here, a, b = (part[:, free] for part in (here, a, b))
        cells, rows = here.shape[1], self.covariates.shape[-1]
        step = rows_of(curvature.shape[-1] + J + 8 * starts * cells)
        for at in range(0, rows, step):
            x = self.covariates[:, at : at + step]
            eta, first, second = here @ x, a[..., at : at + step], b[..., at : at + step]
            if careful:
                eta, second = _without_zeros(eta, first, second)
            some, slopes, curvatures = self.terms(eta, first, second)
            q[:, free] += some.sum(-1)
            slope[:, free] += slopes @ x.mT
            curvature[:, free] += curvatures @ pairs(x).mT
        design = replace(self.coefficients, offset=theta.new_zeros(()).expand(whole))
        matrix, right = joined(design, slope, squared(curvature, J), size)
        return q.reshape((starts, *whole[:-1])), right, matrix

    def _laid_out(self, part: Tensor) -> Tensor:
        """Statistics as (S, cells, rows); a view where the rows stand last."""
        part = part.permute((0, *(d + 1 for d in self.order)))
        return part.flatten(1 + self.split).reshape((len(part), -1, self.covariates.shape[-1]))


@frozen
class Logits:
    """One site, or several side by side, whose logits are a line in every cell and class: multinomial regression.

    With `n` the weight of a row, of which `a_c` is that of class `c`, and probabilities `p`, slopes are `a_c - n p_c`
    and curvatures `-n (p_c [c = d] - p_c p_d)`. Attributes are those of `Lines`, coefficients with a dimension for the
    classes before that of the covariates.

    References:
        Böhning, D. (1992). Multinomial logistic regression algorithm. Annals of the Institute of Statistical
        Mathematics 44, 197-200.
    """

    coefficients: Affine = field(repr=False)
    covariates: Tensor = field(repr=False)
    order: tuple[int, ...]
    split: int
    shape: tuple[int, ...]

    def expand(self, theta: Tensor, sums: Sums) -> Terms:
        """As `Lines.expand`."""
        starts, size = theta.shape
        (J, rows), classes = self.covariates.shape, self.coefficients.offset.shape[-2]
        whole = tuple(1 if d in self.order[self.split :] else n for d, n in enumerate(self.shape))
        here = self.coefficients.at(theta).expand((starts, *whole, classes, J)).reshape((starts, -1, classes, J))
        cells, upper = here.shape[1], torch.triu_indices(classes, classes, device=theta.device)
        q, slope = theta.new_zeros((starts, cells)), theta.new_zeros((starts, cells, classes, J))
        curvature = theta.new_zeros((starts, cells, upper.shape[1], J * (J + 1) // 2))
        counts = self._laid_out(sums.parts[0])
        step = rows_of(curvature.shape[-1] + J + starts * cells * (5 * classes + upper.shape[1]))
        for at in range(0, rows, step):
            x, a = self.covariates[:, at : at + step], counts[..., at : at + step]
            logs = torch.log_softmax(here @ x, 2)
            q += torch.where(a != 0, a * logs, 0.0).sum((-1, -2))
            p, every = logs.exp(), a.sum(2, keepdim=True)
            expected = every * p
            slope += (a - expected) @ x.mT
            bent = expected[:, :, upper[0]] * p[:, :, upper[1]]
            bent[:, :, upper[0] == upper[1]] -= expected
            curvature += bent @ pairs(x).mT
        design = self.coefficients.changed(partial(_side_by_side, (*whole, classes, J)))
        blocks = theta.new_zeros((starts, cells, classes, classes, J, J))
        blocks[:, :, upper[0], upper[1]] = blocks[:, :, upper[1], upper[0]] = squared(curvature, J)
        matrix = blocks.transpose(3, 4).reshape((starts, cells, classes * J, classes * J))
        hessian, right = joined(design, slope.flatten(2), matrix, size)
        return q.reshape((starts, *whole)), right, hessian

    def _laid_out(self, part: Tensor) -> Tensor:
        """Counts as (S, cells, classes, rows)."""
        cells, rows = ([d + 1 for d in some] for some in (self.order[: self.split], self.order[self.split :]))
        part = part.permute((0, *cells, part.dim() - 1, *rows))
        return part.reshape((len(part), -1, part.shape[1 + self.split], self.covariates.shape[-1]))


def _side_by_side(sizes: Sequence[int], part: Tensor, slots: int) -> Tensor:
    """Put classes and covariates into one dimension."""
    end = part.dim() - slots
    return part.expand((*part.shape[: end - 2], *sizes[-2:], *part.shape[end:])).flatten(end - 2, end - 1)


def lines_of(site: Site) -> Lines | Logits | None:
    """A site by its coefficients, if it has one predictor whose derivatives are known, and the rest of it is known."""
    factor = site.factors[0]
    if len(site.arguments) != 1 or site.known or not factor.form.alike:
        return None
    (argument,) = site.arguments
    affine, rank = argument.affine, len(site.shape)
    kind = factor.family.solver, argument.domain, affine.chart.name
    terms = TERMS.get(kind)
    if affine.offset.dim() != rank + argument.row or (terms is None and kind != LOGITS):
        return None
    infinite = thin(affine.offset.isinf())
    if terms is None and bool(infinite.any()):
        return None
    affine = replace(affine, offset=affine.offset.masked_fill(infinite, 0.0))
    rows = [d for d in range(rank) if infinite.shape[d] == 1 and _along_rows(affine, d)]
    found = apart(affine, rows) if rows else None
    if found is None:
        return None
    coefficients, covariates = found
    order = (*(d for d in range(rank) if d not in rows), *rows)
    by_row = [n if d in rows else 1 for d, n in enumerate(site.shape)]
    table = covariates.expand((*by_row, *((1,) * argument.row), covariates.shape[-1]))
    table = table.movedim(-1, 0).reshape((covariates.shape[-1], -1))
    if terms is None:
        return Logits(coefficients, table, order, len(order) - len(rows), site.shape)
    return Lines(coefficients, table, order, len(order) - len(rows), site.shape, terms, _free(infinite, site, rows))


def _free(infinite: Tensor, site: Site, rows: Sequence[int]) -> Tensor | None:
    """Return the cells whose predictor is finite; None if all are."""
    if not bool(infinite.any()):
        return None
    cells = [1 if d in rows else n for d, n in enumerate(site.shape)]
    return (~infinite).expand(cells).flatten().nonzero().squeeze(-1)


def _along_rows(affine: Affine, d: int) -> bool:
    """Whether numbers differ along a dimension, and entries do not; the slots of a piece are its last dimension."""
    values = affine.offset, *(piece.value for piece in affine.pieces)
    return any(part.shape[d] > 1 for part in values) and all(piece.index.shape[d] == 1 for piece in affine.pieces)
