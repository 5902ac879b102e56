"""Sites whose family has no finite sufficient statistics: the statistics are the weights of the rows themselves.

With `T(x)` the indicator of a row, every family is exponential: its natural parameters are the log-densities of all
rows, its expected statistics the posterior weights. A `RowTerm` is therefore a `Term` to the engine, without matrix
products. Rows are not taken in blocks, and `K x N` numbers are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...families import RowFamily
from ...program.named import Params, align, broadcast
from ...reading.bound import Bound
from .site_factor import WHOLE, Block, Room, Term

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class RowTerm(Term):
    """A site of a `RowFamily`. Natural parameters and statistics: (starts) + cells + events + (rows of a cell,)."""

    def natural(self, bound: Bound, centre: Tensor | None = None) -> Tensor:
        """Log-densities of all rows in all cells, times their masks."""
        log_prob = self.log_density(self.arguments(bound))
        if self.rows_of_weight is not None:
            log_prob = torch.where(self.rows_of_weight == 0, 0.0, log_prob * self.rows_of_weight)
        shape = (*self.cell_shape, *self.event_shape, self.count)
        return log_prob.expand(broadcast(log_prob.shape, shape))

    def log_density(self, args: Params) -> Tensor:
        """Log-densities of all rows in all cells, from arguments of the cells."""
        assert isinstance(self.family, RowFamily)
        rows = {key: value.unsqueeze(-1) for key, value in args.items()}
        return self.family.log_prob(self.rows_of_value, {**self.rows_of_known, **rows})

    def features(self, block: Block = WHOLE, room: Room | None = None) -> Tensor:
        """The values, by which rows are told apart; the products have no use for them."""
        return super().features(WHOLE)

    def factor(self, natural: Tensor, features: Tensor, block: Block = WHOLE, lead: int = 0) -> Tensor:
        """Log-density of every row, in the order of `names`: events and folded plates are summed."""
        assert block == WHOLE
        have = (*self.cells, *(f"event {i}" for i in range(len(self.event_shape))), *self.others)
        sizes = (*self.cell_shape, *self.event_shape, *(self.sizes[n] for n in self.others))
        extra = tuple(n for n in have if n not in self.names)
        laid_out = align(natural.reshape((*natural.shape[:lead], *sizes)), have, (*self.names, *extra))
        return laid_out.sum(tuple(range(-len(extra), 0))) if extra else laid_out

    def statistics(self, weights: Tensor, features: Tensor, lead: int = 0) -> Tensor:
        """Posterior weights of all rows in all cells."""
        return self._rowwise(weights, self.names, 0, every=True).clone()

    def split(self, statistics: Tensor, lead: int = 0) -> tuple[Tensor, ...]:
        """The weights, times the masks."""
        weight = self.rows_of_weight
        return (statistics if weight is None else statistics * weight,)

    # ---- the data, laid out as cells + events + (rows,) ----

    @cached_property
    def others(self) -> tuple[str, ...]:
        """Named dimensions of the rows of one cell."""
        return tuple(n for n in self.columns if n not in self.cells)

    @cached_property
    def count(self) -> int:
        """Rows of one cell."""
        return prod(self.sizes[n] for n in self.others)

    @cached_property
    def rows_of_value(self) -> Tensor:
        """Values; where the mask is zero, some other valid value."""
        value = self._rowwise(self.value.tensor.double(), self.value.names, self.family.event_dim)
        if self.rows_of_weight is None:
            return value
        event = self.family.event_dim
        seen, value = torch.broadcast_tensors(
            self.rows_of_weight.reshape((*self.rows_of_weight.shape, *(1,) * event)), value
        )
        flat = value.flatten(0, -1 - event)
        first = int((seen.flatten(0, -1 - event) != 0).reshape(len(flat), -1).all(-1).double().argmax())
        return torch.where(seen != 0, value, flat[first])

    @cached_property
    def rows_of_known(self) -> dict[str, Tensor]:
        """Known arguments."""
        return {key: self._rowwise(part.tensor.double(), part.names, 0) for key, part in self.known.items()}

    @cached_property
    def rows_of_weight(self) -> Tensor | None:
        """Masks and exponents."""
        return None if self.weight is None else self._rowwise(self.weight.tensor.double(), self.weight.names, 0)

    def _rowwise(self, part: Tensor, names: Sequence[str], event: int, *, every: bool = False) -> Tensor:
        """Lay a tensor (starts) + names + events + event out; cells keep size one unless `every` is needed."""
        rank = len(self.event_shape)
        if every:  # a weight: it has no events
            part = part.reshape((*part.shape, *(1,) * rank))
        elif part.dim() - len(names) < rank + event:
            missing = rank + event - (part.dim() - len(names))
            part = part.reshape((*part.shape[: len(names)], *(1,) * missing, *part.shape[len(names) :]))
        lead = part.dim() - len(names) - rank - event
        at, other = lead + len(self.cells), len(self.others)
        part = align(part, names, (*self.cells, *self.others), rank + event)
        part = part.permute(
            (
                *range(at),
                *range(at + other, at + other + rank),
                *range(at, at + other),
                *range(at + other + rank, part.dim()),
            )
        )
        cells = (*self.cell_shape, *self.event_shape) if every else part.shape[lead : at + rank]
        tail = part.shape[part.dim() - event :]
        part = part.expand((*part.shape[:lead], *cells, *(self.sizes[n] for n in self.others), *tail))
        return part.reshape((*part.shape[: at + rank], self.count, *tail))


def row_term(term: Term) -> RowTerm:
    """The same site, kept row by row."""
    plain = replace(term, shift=None)
    return RowTerm(**{f.name: getattr(plain, f.name) for f in fields(Term)})
