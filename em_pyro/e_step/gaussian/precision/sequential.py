"""Positive definite matrices of blocks that meet their neighbours alone, factored one block after the other.

The loops are compiled: a step of a chain costs some hundred products, and there are no rounds. What `Tridiagonal` finds
in torch is found here as well, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ....program.named import broadcast
from ....records.frozen import frozen
from ...forward_backward.compiled import compiled
from . import adding, loops

HUGE = 1e250  # of a product of pivots
SETTLED = 200  # steps after which most factors of blocks that repeat are the same to the last bit


@frozen
class Sequential:
    """A factored matrix; leading dimensions are batches, the last of them patterns.

    Attributes:
        root: lower triangles on the diagonal of the factor, (..., blocks, w, w).
        coupling: blocks below it, (..., blocks - 1, w, w).
        fine: whether it exists, of every batch.
    """

    root: Tensor = field(repr=False)
    coupling: Tensor = field(repr=False)
    fine: Tensor = field(repr=False)

    @property
    def batch(self) -> torch.Size:
        """Sizes of the leading dimensions."""
        return self.root.shape[:-3]

    def changed(self, change: Callable[[Tensor], Tensor]) -> Sequential:
        """The same with other leading dimensions."""
        return replace(self, root=change(self.root), coupling=change(self.coupling))

    @cached_property
    def log_det(self) -> Tensor:
        """Half the logarithm of the determinant."""
        pivots = self.root.diagonal(dim1=-2, dim2=-1)
        blocks = pivots.prod(-1)  # a logarithm for each block, where that keeps its digits
        if bool(((blocks > 1 / HUGE) & (blocks < HUGE)).all()):
            return blocks.log().sum(-1)
        return pivots.log().sum((-1, -2))

    def solve(self, right: Tensor, of: Tensor) -> Tensor:
        """Solve for vectors (..., n, blocks, w), each with the matrix of its pattern."""
        return self._run((loops.going_forth, loops.going_back), right, of)

    def draw(self, noise: Tensor, of: Tensor) -> Tensor:
        """Turn independent standard normal vectors (..., n, blocks, w) into ones with this precision."""
        return self._run((loops.going_back,), noise, of)

    @cached_property
    def inverse(self) -> tuple[Tensor, Tensor]:
        """Blocks of the inverse: on the diagonal (..., blocks, w, w), and below it (..., blocks - 1, w, w)."""
        inverse, diagonal, below = (torch.empty_like(part) for part in (self.root, self.root, self.coupling))
        width = self.root.shape[-1]
        compiled(loops.inverting_roots(width))(_flat(self.root), _flat(inverse), _flat(diagonal))
        compiled(loops.inverting(width))(_flat(inverse), _flat(self.coupling), _flat(diagonal), _flat(below))
        return diagonal, below

    def summed(self, spots: Tensor, weights: Tensor) -> Tensor:
        """Entries of the inverse in places (c, F) added up: (..., w, F), with weights (..., w, c) or (..., w, 1)."""
        diagonal, below = self.inverse
        lead = broadcast(self.batch, weights.shape[:-2])
        found = diagonal.new_zeros((*lead, weights.shape[-2], spots.shape[-1]))
        parts = (_flat(part.flatten(-3).expand((*lead, -1)), 1) for part in (diagonal, below))
        weights = weights.expand((*lead, *weights.shape[-2:]))
        compiled(adding.gather)(*parts, spots.numpy(), _flat(weights, 2), _flat(found, 2))
        return found

    def _run(self, passes: Sequence[Callable[[int], Callable[..., None]]], vectors: Tensor, of: Tensor) -> Tensor:
        """Run loops over vectors, one after the other."""
        patterns = self.batch[-1]
        mine = of if patterns > 1 else torch.zeros_like(of)
        number = torch.arange(self.batch[:-1].numel()).reshape((*self.batch[:-1], 1)) * patterns + mine
        lead = broadcast(vectors.shape[:-2], number.shape)
        found = vectors.expand((*lead, *vectors.shape[-2:])).clone(memory_format=torch.contiguous_format)
        which = number.expand(lead).reshape(-1).contiguous()
        for loop in passes:
            compiled(loop(vectors.shape[-1]))(_flat(self.root), _flat(self.coupling), which.numpy(), _flat(found, 2))
        return found


def factored(diagonal: Tensor, below: Tensor) -> Sequential:
    """Factor a matrix of blocks on the diagonal (..., blocks, w, w) and below it (..., blocks - 1, w, w), in place.

    Where all blocks inside repeat, the factor settles: a step that gives what the one before gave, to the last bit, is
    the same from then on, and is copied.
    """
    root, coupling = diagonal.contiguous(), below.contiguous()
    fine = torch.ones(root.shape[:-3], dtype=torch.bool)
    loop, at, last = compiled(loops.factoring(root.shape[-1])), 0, root.shape[-3] - 1
    parts = _flat(root), _flat(coupling), _flat(fine, 0)
    if last > 2 * SETTLED and _repeat(root[..., 1:last, :, :]) and _repeat(coupling[..., 1:, :, :]):
        loop(*parts, 0, SETTLED)
        at = SETTLED
        if _repeat(coupling[..., at - 2 : at, :, :]):
            for part in (root[..., at - 1 : last, :, :], coupling[..., at - 1 :, :, :]):
                part[..., 1:, :, :] = part[..., :1, :, :].clone()
            at = last
    loop(*parts, at, last + 1)
    return Sequential(root, coupling, fine)


def _repeat(blocks: Tensor) -> bool:
    """Whether all blocks are the same."""
    return bool((blocks == blocks[..., :1, :, :]).all())


def put(products: Tensor, at: Tensor, found: Tensor) -> None:
    """Add what rows have, (..., c, F) or (..., 1, F), in their places (c, F), to (..., places)."""
    lead = found.shape[:-1]
    compiled(adding.scatter)(_flat(products.expand((*lead, *products.shape[-2:])), 2), at.numpy(), _flat(found, 1))


def _flat(part: Tensor, kept: int = 3) -> Any:
    """An array of all batches, on the memory of a contiguous tensor, whose last dimensions are kept."""
    lead = part.shape[: part.dim() - kept]
    return part.contiguous().view((lead.numel(), *part.shape[part.dim() - kept :])).numpy()
