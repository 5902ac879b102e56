"""The law of latents by an orthogonal factor of their whitened rows, where the precision matrix would lose digits.

A step of a chain that hardly moves ties two latents by a weight of `1 / scale^2`, beside which all else is rounded, and
the spread of their difference is what is left of numbers that cancel. With `A = Q R` nothing is squared:

    E z = -R^-1 Q' a,   Var(b' z) = |R^-T b|^2.

References: Bierman (1977), Factorization methods for discrete sequential estimation, chapters IV and V; Cox and Higham
(1998), Stability of Householder QR factorization for weighted least squares problems (the order of the rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import lru_cache

import torch
from torch import Tensor

from ....program.named import broadcast
from ....records.frozen import frozen
from ..block import Block
from .factored import Factored, Whole
from .places import places_of

STRAINED = 1e6  # times that a latent is known less well than its own row of the precision matrix says
WIDEST = 256  # latents up to which the rows of a component are factored


@frozen
class Orthogonal(Whole):
    """A triangular factor, and its inverse.

    Attributes:
        inverse: `R^-1`, so that the covariance is its product with its transpose, (s, z, p, k, k).
    """

    inverse: Tensor = field(kw_only=True, repr=False)

    @property
    def half(self) -> Tensor | None:
        """A root of the covariance."""
        return self.inverse


def own_rows(flat: Tensor, k: int, width: int) -> Tensor | None:
    """What every latent has on the diagonal of the precision matrix, as it was added up; None where nobody asks."""
    if not 1 < k <= WIDEST:
        return None
    return flat[..., _diagonal(k, width)]


@lru_cache
def _diagonal(k: int, width: int) -> Tensor:
    """Where the diagonal of a precision matrix stands."""
    return places_of(torch.arange(k).unsqueeze(-1), k, width)[0].reshape(-1)


def strained(own: Tensor | None, precision: Factored) -> bool:
    """Whether the precision matrix, with this diagonal, has too few digits."""
    if own is None:
        return False
    return bool((own * precision.variances > STRAINED).any())


def orthogonal(
    blocks: Sequence[Block], white: Sequence[tuple[Tensor, Tensor]], free: Tensor, of: Tensor
) -> tuple[Orthogonal, Tensor, Tensor]:
    """Factor the rows of components; return the factor, and of every member the mean and the squares that are left.

    Args:
        blocks: of rows.
        white: of each, slopes (s, z, p, c, e, f) and constants (s, z, n, c, e), whitened.
        free: which latents are to be found, (p, k).
        of: the pattern of every member.
    """
    k = free.shape[1]
    values = [
        (constants if block.weight is None else constants * block.weight[of]).flatten(3)
        for block, (_, constants) in zip(blocks, white, strict=True)
    ]
    matrix = rows_by_latents(blocks, white, free)
    vector = _beside(values, -1)
    if not bool(free.all()):
        held = torch.diag_embed((~free).double())
        matrix = torch.cat([matrix, held.expand((*matrix.shape[:2], *held.shape))], -2)
        vector = torch.nn.functional.pad(vector, (0, k))
    q, r = _by_weight(matrix)
    sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    q, r = q * sign.unsqueeze(-2), r * sign.unsqueeze(-1)
    inverse = torch.linalg.solve_triangular(r, torch.eye(k, dtype=r.dtype).expand(r.shape), upper=True)
    inverse = torch.where(free.unsqueeze(-1), inverse, 0.0)
    right = vector.unsqueeze(-2) @ q[:, :, of if q.shape[2] > 1 else slice(None)]
    mean = -(inverse[:, :, of if inverse.shape[2] > 1 else slice(None)] @ right.mT).squeeze(-1)
    left = vector - (right @ q[:, :, of if q.shape[2] > 1 else slice(None)].mT).squeeze(-2)
    return Orthogonal(r.mT.contiguous(), inverse @ inverse.mT, inverse=inverse), mean, left.square().sum(-1)


def _by_weight(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Factor with the heaviest rows first: the rounding of a row is then small beside the row, and not the heaviest."""
    order = matrix.abs().amax(-1).sort(dim=-1, descending=True, stable=True).indices.unsqueeze(-1)
    q, r = torch.linalg.qr(matrix.gather(-2, order.expand(matrix.shape)))
    return torch.empty_like(q).scatter_(-2, order.expand(q.shape), q), r


def rows_by_latents(blocks: Sequence[Block], white: Sequence[tuple[Tensor, Tensor]], free: Tensor) -> Tensor:
    """Whitened slopes of all rows of components by those latents that are to be found, (s, z, p, rows, k)."""
    rows = [_rows(block, slopes, free.shape[1]) for block, (slopes, _) in zip(blocks, white, strict=True)]
    return _beside(rows, -2) * free.unsqueeze(-2)


def _rows(block: Block, slopes: Tensor, k: int) -> Tensor:
    """Whitened slopes by all latents, (s, z, p, c e, k)."""
    at = torch.where(block.slots >= 0, block.slots, k).unsqueeze(1).expand((*slopes.shape[3:5], slopes.shape[5]))
    found = slopes.new_zeros((*slopes.shape[:5], k + 1)).scatter_add_(-1, at.expand(slopes.shape), slopes)[..., :k]
    return (found if block.weight is None else found * block.weight.unsqueeze(-1)).flatten(3, 4)


def _beside(parts: Sequence[Tensor], at: int) -> Tensor:
    """Put parts below each other, of the same batches."""
    batch = broadcast(*(part.shape[:3] for part in parts))
    return torch.cat([part.expand((*batch, *part.shape[3:])) for part in parts], at)
