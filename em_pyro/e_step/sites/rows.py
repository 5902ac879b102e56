"""Sites whose family has no finite sufficient statistics: the statistics are the weights of the rows themselves.

With `T(x)` the indicator of a row, every family is exponential: its natural parameters are the log-densities of all
rows, its expected statistics the posterior weights. There is no matrix product then, rows are not taken in chunks, and
`K x N` numbers are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import ClassVar, cast

import torch
from torch import Tensor

from ...families import RowFamily
from ...program.named import Params, align, broadcast
from ...reading.bound import Bound
from ..chunks import WHOLE, Chunk
from ..sums import Sums
from .natural import Natural
from .site_data import SiteData
from .site_factor import SiteFactor

BLOCK = 65_536  # log-densities at a time: what a formula makes on its way stays small


@dataclass(frozen=True)
class ByRow:
    """The form of a site that is kept row by row; its data are laid out as cells + events + (rows of a cell,).

    Natural parameters and statistics: (starts) + cells + events + (rows of a cell,).
    """

    data: SiteData = field(repr=False)
    cells: tuple[str, ...]
    cell_shape: tuple[int, ...]
    plate: str | None = None  # whose rows stand outermost, so that others can stand beside them
    together: bool = False

    alike: ClassVar[bool] = False
    common: ClassVar[bool] = True
    in_product: ClassVar[bool] = False

    # ---- as every form ----

    def events(self, factor: SiteFactor) -> tuple[tuple[int, ...], ...]:
        """The weights of all rows."""
        return ((self.count,),)

    def lines(self, factor: SiteFactor) -> None:
        """There are no covariates."""

    def natural_of(self, factor: SiteFactor, args: Params) -> tuple[Tensor, ...]:
        """Log-densities of all rows."""
        return (self.of_rows(args),)

    def natural(self, factor: SiteFactor, bound: Bound, about: Bound | None) -> Natural:
        """Log-densities of all rows in all cells, times their masks."""
        log_prob = self.of_rows(factor.arguments(bound))
        if self.weight is not None:
            log_prob = torch.where(self.weight == 0, 0.0, log_prob * self.weight)
        shape = (bound.starts, *self.cell_shape, *self.data.event_shape, self.count)
        return Natural(log_prob.expand(broadcast(log_prob.shape, shape)))

    def digits(self, factor: SiteFactor, bound: Bound, near: Bound) -> Tensor | None:
        """Rows are kept as they are."""
        return None

    def by_features(self, factor: SiteFactor) -> None:
        """There are none: every row has a density of its own."""
        return

    def of_rows(self, args: Params) -> Tensor:
        """Log-densities of all rows in all cells, from arguments of the cells."""
        family, rows = cast(RowFamily, self.data.family), self._beside_rows(args)
        wide = max((part.numel() for part in rows.values()), default=1)
        if torch.is_grad_enabled() or wide * self.count <= BLOCK:
            return family.log_prob(self.value, {**self.known, **rows})
        size, axis = max(1, BLOCK // wide), self.value.dim() - 1 - family.event_dim
        names, known = tuple(self.known), (part.split(size, -1) for part in self.known.values())
        blocks = zip(self.value.split(size, axis), *known, strict=True)
        return torch.cat([family.log_prob(x, {**dict(zip(names, of, strict=True)), **rows}) for x, *of in blocks], -1)

    def _beside_rows(self, args: Params) -> Params:
        """Arguments of the cells, one for all rows of a cell."""
        roles = self.data.family.roles
        return {key: part.unsqueeze(-1 - roles[key].event_dim if key in roles else -1) for key, part in args.items()}

    def features(self, factor: SiteFactor, chunk: Chunk) -> Tensor:
        """The values, by which rows are told apart; the products have no use for them."""
        return factor.data.features(WHOLE)

    def row(self, factor: SiteFactor) -> int:
        """The value."""
        return factor.data.width

    def beside(self, features: Sequence[Tensor]) -> tuple[Tensor, int]:
        """Values beside values."""
        made = torch.cat(tuple(features), -1)
        return made, made.numel()

    def densities(self, eta: Tensor, features: Tensor) -> Tensor:
        """The natural parameters of a row are its log-densities."""
        return eta

    def statistics(self, weights: Tensor, features: Tensor, width: int) -> Tensor:
        """The statistics of a row are its weights."""
        return weights

    def log_density(self, factor: SiteFactor, natural: Natural, features: Tensor, chunk: Chunk) -> Tensor:
        """Log-density of every row, in the order of the factor's names: events and folded plates are summed."""
        assert chunk == WHOLE
        events = len(self.data.event_shape)
        have = (*self.cells, *(f"event {i}" for i in range(events)), *self.others)
        sizes = (*self.cell_shape, *self.data.event_shape, *(self.data.sizes[n] for n in self.others))
        extra = tuple(n for n in have if n not in factor.names)
        laid_out = align(natural.eta.reshape((-1, *sizes)), have, (*factor.names, *extra))
        return laid_out.sum(tuple(range(-len(extra), 0))) if extra else laid_out

    def weighted(
        self, factor: SiteFactor, weights: Tensor, natural: Natural | None, features: Tensor, chunk: Chunk
    ) -> Tensor:
        """Posterior weights of all rows in all cells."""
        return self._laid_out(weights, factor.names, 0, every=True).clone()

    def finish(self, factor: SiteFactor, found: Tensor, natural: Natural | None) -> Sums:
        """The weights, times the masks."""
        part = found if self.weight is None else found * self.weight
        first = factor.kept not in self.others[1:]  # outermost, or a single row, which has no dimension
        axis = None if factor.kept is None else part.dim() - 1 if first else None
        if factor.kept in self.cells:
            axis = 1 + self.cells.index(str(factor.kept))
        return Sums(factor.name, factor.family, (part,), None, factor.kept, axis)

    def inner(self, factor: SiteFactor, bound: Bound, sums: Sums) -> Tensor:
        """Log-densities times weights, summed where a slope is wanted; the masks are in the weights."""
        args, (weights,) = factor.arguments(bound), sums.parts
        if torch.is_grad_enabled():
            rows = {**self.known, **self._beside_rows(args)}
            found = cast(RowFamily, self.data.family).weighed(self.value, weights, rows)
            return found.reshape((max(bound.starts, len(weights)), -1))
        return torch.where(weights != 0, self.of_rows(args) * weights, 0.0).flatten(1)

    # ---- the data ----

    @cached_property
    def others(self) -> tuple[str, ...]:
        """Named dimensions of the rows of one cell."""
        layout = self.data.layout
        every = (*layout.columns, *self.data.folded)
        found = [n for n in self.data.sizes if n in every and n not in self.cells]
        return tuple(sorted(found, key=lambda name: name != self.plate))

    @cached_property
    def count(self) -> int:
        """Rows of one cell."""
        return prod(self.data.sizes[n] for n in self.others)

    @cached_property
    def value(self) -> Tensor:
        """Values; where the mask is zero, some other valid value."""
        event = self.data.family.event_dim
        value = self._laid_out(self.data.value.tensor.double(), self.data.value.names, event)
        if self.weight is None:
            return value
        seen, value = torch.broadcast_tensors(self.weight.reshape((*self.weight.shape, *(1,) * event)), value)
        flat = value.flatten(0, -1 - event)
        first = int((seen.flatten(0, -1 - event) != 0).reshape(len(flat), -1).all(-1).double().argmax())
        return torch.where(seen != 0, value, flat[first])

    @cached_property
    def known(self) -> dict[str, Tensor]:
        """Known arguments."""
        known = self.data.known.items()
        return {key: self._laid_out(part.tensor.double(), part.names, 0) for key, part in known}

    @cached_property
    def weight(self) -> Tensor | None:
        """Masks and exponents."""
        weight = self.data.weight
        return None if weight is None else self._laid_out(weight.tensor.double(), weight.names, 0)

    def _laid_out(self, part: Tensor, names: Sequence[str], event: int, *, every: bool = False) -> Tensor:
        """Lay a tensor (starts) + names + events + event out; cells keep size one unless `every` is needed."""
        rank = len(self.data.event_shape)
        if every:  # a weight: it has no events
            part = part.reshape((*part.shape, *(1,) * rank))
        elif part.dim() - len(names) < rank + event:
            missing = rank + event - (part.dim() - len(names))
            part = part.reshape((*part.shape[: len(names)], *(1,) * missing, *part.shape[len(names) :]))
        starts = part.dim() - len(names) - rank - event
        at, other = starts + len(self.cells), len(self.others)
        part = align(part, names, (*self.cells, *self.others), rank + event)
        events = range(at + other, at + other + rank)
        part = part.permute((*range(at), *events, *range(at, at + other), *range(at + other + rank, part.dim())))
        cells = (*self.cell_shape, *self.data.event_shape) if every else part.shape[starts : at + rank]
        tail = part.shape[part.dim() - event :]
        part = part.expand((*part.shape[:starts], *cells, *(self.data.sizes[n] for n in self.others), *tail))
        return part.reshape((*part.shape[: at + rank], self.count, *tail))


def by_row(factor: SiteFactor, plate: str | None) -> SiteFactor:
    """Return the same site, kept row by row, those of a plate outermost."""
    data = replace(factor.data, shift=None, cache={})
    return replace(factor, data=data, form=ByRow(data, factor.cells, factor.cell_shape, plate))
