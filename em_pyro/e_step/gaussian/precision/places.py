"""Where the numbers of a component's rows stand in its precision matrix, and in the inverse; and adding them up there.

A matrix is flat: a whole one row by row, a chain of blocks with those on the diagonal first and those below it behind
them. One place more is for what has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ....program.named import broadcast
from . import sequential

SMALL = 48  # latents up to which a whole matrix is as fast


def width_of(slots: Sequence[Tensor], k: int) -> int:
    """The smallest width of blocks in which latents that meet lie in one block or in neighbouring ones; 0 is none."""
    if k <= SMALL:
        return 0
    first, second = [torch.zeros(1, dtype=torch.long)], [torch.zeros(1, dtype=torch.long)]
    for part in slots:
        for f in range(part.shape[1]):
            both = (part >= 0) & (part[:, f : f + 1] >= 0)
            first.append(part[both])
            second.append(part[:, f : f + 1].expand_as(part)[both])
    a, b = torch.cat(first), torch.cat(second)
    reach = int((a - b).abs().max())
    for width in range(max(1, (reach + 1) // 2), min(reach, k // 8) + 1):
        if bool((((a // width) - (b // width)).abs() <= 1).all()):
            return width
    return 1 if reach == 0 else 0


def places_of(slots: Tensor, k: int, width: int) -> tuple[Tensor, int]:
    """Where the products of the slots of every row stand in a flat matrix, (c, f f), and how many places that has.

    What there is no place for, what stands above the diagonal of chains among it, goes to one behind them.
    """
    first, second = slots.unsqueeze(-1), slots.unsqueeze(-2)
    some = (first >= 0) & (second >= 0)
    if not width:
        return torch.where(some, first * k + second, k * k).flatten(-2), k * k
    blocks = -(-k // width)
    size = width * width
    i, j = first.clamp(min=0) // width, second.clamp(min=0) // width
    inner = first % width * width + second % width
    at = torch.where(i == j, i * size + inner, (blocks + j) * size + inner)
    total = (2 * blocks - 1) * size
    return torch.where(some & ((first >= second) & (i == j) | (i == j + 1)), at, total).flatten(-2), total


def spots_of(first: Tensor, second: Tensor, k: int, width: int) -> Tensor:
    """Where entries of a covariance matrix stand in a flat one, and where there is a zero behind it."""
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    if not width:
        return torch.where(low < 0, k * k, high * k + low)
    blocks, size = -(-k // width), width * width
    i, j = high.clamp(min=0) // width, low.clamp(min=0) // width
    inner = high % width * width + low % width
    at = torch.where(i == j, i * size + inner, (blocks + j) * size + inner)
    return torch.where((low < 0) | (i > j + 1), (2 * blocks - 1) * size, at)


@dataclass(frozen=True)
class Spots:
    """Where the covariances of the latents that rows take stand; that of two stands there once.

    Attributes:
        lower: of every row the pairs of slots on the diagonal and below it, (c, F).
        of_pairs: which of these a pair is, (f, f).
    """

    lower: Tensor = field(repr=False)
    of_pairs: Tensor = field(repr=False)

    @classmethod
    def of(cls, slots: Tensor, k: int, width: int) -> Spots:
        """Return those of the slots of rows, (c, f)."""
        f = slots.shape[1]
        i, j = torch.tril_indices(f, f)
        pairs = torch.zeros((f, f), dtype=torch.long)
        pairs[i, j] = pairs[j, i] = torch.arange(len(i))
        return cls(spots_of(slots[:, i], slots[:, j], k, width).contiguous(), pairs)

    @cached_property
    def every(self) -> Tensor:
        """Those of all pairs, (c, f, f)."""
        return self.lower[:, self.of_pairs]


def put(parts: Sequence[Tensor], places: Sequence[Tensor], size: int, method: str = "torch") -> Tensor:
    """Add up what rows have, in so many places.

    Args:
        parts: of every block, (..., c, F), c of size one where all rows have the same.
        places: of every block, (c, F).
        size: how many places there are.
        method: "numba" or "torch".
    """
    lead = broadcast(*(part.shape[:-2] for part in parts))
    found = parts[0].new_zeros((*lead, size + 1))
    for part, at in zip(parts, places, strict=True):
        if method == "numba":
            sequential.put(part, at, found)
        else:
            found.index_add_(-1, at.reshape(-1), part.expand((*lead, *at.shape)).flatten(-2))
    return found[..., :size]


def summed(taken: Tensor, weights: Tensor) -> Tensor:
    """Entries (s, z, p, c, f, f) times weights (s, z, p, w, c or 1), added up over rows: (s, z, p, w, f, f)."""
    if weights.shape[-1] == 1:
        return taken.sum(3, keepdim=True) * weights.unsqueeze(-1)
    return (weights @ taken.flatten(-2)).unflatten(-1, taken.shape[-2:])
