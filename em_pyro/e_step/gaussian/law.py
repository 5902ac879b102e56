"""Rows of components at bound arguments: residuals as affine functions of the latents, and what they add to their law.

Dimensions are those of `block`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field
from typing import NamedTuple

import torch
from torch import Tensor

from ...program.named import broadcast
from ...records.frozen import frozen
from .block import Block
from .rows import Part

SMALL = 16  # numbers of a matrix up to which a product number by number is faster than one matrix by matrix


@frozen
class Law:
    """A block at bound arguments.

    Attributes:
        block: what is bound; c is of size one in what all of its rows have in common.
        slopes: of the residuals, (s, z, p, c, e, f).
        constants: the residuals where the latents are zero, (s, z, n, c, e).
        roots: what whitens residuals: (s, z, c, e), or (s, z, c, e, e) if joint.
    """

    block: Block
    slopes: Tensor = field(repr=False)
    constants: Tensor = field(repr=False)
    roots: Tensor = field(repr=False)

    def whitened(self, part: Tensor, *, slots: bool) -> Tensor:
        """Residuals, or their slopes, in units in which they are independent standard normal."""
        roots = self.roots.unsqueeze(2)
        if not self.block.joint:
            return part * (roots.unsqueeze(-1) if slots else roots)
        part = part if slots else part.unsqueeze(-1)
        found = roots @ part.expand((*part.shape[:4], roots.shape[-1], part.shape[-1]))
        return found if slots else found.squeeze(-1)


def law_of(block: Block, constants: Sequence[Part], coefficients: Tensor, roots: Tensor) -> Law:
    """Bind a block.

    Args:
        block: rows of a site.
        constants: of every member: covariates, then the response, where all latents are zero.
        coefficients: of every cell, (s, cells, J), or (s, cells, e, J) if joint.
        roots: of every cell, (s, cells), or (s, cells, e, e) if joint.
    """
    theta, whiten = _of_cells(block, coefficients), _of_cells(block, roots)  # (s, z, c, e, J)
    return Law(block, _slopes_at(block, theta), affine(theta, constants, 2), whiten)


def _of_cells(block: Block, part: Tensor) -> Tensor:
    """What the cells of every row have, (s, cells, ...) to (s, z, c, e, ...); the coordinates are there if joint."""
    cells = block.cells[..., 0] if block.joint else block.cells
    return part.unflatten(1, cells.shape) if block.in_order and cells.numel() == part.shape[1] else part[:, cells]


def _slopes_at(block: Block, theta: Tensor) -> Tensor:
    """Slopes of the residuals at some coefficients, (s, z, p, c, e, f)."""
    starts, _, c, e = theta.shape[:4]
    if not block.slopes:
        return theta.new_zeros((starts, 1, 1, c, e, 0))
    if block.dense is not None:
        covariates, response = block.dense
        own = response.unsqueeze(0)
        return own if covariates is None else own - (theta.unsqueeze(-2).unsqueeze(2) @ covariates).squeeze(-2)
    slopes = [affine(theta, slot, 2) for slot in block.slopes]
    shape = broadcast(*(part.shape for part in slopes))
    return torch.stack([part.expand(shape) for part in slopes], -1)


def standing(parts: Sequence[Part], one: Tensor | None) -> list[Part]:
    """Constants that are the same in all members, times what stands for one in each."""
    if one is None:
        return list(parts)
    each = one.reshape((1, -1, 1, 1))
    return [part if part is None or part.shape[1] > 1 else part * each for part in parts]


def affine(theta: Tensor, parts: Sequence[Part], at: int) -> Tensor:
    """The response less covariates times their coefficients; a dimension is put into the coefficients at `at`."""
    total = parts[-1]
    found = theta.new_zeros((1,) * 5) if total is None else total.unsqueeze(0)
    for j, part in enumerate(parts[:-1]):
        if part is not None:
            found = found - theta[..., j].unsqueeze(at) * part
    return found


def taken_of(block: Block, latents: Tensor) -> Tensor:
    """The latents (..., k) that every row takes, (..., c, f); zero where it takes none."""
    if not latents.shape[-1]:
        return latents.new_zeros((*latents.shape[:-1], *block.slots.shape))
    at = block.slots if block.full else block.slots.clamp(min=0)
    taken = latents.gather(-1, at.reshape(-1).expand((*latents.shape[:-1], -1))).unflatten(-1, at.shape)
    return taken if block.full else torch.where(block.slots >= 0, taken, 0.0)


def residual_of(law: Law, taken: Tensor, of: Tensor) -> Tensor:
    """Residuals at the latents that rows take, (s, z, n, c, f), of members of the patterns `of`."""
    slopes, constants = law.slopes, law.constants
    if slopes.shape[2:4] == (1, 1):  # one product for all rows of all members
        shape = (*taken.shape[2:4], slopes.shape[4])
        return constants + (taken.flatten(2, 3) @ slopes[:, :, 0, 0].mT).unflatten(2, shape[:2])
    if slopes.shape[2] > 1:
        slopes = slopes[:, :, of]
    return constants + times(slopes, taken)


# ---- what they add to the law of the latents -------------------------------------------------------------------------


class Whitened(NamedTuple):
    """A block in units in which residuals are independent standard normal.

    Attributes:
        law: of the residuals.
        slopes: whitened, (s, z, p, c, e, f).
        constants: whitened, (s, z, n, c, e).
        precision: what rows add to `J`, (s, z, p, c, f f), c of size one where all add the same.
        pull: what they add to `A' a`, (s, z, n, c, f), likewise.
        log_roots: log-densities of residuals of zero, over all that is seen, (s, z, p).
    """

    law: Law
    slopes: Tensor
    constants: Tensor
    precision: Tensor
    pull: Tensor
    log_roots: Tensor


def whitened(law: Law, of: Tensor) -> Whitened:
    """Whiten a block, whose members are of the patterns `of`."""
    slopes, constants = law.whitened(law.slopes, slots=True), law.whitened(law.constants, slots=False)
    pull = _pull(law.block, of, slopes, constants)
    return Whitened(law, slopes, constants, _precision(law.block, slopes), pull, _log_roots(law))


def _precision(block: Block, slopes: Tensor) -> Tensor:
    """What rows of a block add to `J`, (s, z, p, c, f f), c of size one where all add the same, or all together."""
    weight, rows, count = block.weight, slopes.shape[3], block.rows
    if block.common and rows > 1:
        weight = None if weight is None else _together(weight.expand((-1, rows, slopes.shape[4])), 1)
        slopes, count = _together(slopes), 1
    if weight is None:
        products = slopes.mT @ slopes if slopes.shape[4] > 1 else slopes.mT * slopes  # (s, z, p, c, f, f)
    elif slopes.shape[2] == 1:
        each = slopes.unsqueeze(-1) * slopes.unsqueeze(-2)  # (s, z, 1, c, e, f, f)
        products = torch.einsum("pce,szxcefg->szpcfg", weight.expand((-1, count, slopes.shape[4])), each)
    else:
        products = slopes.mT @ (slopes * weight.unsqueeze(-1))
    if block.common and rows == 1:
        products = products * block.rows if weight is None else products.sum(3, keepdim=True)
    return products.flatten(-2)


def _pull(block: Block, of: Tensor, slopes: Tensor, constants: Tensor) -> Tensor:
    """What rows of a block add to `A' a`, (s, z, n, c, f), likewise."""
    if block.weight is not None:
        constants = constants * block.weight[of]
    if slopes.shape[2:4] == (1, 1):  # one product for all rows of all members
        found = (constants.flatten(2, 3) @ slopes[:, :, 0, 0]).unflatten(2, constants.shape[2:4])
    else:
        slopes = slopes[:, :, of] if slopes.shape[2] > 1 else slopes
        if block.common:
            shape = (*broadcast(slopes.shape[:3], constants.shape[:3]), block.rows)
            slopes = _together(slopes.expand((*shape, *slopes.shape[4:])))
            constants = _together(constants.expand((*shape, constants.shape[4])))
        return times(slopes.mT, constants)
    if not block.common:
        return found
    return found * block.rows if found.shape[3] == 1 else found.sum(3, keepdim=True)


def _together(part: Tensor, at: int = 3) -> Tensor:
    """Take all rows for coordinates of one."""
    return part.flatten(at, at + 1).unsqueeze(at)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Multiply many small matrices by a vector each."""
    if matrix.shape[-2] * matrix.shape[-1] <= SMALL:
        return (matrix * vector.unsqueeze(-2)).sum(-1)
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _log_roots(law: Law) -> Tensor:
    """Log-densities of residuals of zero, over all that is seen, (s, z, p)."""
    roots = law.roots.diagonal(dim1=-2, dim2=-1) if law.block.joint else law.roots
    logs = roots.log() - 0.5 * math.log(2 * math.pi)  # (s, z, c, e)
    weight, logs = law.block.weight, logs.expand((*logs.shape[:2], law.block.rows, logs.shape[-1]))
    if weight is None:
        return logs.sum((-1, -2)).unsqueeze(-1)
    return torch.einsum("szce,pce->szp", logs, weight.expand((-1, *logs.shape[-2:])))
