"""Clusters far apart: a row is near few of them, and to all others its weight is an exact zero.

All cells are around their own locations here (`sites/centring.py`), so that deviations of all rows from all cells are
what an E-step costs. One centre for all is too coarse for the density of a cell that a row is near, and good enough to
see which these are: those within `FLOOR` of the nearest, and within the rounding of that product. A row that is near a
single cell belongs to it; its deviation from that one is all that is taken. Rows near several are taken with all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..several.bundle import Bundle, Side
from ..sites import centring
from ..sites.centring import EPS, Columns
from .softmax import FLOOR, posterior_weights

FEW = 1 << 14  # entries of a chunk, up to which taking cells one by one costs more than it saves


class Rows(NamedTuple):
    """Rows of a chunk that are taken with the same cells.

    Attributes:
        cells: among all starts and cells, flattened.
        rows: which of the chunk, `(n,)`; None is all of them.
    """

    cells: slice
    rows: Tensor | None


EVERY = Rows(slice(None), None)


class Taken(NamedTuple):
    """Of some rows: log evidence `(starts,)`, weight of every cell `(cells,)`, statistics of the sites (cells, F)."""

    log_evidence: Tensor
    counts: Tensor
    sums: dict[str, Tensor]


def split(eta: Tensor, log_prior: Tensor, features: Tensor, largest: Tensor, entries: int) -> list[Rows]:
    """Split the rows of a chunk by what they are near.

    Args:
        eta: natural parameters around one centre, (cells, F).
        log_prior: of the cells, `(cells,)`.
        features: of the chunk, (F, rows).
        largest: absolute value of each feature, `(F,)`.
        entries: of the value of a row.
    """
    length = features.shape[-1]
    if length * entries < FEW:
        return [EVERY]
    rough = torch.addmm(log_prior.unsqueeze(-1), eta, features)
    terms = (eta.abs() @ largest).amax()  # a product of F terms is off by at most F roundings of the sum of their sizes
    near = rough > rough.amax(0) + (FLOOR[torch.float64] - 2 * EPS * len(features) * terms)
    lone = near.sum(0) == 1
    several = _places(~lone)
    if 2 * len(several) > length:
        return [EVERY]
    if len(several):
        near &= lone
    places = _places(near.view(-1)).split(near.sum(-1).tolist())
    found = [Rows(slice(k, k + 1), at - k * length) for k, at in enumerate(places) if len(at)]
    return [*found, Rows(EVERY.cells, several)] if len(several) else found


def _places(mask: Tensor) -> Tensor:
    """Positions of what is true; NumPy finds them several times faster than torch."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.nonzero().squeeze(-1)


def shared(
    unit: Bundle,
    side: Side,
    columns: Sequence[Columns],
    log_prior: Tensor,
    scale: Tensor | None,
    parts: Sequence[Rows],
    starts: int,
) -> Iterator[tuple[slice, Taken]]:
    """Share the rows of a chunk out among the cells that they are taken with, part by part.

    Args:
        unit: of the rows.
        side: all cells.
        columns: of every site, values of the rows.
        log_prior: of the cells, `(cells,)`.
        scale: weight of each row.
        parts: the rows, and the cells that each is taken with.
        starts: whose cells these are.
    """
    for cells, rows in parts:
        here, values = side.of(cells), [_chosen(part, rows) for part in columns]
        share = scale if scale is None or rows is None else scale.index_select(0, rows)
        if cells == EVERY.cells:
            yield cells, _of_several(unit, here, values, log_prior, share, starts)
        else:
            yield cells, _of_one(unit, here, values, log_prior[cells], share)


def _of_several(
    unit: Bundle, side: Side, columns: Sequence[Columns], log_prior: Tensor, scale: Tensor | None, starts: int
) -> Taken:
    """Share rows out among all cells, by their posterior."""
    length = columns[0][0].shape[-1]
    logits = log_prior.unsqueeze(-1).expand(-1, length).contiguous()
    unit.add_own(side, logits, columns)
    weights = torch.empty_like(logits)
    pair = [part.view((starts, -1, length)) if starts > 1 else part for part in (logits, weights)]
    evidence = posterior_weights(pair[0], pair[1], scale).view(starts)
    return Taken(evidence, weights.sum(-1), unit.own_sums(side, weights, columns))


def _of_one(unit: Bundle, side: Side, columns: Sequence[Columns], log_prior: Tensor, scale: Tensor | None) -> Taken:
    """Give rows to a single cell."""
    length = columns[0][0].shape[-1]
    share = (log_prior.new_ones(1) if scale is None else scale).expand(1, length)
    density, sums = log_prior.unsqueeze(-1), {}
    for factor, part, values in zip(unit.sites, side.each, columns, strict=True):
        assert part.own is not None
        found, sums[factor.name] = centring.of_one(factor, part.own, values, share)
        density = density + found
    return Taken((density if scale is None else density * scale).sum(-1), share.sum(-1), sums)


def _chosen(columns: Columns, rows: Tensor | None) -> Columns:
    """Some rows of a site; `gather` is several times faster here than `index_select`."""
    if rows is None:
        return columns
    values, weight = columns
    picked = values.gather(-1, rows.expand(*values.shape[:-1], -1))
    return picked, None if weight is None else weight.gather(-1, rows.expand(*weight.shape[:-1], -1))
