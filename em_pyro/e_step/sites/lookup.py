"""Features that are mostly zero, by index: look parameters up and add into sums, instead of multiplying with zeros.

An observed category is one natural parameter of its cell; a document is as many as it has different words. With the
entries `(n, j, t)` of the features that are not zero, `T_j(x_n) = t`, the two products of a site are

    log p(x_n | cell) = sum of t eta[cell, j]   and   S[cell, j] = sum of t W[cell, n]

over the entries of row `n`, and over those at place `j`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...program.named import align
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk, chunks_of, rows_of
from .product import InnerProduct
from .site_factor import SiteFactor

MANY = 12  # categories from which looking up is faster than a matrix product with zeros
RARE = 6  # features for each that is not zero from which a sparse product is


@dataclass(frozen=True)
class Table(InnerProduct):
    """One entry a row, and it is one: an observed category."""

    places: Tensor = field(default_factory=lambda: torch.zeros(0), repr=False)  # (columns...), `width` where masked
    together: bool = False

    def features(self, factor: SiteFactor, chunk: Chunk) -> Tensor:
        """Places of the rows of a chunk, flattened, shape `(1, columns)`."""
        places, columns = self.places, factor.layout.columns
        if chunk.plate in columns:
            places = places.narrow(columns.index(chunk.plate), chunk.start, chunk.length)
        return places.reshape(1, -1)

    def row(self, factor: SiteFactor) -> int:
        """The place."""
        return 1

    def densities(self, eta: Tensor, features: Tensor) -> Tensor:
        """The natural parameter at the place of every row; none where the value is masked."""
        table = pad(eta, (0, 1)).flatten(0, -2)
        found = table.gather(-1, features.expand(len(table), -1))
        return found.reshape((*eta.shape[:-1], -1))

    def statistics(self, weights: Tensor, features: Tensor, width: int) -> Tensor:
        """Weights added up by place."""
        flat = weights.flatten(0, -2)
        sums = flat.new_zeros((len(flat), width + 1))
        sums.scatter_add_(-1, features.expand(len(sums), -1), flat)
        return sums[:, :-1].reshape((*weights.shape[:-1], width))


@frozen
class Entries:
    """What is not zero in the features of a chunk, compressed by row and by place.

    Attributes:
        features: (columns, F).
        transposed: (F, columns).
    """

    features: Tensor = field(repr=False)
    transposed: Tensor = field(repr=False)

    @classmethod
    def of(cls, row: Tensor, place: Tensor, value: Tensor, shape: tuple[int, int]) -> Entries:
        """Compress entries, given in any order, each its row, its place and its value."""
        by_row, by_place = row.argsort(stable=True), place.argsort(stable=True)
        return cls(
            _compressed(row[by_row], place[by_row], value[by_row], shape),
            _compressed(place[by_place], row[by_place], value[by_place], (shape[1], shape[0])),
        )

    @property
    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, place and value of each."""
        starts, place = self.features.crow_indices().long(), self.features.col_indices().long()
        row = torch.arange(len(starts) - 1, device=place.device).repeat_interleave(starts.diff())
        return row, place, self.features.values()


def _compressed(row: Tensor, place: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse matrix of entries in the order of its rows."""
    starts = torch.bincount(row, minlength=shape[0]).cumsum(0)
    starts = torch.cat((starts.new_zeros(1), starts))
    with warnings.catch_warnings():  # torch says once that this layout may still change; its products are all we use
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        indices = starts.int(), place.int()
        return torch.sparse_csr_tensor(*indices, value, shape, dtype=torch.float64, check_invariants=True)


@dataclass(frozen=True)
class Sparse(InnerProduct):
    """Some entries a row: the words of a document, the answers to items of many categories each."""

    entries: float = 0.0  # a row, as far as was looked
    together: bool = False
    cache: dict[Chunk, Entries] = field(default_factory=dict, repr=False, compare=False)

    def features(self, factor: SiteFactor, chunk: Chunk) -> Entries:
        """The entries of a chunk; they are few, and kept."""
        key = chunk if chunk.plate in factor.data.plates else WHOLE
        if key not in self.cache:
            self.cache[key] = entries_of(factor, key)
        return self.cache[key]

    def row(self, factor: SiteFactor) -> int:
        """Place and value of the entries, by row and by place."""
        return 3 * ceil(self.entries)

    def beside(self, features: Sequence[Entries]) -> tuple[Entries, int]:
        """Rows beside rows."""
        starts = list(accumulate((len(part.features) for part in features), initial=0))
        every = [part.entries for part in features]
        row = torch.cat([row + start for (row, _, _), start in zip(every, starts, strict=False)])
        place, value = (torch.cat([part[k] for part in every]) for k in (1, 2))
        return Entries.of(row, place, value, (starts[-1], features[0].features.shape[1])), 3 * len(row)

    def densities(self, eta: Tensor, features: Any) -> Tensor:
        """Natural parameters at the places of the entries, added up by row."""
        return _product(features.features, eta)

    def statistics(self, weights: Tensor, features: Any, width: int) -> Tensor:
        """Weights of the rows of the entries, added up by place."""
        return _product(features.transposed, weights)


def _product(matrix: Tensor, rows: Tensor) -> Tensor:
    """`rows @ matrix'`, of a sparse matrix (M, N) and rows (..., N): (..., M)."""
    return torch.mm(matrix, rows.flatten(0, -2).mT).mT.reshape((*rows.shape[:-1], len(matrix)))


def table_of(factor: SiteFactor) -> Table | None:
    """Return the observations of a site as places in a table, if they can be and it pays."""
    data = factor.data
    if factor.role != "observed" or data.layout.batch or data.folded or data.event_shape or data.width < MANY:
        return None
    columns = data.layout.columns
    known = {key: part.tensor for key, part in data.known.items()}
    places = factor.family.codes(data.value.tensor, known)
    if places is None or set(data.value.names) - set(columns):
        return None
    shape = [data.sizes[n] for n in columns]
    places = align(places, data.value.names, columns).expand(shape)
    if data.weight is not None:
        weight = data.weight.align(columns).expand(shape)
        if not bool(((weight == 0) | (weight == 1)).all()):
            return None
        places = torch.where(weight == 0, data.width, places)
    return Table(places=places.contiguous())


def sparse_of(factor: SiteFactor) -> Sparse | None:
    """Return the features of a site by their entries, if they are mostly zero."""
    data = factor.data
    if factor.role != "observed" or data.layout.batch or data.shift is not None or data.width < MANY:
        return None
    first = _cut(factor, WHOLE)[0]
    features = data.empty(first)
    data.write(first, features)
    entries, columns = int(features.count_nonzero()), features.shape[-1]
    return Sparse(entries=entries / columns) if entries * RARE <= features.numel() else None


def entries_of(factor: SiteFactor, chunk: Chunk) -> Entries:
    """Find what is not zero in the features of a chunk."""
    data, columns = factor.data, factor.layout.columns
    shape = [chunk.size(n, data.sizes[n]) for n in columns]
    place_of_row = torch.arange(prod(shape), device=data.value.tensor.device).view(shape)
    rows, places, values = [], [], []
    for part in _cut(factor, chunk):
        features = data.empty(part)
        data.write(part, features)
        column, place = features.mT.nonzero(as_tuple=True)
        here = place_of_row
        if part.plate in columns:
            here = here.narrow(columns.index(part.plate), part.start - chunk.start, part.length)
        rows.append(here.reshape(-1)[column])
        places.append(place)
        values.append(features[place, column])
    return Entries.of(torch.cat(rows), torch.cat(places), torch.cat(values), (prod(shape), data.width))


def _cut(factor: SiteFactor, chunk: Chunk) -> list[Chunk]:
    """A chunk in pieces of which the features with all their zeros may be written down."""
    data = factor.data
    plates = [n for n in data.layout.columns if chunk.plate in (None, n)]
    plate = max(plates, key=lambda n: data.sizes[n], default=None)
    if plate is None:
        return [chunk]
    size = chunk.size(plate, data.sizes[plate])
    beside = prod(data.sizes[n] for n in data.layout.columns if n != plate)
    parts = chunks_of(plate, size, rows_of(data.width * beside))
    return [chunk if part == WHOLE else Chunk(plate, chunk.start + part.start, part.length) for part in parts]
