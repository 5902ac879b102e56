"""Whether the law of the latents exists: each must have a density, or enter what is observed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..block import Block
from .orthogonal import WIDEST, rows_by_latents

PATTERNS = 1000  # beyond, and where more latents hang together, only what has no root at all is found
SINGULAR = 1e-12  # of the largest singular value of the whitened rows


def undetermined(
    blocks: Sequence[Block], white: Sequence[tuple[Tensor, Tensor]], free: Tensor, evidence: Tensor
) -> Tensor | None:
    """Which latents of a component nothing determines, (k,); None if all are determined.

    Args:
        blocks: of its rows.
        white: of each, slopes (s, z, p, c, e, f) and constants, whitened.
        free: which latents are to be found, (p, k).
        evidence: of its members; not finite where there is no law.
    """
    k = free.shape[1]
    if not k:
        return None
    if k > WIDEST or len(free) > PATTERNS:
        return None if bool(torch.isfinite(evidence).all()) else torch.ones(k, dtype=torch.bool)
    matrix = rows_by_latents(blocks, white, free)
    matrix = torch.cat([matrix, torch.diag_embed((~free).double()).expand((*matrix.shape[:3], k, k))], -2)
    if not bool(torch.isfinite(matrix).all()):
        return None  # other numbers are at fault
    matrix = matrix / _sizes(matrix, -1)  # how much a row weighs is nothing to what it determines
    lost = (matrix == 0).all(-2).flatten(0, -2).any(0)
    _, sizes, right = torch.linalg.svd(matrix / _sizes(matrix, -2), full_matrices=False)
    short = sizes < SINGULAR * sizes[..., :1]
    if not bool(short.any()):
        return None
    vectors = torch.where(short.unsqueeze(-1), right.abs(), 0.0).amax(-2)
    return (vectors > 1e-3).flatten(0, -2).any(0) | lost


def _sizes(matrix: Tensor, along: int) -> Tensor:
    """The largest entries of rows or columns; one where all are zero."""
    found = matrix.abs().amax(along, keepdim=True)
    return torch.where(found == 0, 1.0, found)
