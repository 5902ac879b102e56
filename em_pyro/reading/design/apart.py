"""Predictors taken apart: what differs by row is a covariate, what differs by cell its coefficient."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...program.named import broadcast
from ..predictor import Affine, Piece

ROUNDING = 1e-14  # of a product of a covariate and a multiplier, as it is read
COMPARED = 64  # numbers of two covariates that are compared first
LEVELS = 24  # entries of which every row takes one, up to which each has a covariate of its own

Column = tuple[Tensor, Tensor]
"""What multiplies a slot: a covariate, which differs by row alone, and a multiplier, which differs by cell alone."""


def apart(affine: Affine, rows: Collection[int]) -> tuple[Affine, Tensor] | None:
    """Take a predictor apart: what differs by row is a covariate, what differs by cell its coefficient.

    `(coef[z] * x).sum(-1)` has an entry for every state and row, and is `x' b` with a vector `b` for every state.

    Args:
        affine: the predictor of a number.
        rows: its dimensions along which rows lie.

    Returns:
        Predictors of the coefficients of every cell, with a dimension of covariates after those of the cells; those of
        the rows have size one. And the covariates, of the same dimensions with size one in the cells. None if a
        covariate depends on the cell, or rows take too many entries.
    """
    covariates = list[Tensor]()
    slots = list[tuple[int, Tensor, Tensor]]()  # covariate, index, multiplier
    offset = 0, affine.offset.new_zeros((1,) * affine.offset.dim())
    if bool((affine.offset != 0).any()):
        known = _column(affine.offset, rows)
        if known is None:
            return None
        place, sign = _place(covariates, known[0])
        offset = place, sign * known[1]
    for piece in affine.pieces:
        for every, multiplier in zip(piece.index.unbind(-1), piece.value.unbind(-1), strict=True):
            taken = _levels(every, multiplier, rows)
            if taken is None:
                return None
            for index, value in taken:
                column = _column(value, rows)
                if column is None:
                    return None
                place, sign = _place(covariates, column[0])
                slots.append((place, index, sign * column[1]))
    return _coefficients(affine, offset, slots, len(covariates)), _beside(covariates)


def _levels(index: Tensor, value: Tensor, rows: Collection[int]) -> list[tuple[Tensor, Tensor]] | None:
    """Split a slot of which rows take one entry or another: each has a covariate that is zero in the other rows.

    None if there are too many.
    """
    by_row = sorted(d for d in rows if index.shape[d] > 1)
    if not by_row:
        return [(index, value)]
    each = index.movedim(by_row, list(range(len(by_row)))).flatten(0, len(by_row) - 1)
    flat = each.reshape(len(each), -1)
    levels, place = flat[:, 0].unique(return_inverse=True)
    if len(levels) > LEVELS:
        return None
    first = torch.full_like(levels, len(flat)).scatter_reduce(0, place, torch.arange(len(flat)), "amin")
    if not torch.equal(flat[first][place], flat):  # in another cell they are others
        return None
    shape = [size if d in by_row else 1 for d, size in enumerate(index.shape)]
    cells = [1 if d in by_row else size for d, size in enumerate(index.shape)]
    return [
        (flat[first[k]].reshape(cells), torch.where((place == k).reshape(shape), value, 0.0))
        for k in range(len(levels))
        if bool((flat[first[k]] >= 0).any())
    ]


def _column(value: Tensor, rows: Collection[int]) -> Column | None:
    """Split what multiplies an entry; None if it depends on row and cell both, and is no product."""
    value = thin(value)
    if not any(value.shape[d] > 1 for d in rows):
        return torch.ones((1,) * value.dim(), dtype=torch.float64, device=value.device), value
    cells = [d for d in range(value.dim()) if d not in rows]
    if all(value.shape[d] == 1 for d in cells):
        return value, torch.ones((1,) * value.dim(), dtype=torch.float64, device=value.device)
    first = int(value.abs().sum([d for d in range(value.dim()) if d in rows], keepdim=True).argmax())
    covariate = value.movedim(cells, list(range(len(cells)))).flatten(0, len(cells) - 1)[first]
    covariate = covariate.reshape([1 if d in cells else size for d, size in enumerate(value.shape)])
    row = covariate.abs().argmax()
    by_cell = value.movedim(cells, list(range(len(cells)))).flatten(len(cells))[..., row] / covariate.flatten()[row]
    multiplier = by_cell.reshape([size if d in cells else 1 for d, size in enumerate(value.shape)])
    return (covariate, multiplier) if torch.allclose(covariate * multiplier, value, ROUNDING, 0.0) else None


def thin(part: Tensor) -> Tensor:
    """Keep one of what is the same along a dimension."""
    for d in range(part.dim()):
        first = part.narrow(d, 0, 1)
        if part.shape[d] > 1 and torch.equal(part.narrow(d, -1, 1), first) and bool((part == first).all()):
            part = first
    return part


def _place(covariates: list[Tensor], column: Tensor) -> tuple[int, float]:
    """Where a covariate stands among those found so far, and its sign there; it is put behind them if it is new."""
    some = _some(column)
    for j, other in enumerate(covariates):
        if other.shape == column.shape:
            for sign in (1.0, -1.0):
                if torch.equal(sign * _some(other), some) and torch.equal(sign * other, column):
                    return j, sign
    covariates.append(column)
    return len(covariates) - 1, 1.0


def _some(column: Tensor) -> Tensor:
    """A few of its numbers: where they differ, the others need not be looked at."""
    return column.reshape(-1)[:: max(1, column.numel() // COMPARED)]


def _beside(covariates: Sequence[Tensor]) -> Tensor:
    """All covariates, each one's rows side by side in memory, as the last dimension."""
    return torch.stack(torch.broadcast_tensors(*covariates)).movedim(0, -1)


def _coefficients(
    affine: Affine, offset: tuple[int, Tensor], slots: Sequence[tuple[int, Tensor, Tensor]], count: int
) -> Affine:
    """One predictor for each covariate, over the slots that it multiplies."""
    cells = broadcast(offset[1].shape, *(t.shape for _, i, v in slots for t in (i, v)))
    each = [[(index, value) for k, index, value in slots if k == j] for j in range(count)]
    most = max(len(some) for some in each)
    index = torch.full((*cells, count, most), -1, device=affine.offset.device)
    value = torch.zeros((*cells, count, most), dtype=torch.float64, device=affine.offset.device)
    for j, some in enumerate(each):
        for s, (at, multiplier) in enumerate(some):
            index[..., j, s], value[..., j, s] = at, multiplier
    index, value = _packed(index, value)
    known = value.new_zeros((*cells, count))
    known[..., offset[0]] = offset[1]
    return replace(affine, offset=known, pieces=(Piece(index, value),))


def _packed(index: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Slots of every cell without those that it multiplies by zero: a class has none of the entries of others."""
    idle = (value == 0) | (index < 0)
    most = int((~idle).sum(-1).max())
    order = idle.to(torch.int8).argsort(dim=-1, stable=True)[..., : max(most, 1)]
    index, value = torch.where(idle, -1, index).gather(-1, order), torch.where(idle, 0.0, value).gather(-1, order)
    return index, value
