"""Families without finite sufficient statistics: their maximum is found over the weighted rows themselves.

A table like any other, so that the engine need not know: the statistic is the row, and `log_prob` and `solve_rows`
stand in for `natural` and `solve`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..program.named import broadcast
from .base import Args, Family


class RowFamily(Family):
    """A family whose `Q` is a sum over rows. Subclass it, fill in the table, and write these two."""

    summed = "for every row whether it is that one: the sums are the weights of all rows"
    solver = "rows"

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        """The value: what distinguishes one row from another."""
        return (value.double(),)

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        """Log-density, differentiable in `args`, which hold the known arguments too.

        Roles of domain "unit" arrive as logarithms, as for `Family.natural`.
        """
        raise NotImplementedError

    def weighed(self, value: Tensor, weights: Tensor, args: Args) -> Tensor:
        """Return `sum_r weights_r log_prob(value_r)` of every cell, differentiable twice where `log_prob` is.

        Args:
            value: rows, shape `(cells, rows)` + event, finite also where the weight is zero.
            weights: shape `(cells, rows)`.
            args: arguments, shape `(cells, 1)`; known ones `(cells, rows)`.
        """
        return torch.where(weights != 0, self.log_prob(value, args) * weights, 0.0).sum(-1)

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Maximise `sum_r weights_r log_prob(value_r)` over the `free` roles.

        Args:
            value: rows of every cell, shape `(cells, rows)` + event; finite also where the weight is zero.
            weights: their posterior weights, shape `(cells, rows)`.
            args: current arguments in the user's units, shape `(cells,)`; known ones `(cells, rows)`.
            free: roles to solve for.

        Returns:
            The free roles, shape `(cells,)`. A cell with no solution keeps its current value. Raise
            `NotImplementedError` where there is no solution for this set of roles.
        """
        raise NotImplementedError


def mean(value: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the rows; zero where there is no weight."""
    total = weights.sum(-1)
    return (weights * value).sum(-1) / torch.where(total > 0, total, 1.0)


# ---- counts ----------------------------------------------------------------------------------------------------------


def largest(value: Tensor, rows: int) -> int:
    """Return the largest of some counts, if there are fewer numbers up to it than rows; -1 if not, or if not whole."""
    most = float(value.max()) if value.numel() else 0.0
    return int(most) if most < rows and bool(((value >= 0) & (value == value.floor())).all()) else -1


def tallied(counts: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values that counts take, `(V,)`, and the weight of each, `(cells, ..., V)`.

    Where these are not fewer than the rows of a cell, as where each row is a cell of its own, rows stay what they are.

    Args:
        counts: shape `(cells, ..., rows)`.
        weights: the two broadcast.
    """
    counts, weights = torch.broadcast_tensors(counts, weights)
    most = largest(counts, counts.shape[-1])
    if most >= 0:
        values, at = torch.arange(most + 1).to(counts), counts.long()
    else:
        values, at = counts.unique(return_inverse=True)
        if len(values) >= counts.shape[-1]:
            return counts, weights
    found = counts.new_zeros((*counts.shape[:-1], len(values)))
    return values, found.scatter_add_(-1, at, weights)


def looked_up(counts: Tensor, formula: Callable[[Tensor], Tensor]) -> Tensor:
    """Evaluate a formula once for every number up to the largest count, and look the counts up.

    Args:
        counts: shape `(..., rows)`.
        formula: of counts `(rows,)`, whose value may have more dimensions before them.
    """
    most = largest(counts, counts.shape[-1])
    if most < 0:
        return formula(counts)
    table = formula(torch.arange(most + 1).to(counts))
    shape = broadcast(table.shape[:-1], counts.shape[:-1])
    at = counts.long().expand((*shape, counts.shape[-1]))
    return table.expand((*shape, most + 1)).gather(-1, at)


class CountFamily(RowFamily):
    """A `RowFamily` of counts without known arguments: rows enter by how often each number was counted."""

    def log_mass(self, value: Tensor, args: Args) -> Tensor:
        """Return what `log_prob` does, elementwise."""
        raise NotImplementedError

    def solve_counts(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """As `solve_rows`, of numbers that are counted once each."""
        raise NotImplementedError

    def log_prob(self, value: Tensor, args: Args) -> Tensor:
        return looked_up(value, lambda numbers: self.log_mass(numbers, args))

    def weighed(self, value: Tensor, weights: Tensor, args: Args) -> Tensor:
        numbers, each = tallied(value, weights)
        return torch.where(each != 0, self.log_mass(numbers, args) * each, 0.0).sum(-1)

    def solve_rows(self, value: Tensor, weights: Tensor, args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        numbers, each = tallied(value, weights)
        return self.solve_counts(numbers.expand(each.shape), each, args, free)
