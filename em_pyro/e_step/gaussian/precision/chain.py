"""A chain of blocks of latents, each of which meets its neighbours alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from ....records.frozen import frozen
from .places import Spots, spots_of, summed


class Blocks(Protocol):
    """A factored matrix of blocks that meet their neighbours alone, (s, z, p) of them."""

    @property
    def batch(self) -> torch.Size:
        """Sizes of the leading dimensions."""

    @property
    def fine(self) -> Tensor:
        """Whether it is positive definite, of every batch."""

    @property
    def log_det(self) -> Tensor:
        """Half the logarithm of its determinant."""

    @property
    def inverse(self) -> tuple[Tensor, Tensor]:
        """Blocks of the inverse: on the diagonal (..., blocks, w, w), and below it (..., blocks - 1, w, w)."""

    def summed(self, spots: Tensor, weights: Tensor) -> Tensor | None:
        """Entries of the inverse in places (c, F) added up: (..., w, F), with weights (..., w, c) or (..., w, 1).

        None where that is no sooner than taking them one by one.
        """

    def changed(self, change: Callable[[Tensor], Tensor]) -> Blocks:
        """The same with other leading dimensions."""

    def solve(self, right: Tensor, of: Tensor) -> Tensor:
        """Solve for vectors (..., n, blocks, w), each with the matrix of its pattern."""

    def draw(self, noise: Tensor, of: Tensor) -> Tensor:
        """Turn independent standard normal vectors (..., n, blocks, w) into ones with this precision."""


@frozen
class Chain:
    """Blocks of `width` latents that meet their neighbours alone."""

    matrix: Blocks
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
        found = self.matrix.solve(self._blocks(pull), of)
        return found.flatten(-2)[..., : self.k]

    def covariances(self, first: Tensor, second: Tensor) -> Tensor:
        """Entries of `J^-1`, which lie in one block or in neighbouring ones."""
        return self.at(spots_of(first, second, self.k, self.width))

    @property
    def variances(self) -> Tensor:
        """The diagonal of `J^-1`."""
        every = torch.arange(self.k)
        return self.covariances(every, every)

    def at(self, spots: Tensor) -> Tensor:
        """The same in places that are known."""
        return self._entries[..., spots]

    def summed(self, spots: Spots, weights: Tensor) -> Tensor:
        """The same, added up over rows."""
        found = self.matrix.summed(spots.lower, weights) if self.whole else None
        return summed(self.at(spots.every), weights) if found is None else found[..., spots.of_pairs]

    @cached_property
    def whole(self) -> bool:
        """Whether all latents are to be found."""
        return bool(self.free.all())

    @cached_property
    def _entries(self) -> Tensor:
        """Blocks of `J^-1` side by side, and a zero behind them."""
        diagonal, below = self.matrix.inverse
        if not self.whole:
            mine = torch.nn.functional.pad(self.free, (0, -self.k % self.width)).unflatten(-1, (-1, self.width))
            diagonal = torch.where(mine.unsqueeze(-1) & mine.unsqueeze(-2), diagonal, 0.0)
            below = torch.where(mine[:, 1:].unsqueeze(-1) & mine[:, :-1].unsqueeze(-2), below, 0.0)
        return torch.cat([diagonal.flatten(-3), below.flatten(-3), diagonal.new_zeros((*diagonal.shape[:3], 1))], -1)

    def draw(self, noise: Tensor, state: Tensor, of: Tensor) -> Tensor:
        """Turn standard normal vectors into ones with this precision."""
        found = torch.empty_like(noise)
        states = self.matrix.batch[1]
        for z in range(states):
            drawn = self.matrix.changed(partial(_of_state, z=z)).draw(self._blocks(noise), of)
            drawn = drawn.flatten(-2)[..., : self.k]
            found = torch.where((state == z).unsqueeze(-1), drawn, found) if states > 1 else drawn
        return found

    def _blocks(self, part: Tensor) -> Tensor:
        """Cut vectors (..., k) into blocks."""
        short = -self.k % self.width
        return (torch.nn.functional.pad(part, (0, short)) if short else part).unflatten(-1, (-1, self.width))


def _of_state(part: Tensor, z: int) -> Tensor:
    """What belongs to one state, of start 0."""
    return part[0, z]
