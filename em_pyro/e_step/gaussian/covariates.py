"""Covariates of rows, as affine functions of the latents: at their means, and their slopes."""

from __future__ import annotations

import torch
from torch import Tensor

from ...program.named import broadcast
from .block import Block
from .group import Group
from .law import Law
from .rows import Part


def lines_of(group: Group, k: int, taken: Tensor) -> Tensor:
    """Covariates of block `k` at the means, (s, z, n, c, e, J), thin where they do not vary."""
    block = group.blocks[k]
    if block.moving and block.dense is None:
        each = [_covariate(group, block, j, part, taken) for j, part in enumerate(group.standing[k][:-1])]
        return torch.stack([part.expand(broadcast(*(p.shape for p in each))) for part in each], -1)
    total = group.lines(k)
    slopes = None if block.dense is None else block.dense[0]
    if slopes is not None:
        if slopes.shape[1:4] == (1, 1, 1):  # one product for all rows of all members
            found = (taken.flatten(2, 3) @ slopes[:, 0, 0, 0].mT).unflatten(2, taken.shape[2:4]).unsqueeze(4)
        else:
            slopes = slopes[:, group.patterns.of] if slopes.shape[1] > 1 else slopes
            found = (slopes @ taken[:, :, :, :, None, :, None]).squeeze(-1)
        total = found if total is None else total + found
    return taken.new_zeros((1,) * 6).expand((1,) * 5 + (block.count,)) if total is None else total


def _covariate(group: Group, block: Block, j: int, fixed: Part, taken: Tensor) -> Tensor:
    """One of them, (s, z, n, c, e)."""
    total = None if fixed is None else fixed.unsqueeze(0)
    for f, slot in enumerate(block.slopes):
        slope = slot[j]
        if slope is not None:
            slope = slope[:, group.patterns.of] if slope.shape[1] > 1 else slope
            term = slope * taken[..., f].unsqueeze(-1)
            total = term if total is None else total + term
    return taken.new_zeros((1,) * 5) if total is None else total


def slopes_of(block: Block, law: Law) -> Tensor:
    """Slopes of the covariates and of the residual, (s, z, p, c, e, J + 1, f)."""
    if not block.slopes:
        return law.slopes.unsqueeze(-2).expand((*law.slopes.shape[:-1], block.count + 1, 0))
    if block.dense is not None:
        fixed, own = block.dense[0], law.slopes.unsqueeze(-2)
        if fixed is None:
            fixed = own.new_zeros((1,) * 4 + (block.count, own.shape[-1]))
        fixed = fixed.unsqueeze(0)
        shape = broadcast(fixed.shape[:5], own.shape[:5])
        return torch.cat([part.expand((*shape, *part.shape[5:])) for part in (fixed, own)], -2)
    none = law.slopes.new_zeros((1,) * 5)
    each = (slot[j] for j in range(block.count) for slot in block.slopes)
    parts = [*(none if part is None else part.unsqueeze(0) for part in each), *law.slopes.unbind(-1)]
    shape = broadcast(*(part.shape for part in parts))
    stacked = torch.stack([part.expand(shape) for part in parts], -1)
    return stacked.unflatten(-1, (block.count + 1, len(block.slopes)))
