"""Expected sufficient statistics as values that add, wherever the rows that they stand for lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace

import torch
from torch import Tensor

from ..errors import PlanError
from ..families import Family
from ..program.named import Batch
from ..records.frozen import frozen


@frozen
class Sums:
    """Expected statistics of one site, `S_c = sum_n W_cn T(x_n - around_c)` for every cell `c`.

    Attributes:
        site: its name.
        family: which knows how its statistics move to another centre.
        parts: one tensor for each statistic of the family, (starts) + cells + events + event of the statistic. A family
            that needs all rows at once has one, the weights: (starts) + cells + events + (rows,).
        around: what was subtracted from the values of every cell, (starts) + cells + events + event of the location;
            None for families without one.
        kept: the plate whose rows stand side by side in `parts`, because cells differ by row or the family needs all
            rows at once; None where rows are summed.
        axis: the dimension of that plate; None where its rows lie among those of others, and cannot be told apart.
        coordinates: of parameters, if `parts` are those of an expansion in them (`second/expansion.py`).
    """

    site: str
    family: Family = field(repr=False)
    parts: tuple[Tensor, ...] = field(repr=False)
    around: Tensor | None = field(default=None, repr=False)
    kept: str | None = None
    axis: int | None = None
    coordinates: Callable[[Batch], Tensor] | None = field(default=None, repr=False)

    def __add__(self, other: Sums) -> Sums:
        """Add the statistics of other rows: moved to one centre first, or side by side where they are kept by row.

        Raises:
            PlanError: rows are kept in one part alone, or in an order that does not allow for others beside them.
        """
        if self.kept != other.kept:
            plate = self.kept or other.kept
            raise PlanError(
                f'Site "{self.site}": expected arguments that differ by row of plate "{plate}" in both parts or in '
                f"none, got one part in which they are the same in all rows. Split the rows elsewhere."
            )
        if self.kept is not None:
            return self._beside(other)
        if self.around is not None and other.around is not None and other.around is not self.around:
            other = other.about(self.around)
        axis = other.axis if self.axis is None else self.axis  # of an expansion: a single row does not tell it
        return replace(self, parts=tuple(a + b for a, b in zip(self.parts, other.parts, strict=True)), axis=axis)

    def about(self, centre: Tensor) -> Sums:
        """The same statistics of values less `centre`."""
        assert self.around is not None
        return replace(self, parts=self.family.shifted(self.parts, centre - self.around), around=centre)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Sums:
        """The same with every tensor changed: some of the starts, say."""
        around = None if self.around is None else change(self.around)
        return replace(self, parts=tuple(change(part) for part in self.parts), around=around)

    def scaled(self, by: float) -> Sums:
        """The statistics of rows each of which counts `by` times as much."""
        return replace(self, parts=tuple(by * part for part in self.parts))

    def _beside(self, other: Sums) -> Sums:
        """Join weights that are kept by row, those of the other rows behind these."""
        if self.axis is None:
            raise PlanError(
                f'Site "{self.site}": expected statistics that add up over rows of plate "{self.kept}", got weights of '
                f"rows among those of other plates. Pass all rows at once."
            )
        axis = self.axis
        parts = tuple(torch.cat(pair, axis) for pair in zip(self.parts, other.parts, strict=True))
        if self.around is None or other.around is None:
            return replace(self, parts=parts)
        return replace(self, parts=parts, around=torch.cat([self.around, other.around], axis))
