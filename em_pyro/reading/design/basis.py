"""Coefficients of covariates among which others are: rows that lie apart may show fewer covariates than there are.

A covariate that is the same in all rows of a batch, or zero, is none there: its coefficient is part of a constant. So
rows that lie apart have coefficients `b = M b'` of those that were agreed on, whatever the parameters are, and their
covariates `x` are `M' x` among the agreed ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from ...program.named import align, ordered
from ..bank import RoleMap
from ..predictor import Affine, Piece

SAME = 1e-11  # of the largest number of a row: what rounding may leave of it

Entries = Sequence[tuple[str, int]]


def among(own: RoleMap, agreed: RoleMap) -> Tensor | None:
    """Return `M`, (own, agreed coefficients), which makes one's own of the agreed ones; None if none does.

    Args:
        own: coefficients, predictors of named cells + events + (J,).
        agreed: others.
    """
    if not set(own.names) <= set(agreed.names):
        return None
    shape, entries = agreed.index.shape[:-1], _entries(own, agreed)
    mine, theirs = (_dense(part, agreed.names, shape, entries) for part in (own, agreed))
    if torch.equal(mine, theirs):
        return torch.eye(len(mine), dtype=torch.float64)
    found = mine @ torch.linalg.pinv(theirs, rtol=SAME)
    found = torch.where(found.abs() <= SAME * found.abs().amax(-1, keepdim=True), 0.0, found)
    left = (found @ theirs - mine).abs().amax(-1)
    return found if bool((left <= SAME * mine.abs().amax(-1)).all()) else None


def union(agreed: RoleMap, more: RoleMap, sizes: Mapping[str, int]) -> RoleMap:
    """Return coefficients among which all of both are: the agreed ones, and of the others what is not among them.

    Args:
        agreed: coefficients.
        more: others.
        sizes: of all cells, in their order.
    """
    names, entries = ordered((*agreed.names, *more.names), sizes), _entries(agreed, more)
    events = agreed.index.shape[len(agreed.names) : -1]
    shape = (*(sizes[n] for n in names), *events)
    found, others = (_dense(part, names, shape, entries) for part in (agreed, more))
    for row in others:
        left = row - (row @ torch.linalg.pinv(found, rtol=SAME)) @ found
        if float(left.abs().max()) > SAME * float(row.abs().max()):
            found = torch.cat((found, row.unsqueeze(0)))
    assert agreed.affine is not None
    affine = _predictors(found, shape, entries, agreed.affine)
    return RoleMap(names, torch.full((), -1).expand((*shape, len(found))), affine=affine)


def _entries(*parts: RoleMap) -> Entries:
    return sorted({entry for part in parts if part.affine is not None for entry in part.affine.entries})


def _dense(role: RoleMap, names: Sequence[str], shape: Sequence[int], entries: Entries) -> Tensor:
    """What multiplies every entry in each coefficient of each cell, and constants: (J, cells x (entries + 1))."""
    affine = role.affine
    assert affine is not None
    affine = affine.changed(lambda part, _: align(part, role.names, names, part.dim() - len(role.names)))
    count, last = affine.offset.shape[-1], len(entries)
    place = {entry: k for k, entry in enumerate(entries)}
    where = torch.tensor([*(place[entry] for entry in affine.entries), last + 1])  # the last is nothing
    found = torch.zeros((prod(shape), count, last + 2), dtype=torch.float64)
    found[..., last] = affine.offset.expand((*shape, count)).reshape((-1, count)).double()
    for piece in affine.pieces:
        slots = piece.index.shape[-1]
        every = (part.expand((*shape, count, slots)) for part in (piece.index, piece.value))
        index, value = (part.reshape((-1, count, slots)) for part in every)
        found.scatter_add_(-1, where[index], torch.where(index < 0, 0.0, value.double()))
    return found[..., : last + 1].transpose(0, 1).reshape((count, -1))


def _predictors(rows: Tensor, shape: Sequence[int], entries: Entries, like: Affine) -> Affine:
    """Coefficients from what multiplies the entries in each."""
    each = rows.reshape((len(rows), prod(shape), -1)).transpose(0, 1)
    times, used = each[..., :-1], each[..., :-1] != 0
    order = used.byte().argsort(dim=-1, descending=True, stable=True)[..., : max(1, int(used.sum(-1).max()))]
    index = torch.where(used.gather(-1, order), order, -1).reshape((*shape, len(rows), -1))
    value = times.gather(-1, order).reshape(index.shape)
    offset = each[..., -1].reshape((*shape, len(rows)))
    return replace(like, entries=tuple(entries), offset=offset, pieces=(Piece(index, value),))
