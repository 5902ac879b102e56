"""Positive definite matrices of blocks that meet their neighbours alone: chains of latents, and what is like them.

Every second block is eliminated at once, then every second of those left (block cyclic reduction), so that a chain of
T steps takes log T rounds of batched products. With `D_i` the block that is eliminated between `l` and `r`, and `G_i =
D_i^-1 (J_il, J_ir)`, the inverse `V` obeys

    V_iE = -G_i V_EE,   V_ii = D_i^-1 + G_i V_EE G_i',   E = (l, r).

References: Takahashi, Fagan and Chin (1973), formation of a sparse bus impedance matrix; Golub and Van Loan (2013),
Matrix computations, section 4.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from functools import cached_property

import torch
from torch import Tensor

from ....records.frozen import frozen


@frozen
class Level:
    """One round: odd blocks eliminated between even ones.

    Attributes:
        root: of the odd blocks, (..., odd, w, w).
        left: what joins them to the block before, (..., odd, w, w).
        right: and to the block after.
        size: blocks before the round; the last odd one has none after it if that is even.
    """

    root: Tensor = field(repr=False)
    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    size: int

    @property
    def after(self) -> int:
        """How many odd blocks have one after them."""
        return (self.size - 1) // 2

    @cached_property
    def gains(self) -> tuple[Tensor, Tensor]:
        """`G` of both neighbours."""
        return torch.cholesky_solve(self.left, self.root), torch.cholesky_solve(self.right, self.root)


@frozen
class Tridiagonal:
    """A factored matrix; leading dimensions are batches, the last of them patterns.

    Attributes:
        levels: the rounds, the first one first.
        last: the root of the block that is left, (..., 1, w, w).
        fine: whether all roots exist, of every batch.
    """

    levels: Sequence[Level] = field(repr=False)
    last: Tensor = field(repr=False)
    fine: Tensor = field(repr=False)

    @property
    def batch(self) -> torch.Size:
        """Sizes of the leading dimensions."""
        return self.last.shape[:-3]

    def changed(self, change: Callable[[Tensor], Tensor]) -> Tridiagonal:
        """The same with other leading dimensions."""
        levels = [replace(v, root=change(v.root), left=change(v.left), right=change(v.right)) for v in self.levels]
        return replace(self, levels=levels, last=change(self.last))

    @property
    def log_det(self) -> Tensor:
        """Half the logarithm of the determinant."""
        roots = [level.root for level in self.levels] + [self.last]
        return torch.stack([r.diagonal(dim1=-2, dim2=-1).log().sum((-1, -2)) for r in roots]).sum(0)

    def solve(self, right: Tensor, of: Tensor) -> Tensor:
        """Solve for vectors (..., n, blocks, w), each with the matrix of its pattern."""
        return self._of_each(of)._solved(right)

    def draw(self, noise: Tensor, of: Tensor) -> Tensor:
        """Turn independent standard normal vectors (..., n, blocks, w) into ones with this precision."""
        return self._of_each(of)._drawn(noise)

    def summed(self, spots: Tensor, weights: Tensor) -> None:
        """Entries of the inverse are taken one by one."""

    def _of_each(self, of: Tensor) -> Tridiagonal:
        """The matrix of every vector, from those of the patterns."""
        at = len(self.batch) - 1
        return self if self.batch[-1] == 1 else self.changed(lambda part: part.index_select(at, of))

    def _solved(self, right: Tensor) -> Tensor:
        kept = list[Tensor]()
        for level in self.levels:
            even, odd = right[..., ::2, :], right[..., 1::2, :]
            solved = torch.cholesky_solve(odd.unsqueeze(-1), level.root.expand((*odd.shape, odd.shape[-1]))).squeeze(-1)
            even = even.clone()
            even[..., : solved.shape[-2], :] -= (level.left.mT @ solved.unsqueeze(-1)).squeeze(-1)
            even[..., 1:, :] -= (level.right.mT @ solved.unsqueeze(-1)).squeeze(-1)[..., : level.after, :]
            kept.append(solved)
            right = even
        found = torch.cholesky_solve(right.unsqueeze(-1), self.last.expand((*right.shape, right.shape[-1]))).squeeze(-1)
        for level, solved in zip(reversed(self.levels), reversed(kept), strict=True):
            found = _joined(solved - self._beside(level, found), found, level.size)
        return found

    def _drawn(self, noise: Tensor) -> Tensor:
        parts = []
        for _ in self.levels:
            parts.append(noise[..., 1::2, :])
            noise = noise[..., ::2, :]
        found = _up(self.last, noise)
        for level, odd in zip(reversed(self.levels), reversed(parts), strict=True):
            found = _joined(_up(level.root, odd) - self._beside(level, found), found, level.size)
        return found

    @cached_property
    def inverse(self) -> tuple[Tensor, Tensor]:
        """Blocks of the inverse: on the diagonal (..., blocks, w, w), and below it (..., blocks - 1, w, w)."""
        diagonal = torch.cholesky_inverse(self.last)
        below = diagonal[..., :0, :, :]
        for level in reversed(self.levels):
            first, second = level.gains
            before, after = _around(diagonal, level, blocks=True)  # V_ll, V_rr
            below = _padded(below, level.root.shape[-3], blocks=True)  # V_rl
            of_left = -(first @ before + second @ below)  # V_il
            of_right = -(first @ below.mT + second @ after)  # V_ir
            own = torch.cholesky_inverse(level.root) - of_left @ first.mT - of_right @ second.mT
            full = _joined_blocks(own, diagonal, level.size)
            mixed = own.new_empty((*own.shape[:-3], level.size - 1, *own.shape[-2:]))
            mixed[..., ::2, :, :], mixed[..., 1::2, :, :] = of_left, of_right.mT[..., : level.after, :, :]
            diagonal, below = full, mixed
        return diagonal, below

    @staticmethod
    def _beside(level: Level, even: Tensor) -> Tensor:
        """`G_i` times what is beside."""
        first, second = level.gains
        before, after = _around(even, level, blocks=False)
        return (first @ before.unsqueeze(-1) + second @ after.unsqueeze(-1)).squeeze(-1)


def factored(diagonal: Tensor, below: Tensor) -> Tridiagonal:
    """Factor a matrix of blocks on the diagonal (..., blocks, w, w) and below it (..., blocks - 1, w, w)."""
    levels, fine = list[Level](), torch.ones(diagonal.shape[:-3], dtype=torch.bool)
    while diagonal.shape[-3] > 1:
        size = diagonal.shape[-3]
        root, exist = _root(diagonal[..., 1::2, :, :])
        fine = fine & exist
        left = below[..., ::2, :, :]  # J_il
        right = _padded(below[..., 1::2, :, :].mT, root.shape[-3], blocks=True)  # J_ir
        level = Level(root, left, right, size)
        first, second = level.gains
        even = diagonal[..., ::2, :, :].clone()
        even[..., : root.shape[-3], :, :] -= left.mT @ first
        even[..., 1:, :, :] -= (right.mT @ second)[..., : level.after, :, :]
        below = -(right.mT @ first)[..., : level.after, :, :]
        diagonal = even
        levels.append(level)
    last, exist = _root(diagonal)
    return Tridiagonal(levels, last, fine & exist)


def _root(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the roots of blocks, no numbers where there is none, and whether all of a batch exist."""
    root, info = torch.linalg.cholesky_ex(blocks)
    found = info == 0
    return torch.where(found[..., None, None], root, torch.nan), found.all(-1)


def _padded(part: Tensor, count: int, *, blocks: bool) -> Tensor:
    """Put zeros behind blocks, or vectors, until there are so many."""
    at = -3 if blocks else -2
    if part.shape[at] >= count:
        return part
    shape = list(part.shape)
    shape[at] = count - shape[at]
    return torch.cat([part, part.new_zeros(shape)], at)


def _around(even: Tensor, level: Level, *, blocks: bool) -> tuple[Tensor, Tensor]:
    """What lies before and after every odd block; zero where there is nothing."""
    at, count = -3 if blocks else -2, level.root.shape[-3]
    after = even.narrow(at, 1, level.after)
    return even.narrow(at, 0, count), _padded(after, count, blocks=blocks)


def _joined(odd: Tensor, even: Tensor, size: int) -> Tensor:
    """Put odd and even vectors together again."""
    batch = torch.broadcast_tensors(odd[..., :1, :], even[..., :1, :])[0].shape[:-2]
    found = odd.new_empty((*batch, size, odd.shape[-1]))
    found[..., ::2, :], found[..., 1::2, :] = even, odd
    return found


def _joined_blocks(odd: Tensor, even: Tensor, size: int) -> Tensor:
    """The same of blocks."""
    found = odd.new_empty((*odd.shape[:-3], size, *odd.shape[-2:]))
    found[..., ::2, :, :], found[..., 1::2, :, :] = even, odd
    return found


def _up(root: Tensor, noise: Tensor) -> Tensor:
    """`L'^-1` times vectors."""
    return torch.linalg.solve_triangular(root.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
