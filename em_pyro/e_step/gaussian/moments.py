"""Expected products of covariates and residuals, summed over the rows of every cell.

With `u = (x, r)` affine in the latents, `u = u_0 + B z`, a row has `E u u' = u(m) u(m)' + B Cov(z) B'`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...program.named import broadcast
from .block import Block, Law
from .group import Group, Posterior, taken_of
from .precision.factored import Factored


class Products(NamedTuple):
    """Of every cell: weight `n`, `sum x x'`, `sum x r`, `sum r^2`, `sum r`; of joint coordinates with more dimensions.

    Shapes (s, cells), (s, cells, J, J), (s, cells, J), (s, cells) twice; if joint (s, cells), (s, cells, e, J, e, J),
    (s, cells, e, J, e), (s, cells, e, e), (s, cells, e).
    """

    n: Tensor
    gram: Tensor
    first: Tensor
    second: Tensor
    total: Tensor


@dataclass(frozen=True)
class Weights:
    """How much every member counts.

    Attributes:
        members: (s, z, n).
        patterns: members of each pattern, added up: (s, z, p).
    """

    members: Tensor = field(repr=False)
    patterns: Tensor = field(repr=False)


def weights_of(group: Group, share: Tensor | None) -> Weights:
    """Count the members by the share of every row of the factor, (s, z, rows); None is one, row weights counted."""
    repeats = 1.0 if group.repeats is None else group.repeats
    if group.at is None:
        share = torch.ones((1, 1, 1), dtype=torch.float64) if share is None else share
        every = torch.ones((1, 1, len(group.patterns.of)), dtype=torch.float64) * repeats
        return Weights(every * share, group.counts.double() * share)
    assert share is not None
    share = share[..., group.at] * repeats
    total = share.new_zeros((*share.shape[:2], len(group.counts)))
    return Weights(share, total.index_add_(-1, group.patterns.of, share))


def products(group: Group, found: Posterior, k: int, weights: Weights, cells: int) -> Products:
    """Sum the products of block `k` into so many cells."""
    law, residual = found.laws[k], found.residuals[k]
    block = law.block
    taken = taken_of(block, found.mean)
    covariates = [_covariate(group, block, j, taken) for j in range(block.count)]
    x = torch.stack(torch.broadcast_tensors(*covariates), -1) if covariates else residual.new_zeros((1, 1, 1, 1, 1, 0))
    members = weights.members[..., None, None]
    if block.weight is not None:
        members = members * block.weight[group.patterns.of]
    count = weights.patterns[..., None, None]
    count = (count if block.weight is None else count * block.weight).sum(2)
    around = _around(block, _slopes(block, law), found.precision, weights, group.spots[k])
    one = torch.ones((1,) * 5, dtype=torch.float64) if group.one is None else group.one.reshape((1, 1, -1, 1, 1))
    terms = _Terms(block, count, x, residual, members, around, one)
    terms = _together(terms) if block.alike else terms
    return _joint(terms, cells) if block.joint else _apart(terms, cells)


class _Terms(NamedTuple):
    """What is to be added up.

    Attributes:
        block: the rows.
        many: how much every row counts, members added up, (s, z, c, e).
        x: covariates at the means, (s, z, n, c, e, J).
        residual: residuals at the means, (s, z, n, c, e).
        weight: how much every member counts, likewise.
        around: covariances of covariates and residuals, members added up, (s, z, c, e, J + 1, J + 1); rows as well
            where all are of the same cells.
        one: what stands for one in every member, likewise.
    """

    block: Block
    many: Tensor
    x: Tensor
    residual: Tensor
    weight: Tensor
    around: Tensor
    one: Tensor


def _together(terms: _Terms) -> _Terms:
    """Take all rows of a member for members with one row, where they are of the same cells."""
    rows, members = terms.block.rows, max(terms.residual.shape[2], terms.weight.shape[2])

    def each(part: Tensor, *, thin: bool = True) -> Tensor:
        if thin and part.shape[2:4] == (1, 1):
            return part
        return part.expand((*part.shape[:2], members, rows, *part.shape[4:])).flatten(2, 3).unsqueeze(3)

    many = terms.many
    many = many * rows if many.shape[2] == 1 else many.sum(2, keepdim=True)
    one_weight = members == 1 and terms.weight.shape[3] == 1  # else there is one for every row
    return terms._replace(
        many=many,
        x=each(terms.x, thin=not one_weight),
        residual=each(terms.residual, thin=not one_weight),
        weight=each(terms.weight, thin=one_weight),
        one=each(terms.one),
    )


def _covariate(group: Group, block: Block, j: int, taken: Tensor) -> Tensor:
    """A covariate at the means, (s, z, n, c, e), thin where it does not vary."""
    part = block.constants[j]
    total: Tensor | None = None
    if part is not None:
        total = part.unsqueeze(0)
        if group.one is not None and part.shape[1] == 1:
            total = total * group.one.reshape((1, 1, -1, 1, 1))
    for f, slot in enumerate(block.slopes):
        slope = slot[j]
        if slope is not None:
            slope = slope[:, group.patterns.of] if slope.shape[1] > 1 else slope
            term = slope * taken[..., f].unsqueeze(-1)
            total = term if total is None else total + term
    return taken.new_zeros((1,) * 5) if total is None else total


def _slopes(block: Block, law: Law) -> Tensor:
    """Slopes of the covariates and of the residual, (s, z, p, c, e, J + 1, f)."""
    if not block.slopes:
        return law.slopes.unsqueeze(-2).expand((*law.slopes.shape[:-1], block.count + 1, 0))
    none = law.slopes.new_zeros((1,) * 5)
    each = (slot[j] for j in range(block.count) for slot in block.slopes)
    parts = [*(none if part is None else part.unsqueeze(0) for part in each), *law.slopes.unbind(-1)]
    shape = broadcast(*(part.shape for part in parts))
    stacked = torch.stack([part.expand(shape) for part in parts], -1)
    return stacked.unflatten(-1, (block.count + 1, len(block.slopes)))


def _around(block: Block, slopes: Tensor, precision: Factored, weights: Weights, spots: Tensor) -> Tensor:
    """`B Cov(z) B'` of every row, members added up: (s, z, c, e, J + 1, J + 1), coordinates side by side if joint."""
    if block.joint:
        slopes = slopes.flatten(4, 5).unsqueeze(4)
    if precision.half is None:
        if block.alike and slopes.shape[3] == 1:  # rows are added up before they are multiplied
            return (slopes @ _spread_of_all(block, precision, weights, spots) @ slopes.mT).sum(2)
        return _of_rows(block, (slopes @ _spread(block, precision, weights, spots) @ slopes.mT).sum(2))
    padded = torch.nn.functional.pad(precision.half, (0, 0, 0, 1))
    taken = padded[..., torch.where(block.slots >= 0, block.slots, padded.shape[-2] - 1), :]  # (s, z, p, c, f, k)
    half = slopes @ taken.unsqueeze(4)
    weight = weights.patterns[..., None, None]
    weight = weight if block.weight is None else weight * block.weight
    return _of_rows(block, ((half * weight[..., None, None]) @ half.mT).sum(2))


def _of_rows(block: Block, part: Tensor) -> Tensor:
    """Rows (s, z, c, ...) added up, where all are of the same cells."""
    return part.expand((*part.shape[:2], block.rows, *part.shape[3:])).sum(2, keepdim=True) if block.alike else part


def _spread_of_all(block: Block, precision: Factored, weights: Weights, spots: Tensor) -> Tensor:
    """Covariances of the latents that rows take, times how often they are there, rows added up: (s, z, p, 1, e, f, f).

    Summed over patterns where slopes are the same in all of them.
    """
    weight = weights.patterns[..., None, None]
    inside = precision.summed(spots, weight if block.weight is None else weight * block.weight.mT)
    return (inside.sum(2, keepdim=True) if _alike_slopes(block) else inside).unsqueeze(3)


def _alike_slopes(block: Block) -> bool:
    """Whether slopes are the same in all patterns."""
    return all(s is None or s.shape[1] == 1 for slot in block.slopes for s in slot)


def _spread(block: Block, precision: Factored, weights: Weights, spots: Tensor) -> Tensor:
    """Covariances of the latents that rows take, times the members of each pattern: (s, z, p, c, e, f, f).

    Summed over patterns where slopes are the same in all of them.
    """
    f = block.slots.shape[1]
    if not f:
        return torch.zeros((1,) * 5 + (0, 0), dtype=torch.float64)
    taken = precision.at(spots)  # (s, z, p, c, f, f)
    if not _alike_slopes(block):
        weight = weights.patterns[..., None, None]
        weight = weight if block.weight is None else weight * block.weight
        return taken.unsqueeze(4) * weight[..., None, None]
    if block.weight is None:
        return torch.einsum("szp,szpcfg->szcfg", *_alike(weights.patterns, taken)).unsqueeze(3).unsqueeze(2)
    each = weights.patterns[..., None, None] * block.weight.expand((-1, len(block.slots), -1))
    return torch.einsum("szpce,szpcfg->szcefg", *_alike(each, taken)).unsqueeze(2)


def _alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Give both the same starts, states and patterns."""
    shape = broadcast(first.shape[:3], second.shape[:3])
    return first.expand((*shape, *first.shape[3:])), second.expand((*shape, *second.shape[3:]))


def _apart(terms: _Terms, cells: int) -> Products:
    """Coordinates each with a scale of its own."""
    block, many, x, residual, weight, around, one = terms
    J = block.count
    if x.shape[4] == 1 and weight.shape[2:] == (1, 1, 1):  # the same covariates in all coordinates, and one weight
        line, right = x.squeeze(4).movedim(2, -2), residual.movedim(2, -2)  # (s, z, c, n, J), (s, z, c, n, e)
        each = weight.squeeze(2)
        gram, first = each[..., None] * (line.mT @ line).unsqueeze(3), each[..., None] * (right.mT @ line)
        second, total = each * residual.square().sum(2), each * (residual * one).sum(2)
    else:
        pull = weight * residual
        gram, first = _of_lines(x, weight, pull)
        second, total = (pull * residual).sum(2), (pull * one).sum(2)
    parts = (many, gram + around[..., :J, :J], first + around[..., :J, J], second + around[..., J, J], total)
    return Products(*(_into(part, block.cells, cells) for part in parts))


def _of_lines(x: Tensor, weight: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted products of covariates with each other, and with residuals that are weighted already."""
    if x.shape[4] > 1:
        weighted = weight.unsqueeze(-1) * x
        return (weighted.unsqueeze(-1) * x.unsqueeze(-2)).sum(2), (pull.unsqueeze(-1) * x).sum(2)
    J = x.shape[5]
    square = x.unsqueeze(-1) * x.unsqueeze(-2)
    shape = broadcast(weight.shape[:4], square.shape[:4])
    w = weight.expand((*shape, weight.shape[4]))
    gram = torch.einsum("sznce,szncij->szceij", w, square.squeeze(4).expand((*shape, J, J)))
    shape = broadcast(pull.shape[:4], x.shape[:4])
    pull, x = pull.expand((*shape, pull.shape[4])), x.squeeze(4).expand((*shape, J))
    return gram, torch.einsum("sznce,sznci->szcei", pull, x)


def _joint(terms: _Terms, cells: int) -> Products:
    """Coordinates with a covariance matrix in common."""
    block, many, x, residual, weight, around, one = terms
    size, J = residual.shape[4], block.count
    every = torch.cat([x.expand((*residual.shape, J)), residual.unsqueeze(-1)], -1).flatten(4)
    square = torch.einsum("szncu,szncv->szcuv", every * weight, every)
    total = (
        (square + around.squeeze(3)).unflatten(-1, (size, J + 1)).unflatten(-3, (size, J + 1))
    )  # (..., e, J+1, e, J+1)
    where = block.cells[..., 0]
    parts = (
        many.squeeze(-1),
        total[..., :J, :, :J],
        total[..., :J, :, J],
        total[..., J, :, J],
        (weight * residual * one).sum(2),
    )
    return Products(*(_into(part, where, cells) for part in parts))


def _into(part: Tensor, where: Tensor, cells: int) -> Tensor:
    """Add up what belongs to a cell: of (s) + where + ... into (s, cells) + ...."""
    shape = broadcast(part.shape[1 : 1 + where.dim()], where.shape)
    rest = part.shape[1 + where.dim() :]
    part = part.expand((part.shape[0], *shape, *rest)).flatten(1, where.dim())
    found = part.new_zeros((part.shape[0], cells, *rest))
    return found.index_add_(1, where.expand(shape).reshape(-1), part)
