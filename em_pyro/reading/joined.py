"""Normal equations of few cells, each of which has a vector of predictors: where their numbers go is found once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field
from functools import cached_property

import torch
from torch import Tensor

from ..records.frozen import frozen
from .predictor import Affine


@frozen
class BlockDiagonal:
    """A matrix over entries of which sets meet no others: the blocks of the sets, laid out flat one behind the other.

    Attributes:
        sets: entries of every set, (sets, entries of each), those of a size together.
        size: number of entries.
    """

    sets: tuple[Tensor, ...] = field(repr=False)
    size: int

    @classmethod
    def of(cls, sets: Iterable[Sequence[int]], size: int) -> BlockDiagonal:
        """Sort the sets by their sizes; each entry is in one."""
        by_length: dict[int, list[Sequence[int]]] = {}
        for some in sets:
            by_length.setdefault(len(some), []).append(some)
        return cls(tuple(torch.tensor(some) for _, some in sorted(by_length.items())), size)

    @classmethod
    def whole(cls, size: int) -> BlockDiagonal:
        """Every entry may meet every other."""
        return cls((torch.arange(size).unsqueeze(0),), size)

    @cached_property
    def lengths(self) -> list[int]:
        """Numbers in all blocks of each size."""
        return [sets.numel() * sets.shape[1] for sets in self.sets]

    @cached_property
    def count(self) -> int:
        """Numbers in all blocks."""
        return sum(self.lengths)

    @cached_property
    def _first(self) -> Tensor:
        """Where the row of every entry begins; behind them, where nothing stands."""
        found, at = torch.full((self.size + 1,), self.count), 0
        for sets, length in zip(self.sets, self.lengths, strict=True):
            found[sets] = at + torch.arange(sets.numel()).reshape(sets.shape) * sets.shape[1]
            at += length
        return found

    @cached_property
    def _column(self) -> Tensor:
        """How far behind that the column of every entry is."""
        found = torch.full((self.size + 1,), self.count)
        for sets in self.sets:
            found[sets] = torch.arange(sets.shape[1]).expand(sets.shape)
        return found

    def places(self, first: Tensor, second: Tensor) -> Tensor:
        """Where products of entries (..., m) with entries (..., n) stand, (..., m, n); `size` is no entry."""
        return (self._first[first].unsqueeze(-1) + self._column[second].unsqueeze(-2)).clamp(max=self.count)

    @cached_property
    def diagonal(self) -> Tensor:
        """Where the product of every entry with itself stands."""
        return (self._first + self._column)[: self.size]

    def blocks(self, flat: Tensor) -> list[Tensor]:
        """Cut what lies flat, (S, count), into the blocks of the sets of each size, (S, sets, n, n)."""
        parts = flat.split(self.lengths, -1)
        return [part.unflatten(-1, (*sets.shape, sets.shape[1])) for part, sets in zip(parts, self.sets, strict=True)]

    def taken(self, matrix: Tensor) -> Tensor:
        """Lay the blocks of whole matrices (S, size, size) out flat."""
        parts = [matrix[:, sets.unsqueeze(-1), sets.unsqueeze(-2)] for sets in self.sets]
        return torch.cat([part.flatten(1) for part in parts], -1)


@frozen
class Joined:
    """`design' @ weight @ design` and `design' @ slope` of one design.

    Attributes:
        form: of the matrix.
        right: the entry of every slot of every predictor, flat; `size` is none.
        matrix: where the product of every two of a cell stands, flat.
        value: what multiplies each entry, (cells, J, slots); None is one.
    """

    form: BlockDiagonal
    right: Tensor = field(repr=False)
    matrix: Tensor = field(repr=False)
    value: Tensor | None = field(repr=False)

    @classmethod
    def of(cls, design: Affine, form: BlockDiagonal) -> Joined:
        """Find the places.

        Args:
            design: of one piece; its offset has all dimensions of the cells, and of the J predictors.
            form: of the matrix.
        """
        (piece,), (*cells, J) = design.pieces, design.offset.shape
        index, value = (
            part.expand((*cells, J, part.shape[-1])).reshape((-1, J, part.shape[-1]))
            for part in (piece.index % (form.size + 1), piece.value)
        )
        every = index.flatten(1)
        places = form.places(every, every)
        return cls(form, index.reshape(-1), places.reshape(-1), None if bool((value == 1).all()) else value)

    def __call__(self, slope: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Add up.

        Args:
            slope: (starts, cells, J).
            weight: (starts, cells, J, J).

        Returns:
            The blocks of the matrix, flat, (starts, count), and the right side, (starts, size).
        """
        starts, slots = len(slope), len(self.right) // slope[0].numel()
        if self.value is not None:
            slope, value = slope.unsqueeze(-1) * self.value, self.value.flatten(1)
            weight = weight.repeat_interleave(slots, -1).repeat_interleave(slots, -2) if slots > 1 else weight
            weight = weight * value.unsqueeze(-1) * value.unsqueeze(-2)
        elif slots > 1:
            slope = slope.unsqueeze(-1).expand((*slope.shape, slots))
            weight = weight.repeat_interleave(slots, -1).repeat_interleave(slots, -2)
        right = slope.new_zeros((starts, self.form.size + 1))
        right.index_add_(1, self.right, slope.reshape((starts, -1)))
        matrix = slope.new_zeros((starts, self.form.count + 1))
        matrix.index_add_(1, self.matrix, weight.reshape((starts, -1)))
        return matrix[:, :-1], right[:, :-1]


def joined(design: Affine, slope: Tensor, weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the same with a whole matrix, (starts, size, size)."""
    matrix, right = Joined.of(design, BlockDiagonal.whole(size))(slope, weight)
    return matrix.unflatten(-1, (size, size)), right
