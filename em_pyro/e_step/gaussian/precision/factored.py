"""The precision matrix of a component, factored: whole, or as a chain of blocks where latents meet neighbours alone.

Batches are (s, z, p): starts, states of the discrete latents, patterns of members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .tridiagonal import Tridiagonal, factored

SMALL = 48  # latents up to which a whole matrix is as fast


class Factored(Protocol):
    """A factored precision `J`."""

    @property
    def log_det(self) -> Tensor:
        """Half the logarithm of its determinant, (s, z, p); nan where it is not positive definite."""

    def solve(self, pull: Tensor, of: Tensor) -> Tensor:
        """`J^-1` times vectors (s, z, n, k) of members of the patterns `of`."""

    def covariances(self, first: Tensor, second: Tensor) -> Tensor:
        """Entries of `J^-1` in places (...), (s, z, p) + those; zero where a place is -1 or what is observed."""

    def at(self, spots: Tensor) -> Tensor:
        """The same in places that `spots_of` has worked out."""

    @property
    def half(self) -> Tensor | None:
        """A root `H` of the covariance `H H'`, (s, z, p, k, k), where that has digits which the covariance lacks."""

    def draw(self, noise: Tensor, state: Tensor, of: Tensor) -> Tensor:
        """Turn standard normal vectors (d, n, k) into ones with this precision, in states (d, n) of start 0."""


@dataclass(frozen=True)
class Whole:
    """A whole matrix."""

    root: Tensor = field(repr=False)
    covariance: Tensor = field(repr=False)

    @property
    def half(self) -> Tensor | None:
        """None is needed."""
        return None

    @property
    def log_det(self) -> Tensor:
        """Half the logarithm of its determinant."""
        return self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def solve(self, pull: Tensor, of: Tensor) -> Tensor:
        """`J^-1` times vectors."""
        if self.covariance.shape[2] == 1:
            return pull @ self.covariance.squeeze(2)
        return (self.covariance[:, :, of] @ pull.unsqueeze(-1)).squeeze(-1)

    def covariances(self, first: Tensor, second: Tensor) -> Tensor:
        """Entries of `J^-1`."""
        return self.at(spots_of(first, second, self.covariance.shape[-1], 0))

    def at(self, spots: Tensor) -> Tensor:
        """The same in places that are known."""
        return torch.nn.functional.pad(self.covariance.flatten(-2), (0, 1))[..., spots]

    def draw(self, noise: Tensor, state: Tensor, of: Tensor) -> Tensor:
        """Turn standard normal vectors into ones with this precision."""
        roots = self.root[0]
        state = state if len(roots) > 1 else torch.zeros_like(state)
        mine = roots[state, of.expand_as(state)] if roots.shape[:2] != (1, 1) else roots[:, :1]
        return torch.linalg.solve_triangular(mine.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)


@dataclass(frozen=True)
class Chain:
    """Blocks of `width` latents that meet their neighbours alone."""

    matrix: Tridiagonal
    width: int
    k: int
    free: Tensor = field(repr=False)

    @property
    def half(self) -> Tensor | None:
        """None is at hand."""
        return None

    @property
    def log_det(self) -> Tensor:
        """Half the logarithm of its determinant."""
        return torch.where(self.matrix.fine, self.matrix.log_det, torch.nan)

    def solve(self, pull: Tensor, of: Tensor) -> Tensor:
        """`J^-1` times vectors."""
        matrix = self.matrix if self.matrix.last.shape[2] == 1 else _picked(self.matrix, of)
        found = matrix.solve(self._blocks(pull))
        return found.flatten(-2)[..., : self.k]

    def covariances(self, first: Tensor, second: Tensor) -> Tensor:
        """Entries of `J^-1`, which lie in one block or in neighbouring ones."""
        return self.at(spots_of(first, second, self.k, self.width))

    def at(self, spots: Tensor) -> Tensor:
        """The same in places that are known."""
        return self._entries[..., spots]

    @cached_property
    def _entries(self) -> Tensor:
        """Blocks of `J^-1` side by side, and a zero behind them."""
        diagonal, below = self.matrix.inverse
        if not bool(self.free.all()):
            mine = torch.nn.functional.pad(self.free, (0, -self.k % self.width)).unflatten(-1, (-1, self.width))
            diagonal = torch.where(mine.unsqueeze(-1) & mine.unsqueeze(-2), diagonal, 0.0)
            below = torch.where(mine[:, 1:].unsqueeze(-1) & mine[:, :-1].unsqueeze(-2), below, 0.0)
        return torch.cat([diagonal.flatten(-3), below.flatten(-3), diagonal.new_zeros((*diagonal.shape[:3], 1))], -1)

    def draw(self, noise: Tensor, state: Tensor, of: Tensor) -> Tensor:
        """Turn standard normal vectors into ones with this precision."""
        found = torch.empty_like(noise)
        for z in range(self.matrix.last.shape[1]):
            mine = _sliced(self.matrix, z)
            mine = mine if mine.last.shape[0] == 1 else _picked(mine, of, at=0)
            drawn = mine.draw(self._blocks(noise)).flatten(-2)[..., : self.k]
            found = torch.where((state == z).unsqueeze(-1), drawn, found) if self.matrix.last.shape[1] > 1 else drawn
        return found

    def _blocks(self, part: Tensor) -> Tensor:
        """Cut vectors (..., k) into blocks."""
        short = -self.k % self.width
        return torch.nn.functional.pad(part, (0, short)).unflatten(-1, (-1, self.width))


def _changed(matrix: Tridiagonal, change: Callable[[Tensor], Tensor]) -> Tridiagonal:
    levels = [replace(lv, root=change(lv.root), left=change(lv.left), right=change(lv.right)) for lv in matrix.levels]
    return Tridiagonal(levels, change(matrix.last), matrix.fine)


def _picked(matrix: Tridiagonal, of: Tensor, at: int = 2) -> Tridiagonal:
    """The matrix of every member, from those of the patterns."""
    return _changed(matrix, lambda part: part.index_select(at, of))


def _sliced(matrix: Tridiagonal, z: int) -> Tridiagonal:
    """That of one state, of start 0."""
    return _changed(matrix, lambda part: part[0, z])


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
    """Where the products of the slots of every row stand in a flat matrix, and how many places that has.

    What there is no place for, the upper half of chains among it, goes to one behind them.
    """
    first, second = slots.unsqueeze(-1), slots.unsqueeze(-2)
    some = (first >= 0) & (second >= 0)
    if not width:
        return torch.where(some, first * k + second, k * k).reshape(-1), k * k
    blocks = -(-k // width)
    size = width * width
    i, j = first.clamp(min=0) // width, second.clamp(min=0) // width
    inner = first % width * width + second % width
    at = torch.where(i == j, i * size + inner, (blocks + j) * size + inner)
    total = (2 * blocks - 1) * size
    return torch.where(some & ((i == j) | (i == j + 1)), at, total).reshape(-1), total


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


def factor(flat: Tensor, free: Tensor, k: int, width: int) -> Factored:
    """Factor what was added up in the places, (s, z, p, places); what is not free is left out."""
    if not width:
        matrix = flat.unflatten(-1, (k, k))
        whole = bool(free.all())
        if not whole:
            both = free.unsqueeze(-1) & free.unsqueeze(-2)
            matrix = torch.where(both, matrix, 0.0) + torch.diag_embed((~free).double())
        root, info = torch.linalg.cholesky_ex(matrix)
        root = torch.where((info == 0)[..., None, None], root, torch.nan)
        covariance = torch.cholesky_inverse(root)
        return Whole(root, covariance if whole else torch.where(both, covariance, 0.0))
    blocks = -(-k // width)
    size = blocks * width * width
    diagonal = flat[..., :size].unflatten(-1, (blocks, width, width))
    below = flat[..., size:].unflatten(-1, (blocks - 1, width, width))
    mine = torch.nn.functional.pad(free, (0, -k % width)).unflatten(-1, (blocks, width))
    both = mine.unsqueeze(-1) & mine.unsqueeze(-2)
    diagonal = torch.where(both, diagonal, 0.0) + torch.diag_embed((~mine).double())
    below = torch.where(mine[:, 1:].unsqueeze(-1) & mine[:, :-1].unsqueeze(-2), below, 0.0)
    return Chain(factored(diagonal, below), width, k, free)
