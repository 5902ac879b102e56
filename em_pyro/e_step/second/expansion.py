"""A site's share of `Q` to second order: what batches and processes keep of rows that are gone when `Q` is climbed.

    Q_s(theta) = value + slope' d + d' curvature d / 2 + ...,   d = theta - around

in coordinates of the parameters. Its three parts are sums over rows, so they add as expected statistics do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ...families import Family
from ...families.base import Role
from ...program.named import Batch
from ..sums import Sums

PARTS = 3  # value, slope and curvature: what comes after them are statistics summed over rows


class Quadratic(Family):
    """How an expansion moves to another centre: without an error, as a function of second degree does."""

    roles: ClassVar[Mapping[str, Role]] = {}

    def shifted(self, statistics: tuple[Tensor, ...], by: Tensor) -> tuple[Tensor, ...]:
        """Return the parts around a point that lies `by`, shape `(starts, E)`, further on."""
        value, slope, curvature, *rest = statistics
        pull = (curvature @ by.unsqueeze(-1)).squeeze(-1)
        return value + ((slope + pull / 2) * by).sum(-1), slope + pull, curvature, *rest


QUADRATIC = Quadratic()


def expansion(
    sums: Sums, parts: tuple[Tensor, Tensor, Tensor], around: Tensor, coordinates: Callable[[Batch], Tensor]
) -> Sums:
    """Return an expansion in place of statistics that are kept by row.

    Args:
        sums: these statistics.
        parts: value `(starts)`, slope `(starts, E)` and curvature `(starts, E, E)`.
        around: the coordinates there, `(starts, E)`.
        coordinates: of any parameters.
    """
    axis, counts = sums.axis, sums.parts
    if sums.family.solver == "rows":  # weights of the rows of a cell: together, as of a single row
        axis = None if axis == counts[0].dim() - 1 else axis
        counts = tuple(part.sum(-1, keepdim=True) for part in counts)
    elif sums.kept is not None and axis is None:
        counts = ()
    if axis is not None:
        counts = tuple(part.sum(axis) for part in counts)
    return Sums(sums.site, QUADRATIC, (*parts, *counts), around, axis=axis, coordinates=coordinates)


def counted(sums: Sums, cells: tuple[int, ...]) -> Sums:
    """Return statistics of every cell, of an expansion those summed over rows: as much in each as in all of them."""
    if sums.coordinates is None:
        return sums
    parts = list[Tensor]()
    for part in sums.parts[PARTS:]:
        each = part if sums.axis is None else part.unsqueeze(sums.axis)
        parts.append(each.expand((len(each), *cells, *each.shape[1 + len(cells) :])))
    return replace(sums, parts=tuple(parts), around=None, axis=None, coordinates=None)


def share(sums: Sums, batch: Batch) -> Tensor:
    """Return the share of `Q` by an expansion, differentiable: shape `(starts, 1)`."""
    assert sums.coordinates is not None
    assert sums.around is not None
    by = torch.where(torch.isfinite(sums.around), sums.coordinates(batch) - sums.around, 0.0)
    return sums.family.shifted(sums.parts, by)[0].unsqueeze(-1)
