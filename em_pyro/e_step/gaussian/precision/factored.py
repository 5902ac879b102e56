"""The precision matrix of a component, factored: whole, or as a chain of blocks where latents meet neighbours alone.

Batches are (s, z, p): starts, states of the discrete latents, patterns of members.
"""

from __future__ import annotations

from dataclasses import field
from typing import Protocol

import torch
from torch import Tensor

from ....records.frozen import frozen
from . import sequential, tridiagonal
from .chain import Chain
from .places import Spots, spots_of, summed


class Factored(Protocol):
    """A factored precision `J`."""

    @property
    def log_det(self) -> Tensor:
        """Half the logarithm of its determinant, (s, z, p); nan where it is not positive definite."""

    def solve(self, pull: Tensor, of: Tensor) -> Tensor:
        """`J^-1` times vectors (s, z, n, k) of members of the patterns `of`."""

    def covariances(self, first: Tensor, second: Tensor) -> Tensor:
        """Entries of `J^-1` in places (...), (s, z, p) + those; zero where a place is -1 or what is observed."""

    @property
    def variances(self) -> Tensor:
        """The diagonal of `J^-1`, (s, z, p, k)."""

    def at(self, spots: Tensor) -> Tensor:
        """The same in places that `spots_of` has worked out."""

    def summed(self, spots: Spots, weights: Tensor) -> Tensor:
        """The same in places (c, f, f) of rows, added up: (s, z, p, w, f, f).

        Args:
            spots: places.
            weights: of the rows, (s, z, p, w, c), or (s, z, p, w, 1) where all rows have the same.
        """

    @property
    def half(self) -> Tensor | None:
        """A root `H` of the covariance `H H'`, (s, z, p, k, k), where that has digits which the covariance lacks."""

    def draw(self, noise: Tensor, state: Tensor, of: Tensor) -> Tensor:
        """Turn standard normal vectors (d, n, k) into ones with this precision, in states (d, n) of start 0."""


@frozen
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

    @property
    def variances(self) -> Tensor:
        """The diagonal of `J^-1`."""
        return self.covariance.diagonal(dim1=-2, dim2=-1)

    def at(self, spots: Tensor) -> Tensor:
        """The same in places that are known."""
        return torch.nn.functional.pad(self.covariance.flatten(-2), (0, 1))[..., spots]

    def summed(self, spots: Spots, weights: Tensor) -> Tensor:
        """The same, added up over rows."""
        return summed(self.at(spots.every), weights)

    def draw(self, noise: Tensor, state: Tensor, of: Tensor) -> Tensor:
        """Turn standard normal vectors into ones with this precision."""
        roots = self.root[0]
        state = state if len(roots) > 1 else torch.zeros_like(state)
        mine = roots[state, of.expand_as(state)] if roots.shape[:2] != (1, 1) else roots[:, :1]
        return torch.linalg.solve_triangular(mine.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)


def factor(flat: Tensor, free: Tensor, k: int, width: int, method: str = "torch") -> Factored:
    """Factor what was added up in the places, (s, z, p, places); what is not free is left out.

    Args:
        flat: what was added up; it may be overwritten.
        free: which latents are to be found, (p, k).
        k: latents.
        width: of the blocks of a chain; 0 is a whole matrix.
        method: "numba" or "torch", of a chain.
    """
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
    if k % width or not bool(free.all()):
        mine = torch.nn.functional.pad(free, (0, -k % width)).unflatten(-1, (blocks, width))
        both = mine.unsqueeze(-1) & mine.unsqueeze(-2)
        diagonal = torch.where(both, diagonal, 0.0) + torch.diag_embed((~mine).double())
        below = torch.where(mine[:, 1:].unsqueeze(-1) & mine[:, :-1].unsqueeze(-2), below, 0.0)
    factored = sequential.factored if method == "numba" else tridiagonal.factored
    return Chain(factored(diagonal, below), width, k, free)
