"""Expected products of covariates and residuals, summed over the rows of every cell.

With `u = (x, r)` affine in the latents, `u = u_0 + B z`, a row has `E u u' = u(m) u(m)' + B Cov(z) B'`.
"""

from __future__ import annotations

from dataclasses import field
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ...program.named import broadcast
from ...records.frozen import frozen
from .block import Block
from .covariates import lines_of, slopes_of
from .group import Group, Posterior
from .precision.factored import Factored
from .precision.places import Spots


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


@frozen
class Weights:
    """How much every member counts.

    Attributes:
        members: (s, z, n), or (s, z, 1) where all count the same.
        patterns: members of each pattern, added up: (s, z, p).
    """

    members: Tensor = field(repr=False)
    patterns: Tensor = field(repr=False)


def weights_of(group: Group, share: Tensor | None) -> Weights:
    """Count the members by the share of every row of the factor, (s, z, rows); None is one, row weights counted."""
    repeats = 1.0 if group.repeats is None else group.repeats
    if group.at is None:
        share = torch.ones((1, 1, 1), dtype=torch.float64) if share is None else share
        return Weights(repeats * share, group.counts.double() * share)
    assert share is not None
    share = share[..., group.at] * repeats
    total = share.new_zeros((*share.shape[:2], len(group.counts)))
    return Weights(share, total.index_add_(-1, group.patterns.of, share))


def products(group: Group, found: Posterior, k: int, weights: Weights, cells: int) -> Tensor:
    """Sum the products of block `k` into so many cells: `Products` side by side, (s, cells, F)."""
    law, residual = found.laws[k], found.residuals[k]
    block = law.block
    x = lines_of(group, k, found.taken[k])
    members = weights.members[..., None, None]
    if block.weight is not None:
        members = members * block.weight[group.patterns.of]
    count = weights.patterns[..., None, None]
    count = (count if block.weight is None else count * block.weight).sum(2)
    slopes = slopes_of(block, law)
    if block.joint:  # a matrix of all coordinates, also where a latent enters them alike
        slopes = slopes.expand((*slopes.shape[:4], law.roots.shape[-1], *slopes.shape[5:]))
    around = _around(block, slopes, found.precision, weights, group.spots[k])
    one = torch.ones((1,) * 5, dtype=torch.float64) if group.one is None else group.one.reshape((1, 1, -1, 1, 1))
    terms = _Terms(block, count, x, residual, members, around, one)
    terms = _together(terms, len(group.patterns.of)) if block.alike else terms
    return (_joint if block.joint else _apart)(terms, len(group.patterns.of), cells)


def cut(found: Tensor, count: int, size: int) -> Products:
    """Cut products that lie side by side.

    Args:
        found: of every cell, (s, cells, F).
        count: covariates.
        size: coordinates with a covariance matrix in common; 0 is a number with a scale of its own.
    """
    J, e = count, size
    events = ((), (e, J, e, J), (e, J, e), (e, e), (e,)) if e else ((), (J, J), (J,), (), ())
    parts = found.split([prod(event) for event in events], -1)
    return Products(*(part.reshape((*found.shape[:2], *event)) for part, event in zip(parts, events, strict=True)))


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


def _together(terms: _Terms, members: int) -> _Terms:
    """Take all rows of the members for members with one row, where they are of the same cells."""
    rows = terms.block.rows

    def each(part: Tensor, *, thin: bool = True) -> Tensor:
        if thin and part.shape[2:4] == (1, 1):
            return part
        return part.expand((*part.shape[:2], members, rows, *part.shape[4:])).flatten(2, 3).unsqueeze(3)

    many = terms.many
    many = many * rows if many.shape[2] == 1 else many.sum(2, keepdim=True)
    alone = terms.weight.shape[2:4] == (1, 1)  # one weight for all
    return terms._replace(
        many=many,
        x=each(terms.x, thin=not alone),
        residual=each(terms.residual, thin=not alone),
        weight=each(terms.weight, thin=alone),
        one=each(terms.one),
    )


def _around(block: Block, slopes: Tensor, precision: Factored, weights: Weights, spots: Spots) -> Tensor:
    """`B Cov(z) B'` of every row, members added up: (s, z, c, e, J + 1, J + 1), coordinates side by side if joint."""
    if block.joint:
        slopes = slopes.flatten(4, 5).unsqueeze(4)
    if precision.half is None:
        if block.alike and slopes.shape[3] == 1:  # rows are added up before they are multiplied
            return (slopes @ _spread_of_all(block, precision, weights, spots) @ slopes.mT).sum(2)
        spread = _spread(block, precision, weights, spots)
        if not block.alike:
            return (slopes @ spread @ slopes.mT).sum(2)
        if block.common and block.weight is None:  # rows have the same covariances: one product for all of a pattern
            left = (slopes.flatten(3, 5) @ spread[:, :, :, 0, 0]).unflatten(3, slopes.shape[3:6])
        else:
            left = slopes @ spread
        return torch.einsum("szpceif,szpcejf->szeij", left, slopes).unsqueeze(2)
    padded = torch.nn.functional.pad(precision.half, (0, 0, 0, 1))
    taken = padded[..., torch.where(block.slots >= 0, block.slots, padded.shape[-2] - 1), :]  # (s, z, p, c, f, k)
    half = slopes @ taken.unsqueeze(4)
    weight = weights.patterns[..., None, None]
    weight = weight if block.weight is None else weight * block.weight
    return _of_rows(block, ((half * weight[..., None, None]) @ half.mT).sum(2))


def _of_rows(block: Block, part: Tensor) -> Tensor:
    """Rows (s, z, c, ...) added up, where all are of the same cells."""
    return part.expand((*part.shape[:2], block.rows, *part.shape[3:])).sum(2, keepdim=True) if block.alike else part


def _spread_of_all(block: Block, precision: Factored, weights: Weights, spots: Spots) -> Tensor:
    """Covariances of the latents that rows take, times how often they are there, rows added up: (s, z, p, 1, e, f, f).

    Summed over patterns where slopes are the same in all of them.
    """
    weight = weights.patterns[..., None, None]
    inside = precision.summed(spots, weight if block.weight is None else weight * block.weight.mT)
    return (inside.sum(2, keepdim=True) if _alike_slopes(block) else inside).unsqueeze(3)


def _alike_slopes(block: Block) -> bool:
    """Whether slopes are the same in all patterns."""
    return all(s is None or s.shape[1] == 1 for slot in block.slopes for s in slot)


def _spread(block: Block, precision: Factored, weights: Weights, spots: Spots) -> Tensor:
    """Covariances of the latents that rows take, times the members of each pattern: (s, z, p, c, e, f, f).

    Summed over patterns where slopes are the same in all of them.
    """
    f = block.slots.shape[1]
    if not f:
        return torch.zeros((1,) * 5 + (0, 0), dtype=torch.float64)
    taken = precision.at(spots.every)  # (s, z, p, c, f, f)
    if not _alike_slopes(block):
        weight = weights.patterns[..., None, None]
        weight = weight if block.weight is None else weight * block.weight
        return taken.unsqueeze(4) * weight[..., None, None]
    if block.weight is None:
        if weights.patterns.shape[2] == taken.shape[2] == 1:
            return (weights.patterns[..., None, None, None] * taken).unsqueeze(4)
        return torch.einsum("szp,szpcfg->szcfg", *_alike(weights.patterns, taken)).unsqueeze(3).unsqueeze(2)
    each = weights.patterns[..., None, None] * block.weight.expand((-1, len(block.slots), -1))
    return torch.einsum("szpce,szpcfg->szcefg", *_alike(each, taken)).unsqueeze(2)


def _alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Give both the same starts, states and patterns."""
    shape = broadcast(first.shape[:3], second.shape[:3])
    return first.expand((*shape, *first.shape[3:])), second.expand((*shape, *second.shape[3:]))


def _apart(terms: _Terms, members: int, cells: int) -> Tensor:
    """Coordinates each with a scale of its own."""
    block, many, x, residual, weight, around, one = terms
    J = block.count
    rows = members * block.rows if block.alike else members
    if x.shape[4] == 1 and weight.shape[2:] == (1, 1, 1):  # the same covariates in all coordinates, and one weight
        residual = residual.expand((*residual.shape[:2], rows, *residual.shape[3:]))
        line, right = x.squeeze(4).transpose(2, 3), residual.transpose(2, 3)  # (s, z, c, n, J), (s, z, c, n, e)
        line = line.expand((*line.shape[:3], rows, J))
        each = weight.squeeze(2)
        gram, first = each[..., None, None] * (line.mT @ line).unsqueeze(3), each[..., None] * (right.mT @ line)
        second, total = each * residual.square().sum(2), each * (residual * one).sum(2)
    else:
        weight = weight.expand((*weight.shape[:2], rows, *weight.shape[3:]))
        pull = weight * residual
        gram, first = _of_lines(x, weight, pull)
        second, total = (pull * residual).sum(2), (pull * one).sum(2)
    parts = [gram.flatten(-2), first, second.unsqueeze(-1), around.flatten(-2).index_select(-1, _order(J))]
    ends = [many.unsqueeze(-1), total.unsqueeze(-1)]
    lead = broadcast((1, *block.cells.shape), *(part.shape[:-1] for part in (*parts, *ends)))
    *parts, beside, n, total = (part.expand((*lead, part.shape[-1])) for part in (*parts, *ends))
    return _into(torch.cat([n, torch.cat(parts, -1) + beside, total], -1), block, cells)


@lru_cache
def _order(J: int) -> Tensor:
    """Where the products of covariates, of each with the residual, and its square stand in a flat matrix of all."""
    places = torch.arange((J + 1) ** 2).reshape(J + 1, J + 1)
    return torch.cat([places[:J, :J].flatten(), places[:J, J], places[J:, J]])


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


def _joint(terms: _Terms, members: int, cells: int) -> Tensor:
    """Coordinates with a covariance matrix in common."""
    block, many, x, residual, weight, around, one = terms
    size, J, rows = residual.shape[4], block.count, members * block.rows if block.alike else members
    residual = residual.expand((*residual.shape[:2], rows, *residual.shape[3:]))
    every = torch.cat([x.expand((*residual.shape, J)), residual.unsqueeze(-1)], -1).flatten(4)
    square = torch.einsum("szncu,szncv->szcuv", every * weight, every)
    total = (
        (square + around.squeeze(3)).unflatten(-1, (size, J + 1)).unflatten(-3, (size, J + 1))
    )  # (..., e, J+1, e, J+1)
    parts = [total[..., :J, :, :J].flatten(-4), total[..., :J, :, J].flatten(-3), total[..., J, :, J].flatten(-2)]
    parts = [many, *parts, (weight * residual * one).sum(2)]
    lead = broadcast((1, *block.cells.shape[:2]), *(part.shape[:-1] for part in parts))
    return _into(torch.cat([part.expand((*lead, part.shape[-1])) for part in parts], -1), block, cells)


def _into(part: Tensor, block: Block, cells: int) -> Tensor:
    """Add up what belongs to a cell: of (s, z, c), if not joint (s, z, c, e), and (F) into (s, cells, F)."""
    if block.in_order and cells == block.cells.numel() and part.shape[1:-1].numel() == cells:
        return part.flatten(1, -2)
    lead = part.shape[1:-1]
    where = block.cells[..., 0] if block.joint else block.cells
    found = part.new_zeros((len(part), cells, part.shape[-1]))
    return found.index_add_(1, where.expand(lead).reshape(-1), part.flatten(1, -2))
