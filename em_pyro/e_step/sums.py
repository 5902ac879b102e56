"""Expected sufficient statistics as values that add, wherever the rows that they stand for lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..families import Family


@dataclass(frozen=True)
class Sums:
    """Expected statistics of one site, `S_c = sum_n W_cn T(x_n - around_c)` for every cell `c`.

    Attributes:
        family: of the site; it knows how its statistics move to another centre.
        parts: one tensor for each statistic of the family, (starts) + cells + events + event of the statistic.
        around: what was subtracted from the values of every cell, (starts) + cells + events + event of the location;
            None for families without a location, and where nothing was.
        rows: the plate whose rows stand side by side in `parts`, because the cells differ by row or the family needs
            all rows at once; None where all rows are summed.
        axis: the dimension of that plate, counted from the left.
    """

    family: Family
    parts: tuple[Tensor, ...] = field(repr=False)
    around: Tensor | None = field(default=None, repr=False)
    rows: str | None = None
    axis: int = 0

    def __add__(self, other: Sums) -> Sums:
        """Add the statistics of other rows: moved to one centre first, or side by side where they are kept by row."""
        if self.rows is not None:
            return replace(self, parts=_beside(self.parts, other.parts, self.axis), around=self._arounds(other))
        if self.around is not None and other.around is not self.around:
            other = other.about(self.around)
        return replace(self, parts=tuple(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    def about(self, centre: Tensor) -> Sums:
        """The same statistics of values less `centre`."""
        assert self.around is not None
        return replace(self, parts=self.family.shifted(self.parts, centre - self.around), around=centre)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Sums:
        """The same with every tensor changed: some of the starts, say."""
        around = None if self.around is None else change(self.around)
        return replace(self, parts=tuple(change(part) for part in self.parts), around=around)

    def _arounds(self, other: Sums) -> Tensor | None:
        if self.around is None or other.around is None:
            return None
        return torch.cat([self.around, other.around], self.axis)


def _beside(mine: tuple[Tensor, ...], others: tuple[Tensor, ...], axis: int) -> tuple[Any, ...]:
    return tuple(torch.cat(pair, axis) for pair in zip(mine, others, strict=True))
