"""The scaled recursions in torch: step by step, or a long chain in blocks.

A long chain of few rows is cut into about `sqrt(T)` blocks that are advanced together: their transfer matrices first,
then the boundaries between them, then every block again from its boundary.

Shapes: `...` starts, `K` states, `T` steps, `R` rows. References: Rabiner (1989), section V.A; the blocks are the
two-level scan of Blelloch (1990).
"""

from __future__ import annotations

from dataclasses import field
from typing import Protocol

import torch
from torch import Tensor

from ...records.frozen import frozen

LONG = 128  # steps from which a chain of few rows is taken in blocks
WIDE = 4096  # rows x states^2 up to which it is: the transfer matrices cost that much a step


class Moves(Protocol):
    """The transition matrices of a chain."""

    def forth(self, row: Tensor, t: int) -> Tensor:
        """Take a law `(..., K, R)` over the transition that leads to step `t + 1`."""

    def back(self, message: Tensor, t: int) -> Tensor:
        """Take a message back over it."""

    def matrices(self, t: int) -> Tensor:
        """The matrices of it, `(..., R or 1, K, K)`."""

    def in_blocks(self, blocks: int, length: int, rows: int) -> Moves:
        """Those of the steps of all blocks side by side: `t` counts within a block, rows are those of all blocks."""


@frozen
class OneMatrix(Moves):
    """One matrix for all steps and rows."""

    turned: Tensor = field(repr=False)
    matrix: Tensor = field(repr=False)  # (..., K, K)

    def forth(self, row: Tensor, t: int) -> Tensor:
        """One product for all rows."""
        return self.turned @ row

    def back(self, message: Tensor, t: int) -> Tensor:
        """Likewise."""
        return self.matrix @ message

    def matrices(self, t: int) -> Tensor:
        """The one."""
        return self.matrix.unsqueeze(-3)

    def in_blocks(self, blocks: int, length: int, rows: int) -> OneMatrix:
        """The one."""
        return self


@frozen
class OneAStep(Moves):
    """A matrix for every step, shared by the rows or not."""

    every: Tensor = field(repr=False)  # (..., T - 1, R or 1, K, K)

    def forth(self, row: Tensor, t: int) -> Tensor:
        """Every row by its own."""
        return _times(row, self.matrices(t))

    def back(self, message: Tensor, t: int) -> Tensor:
        """Likewise."""
        return _times(message, self.matrices(t).mT)

    def matrices(self, t: int) -> Tensor:
        """Those of the step."""
        return self.every[..., t, :, :, :]

    def in_blocks(self, blocks: int, length: int, rows: int) -> OneAStep:
        """The steps of all blocks that have one place in them."""
        inner = self.every[..., : blocks * length, :, :, :].unflatten(-4, (blocks, length)).movedim(-5, -4)
        return OneAStep(inner.expand((*inner.shape[:-3], rows, *inner.shape[-2:])).flatten(-4, -3))


def smooth(first: Tensor, transition: Tensor, likelihood: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Filter and smooth.

    Args:
        first: law of the first state, `(..., K, R)`.
        transition: `(..., K, K)`, or `(..., T - 1, R or 1, K, K)` where matrices differ.
        likelihood: of every step, `(..., K, T, R)`; on return it holds the messages `m_t = e_t b_t / c_t`.

    Returns:
        Filtered states `a` `(..., K, T, R)`; their norms `c` `(..., T, R)`; smoothed states `a b`; the largest `b / c`
        of every row, `(..., R)`.
    """
    states, steps, rows = likelihood.shape[-3:]
    filtered, beta = torch.empty_like(likelihood), torch.empty_like(likelihood)
    norms = likelihood.new_empty((*likelihood.shape[:-3], steps, rows))
    shared = transition.dim() == likelihood.dim() - 1
    moves = OneMatrix(transition.mT.contiguous(), transition) if shared else OneAStep(transition)
    if steps >= LONG and rows * states**2 <= WIDE:
        _in_blocks(first, moves, likelihood, filtered, norms, beta)
        likelihood.div_(norms.unsqueeze(-3)).mul_(beta)
    else:
        _step_by_step(first, moves, likelihood, filtered, norms, beta)
    peaks = (beta.amax(-3) / norms).amax(-2)
    return filtered, norms, beta.mul_(filtered), peaks


def _step_by_step(
    first: Tensor, moves: Moves, likelihood: Tensor, filtered: Tensor, norms: Tensor, beta: Tensor
) -> None:
    """Run the scaled recursions forwards and backwards (Rabiner 1989, section V.A), into the last three."""
    seen, forth, back = likelihood.unbind(-2), filtered.unbind(-2), beta.unbind(-2)
    totals = norms.unsqueeze(-3).unbind(-2)
    row = first
    for t in range(len(seen)):
        if t:
            row = moves.forth(row, t - 1)
        row = row * seen[t]
        totals[t].copy_(row.sum(-2, keepdim=True))
        row = row.div_(totals[t])
        forth[t].copy_(row)
    row = torch.ones_like(first)
    for t in range(len(seen) - 1, -1, -1):
        back[t].copy_(row)
        message = seen[t].mul_(row).div_(totals[t])
        if t:
            row = moves.back(message, t - 1)


def _times(row: Tensor, transition: Tensor) -> Tensor:
    """Advance every row by a matrix of its own: `(..., K, R)` times `(..., R or 1, K, K)`."""
    return (row.mT.unsqueeze(-2) @ transition).squeeze(-2).mT


# ---- blocks of a long chain ------------------------------------------------------------------------------------------


def _cut(steps: int) -> tuple[int, int]:
    """Number of blocks and their length; what is left over is taken step by step."""
    length = max(2, int(steps**0.5))
    return (steps - 1) // length, length


def _in_blocks(first: Tensor, moves: Moves, likelihood: Tensor, filtered: Tensor, norms: Tensor, beta: Tensor) -> None:
    """All steps after the first in blocks of one length, then the few that are left over."""
    lead, (states, steps, rows) = likelihood.shape[:-3], likelihood.shape[-3:]
    blocks, length = _cut(steps)
    last = blocks * length  # step at which the last block ends
    # (length, ..., K, blocks x rows): the rows of all blocks side by side
    inner = likelihood[..., 1 : 1 + last, :].unflatten(-2, (blocks, length)).movedim(-2, 0).flatten(-2).contiguous()
    within_block = moves.in_blocks(blocks, length, rows)
    eye = torch.eye(states, dtype=first.dtype, device=first.device)
    ends = eye.expand((*lead, blocks * rows, states, states))
    logs = first.new_zeros((*lead, blocks * rows, states))  # of what was taken out of each row of a transfer matrix
    for k, seen in enumerate(inner):
        ends = (ends @ within_block.matrices(k)).mul_(seen.mT.unsqueeze(-2))
        total = ends.sum(-1, keepdim=True)
        ends = ends.div_(torch.where(total == 0, 1.0, total))
        logs = logs + total.squeeze(-1).log()
    ends, logs = ends.unflatten(-3, (blocks, rows)), logs.mT.unflatten(-1, (blocks, rows))

    def step(row: Tensor, t: int) -> Tensor:
        row = row * likelihood[..., t, :]
        norms[..., t, :] = row.sum(-2)
        filtered[..., t, :] = row = row / row.sum(-2, keepdim=True)
        return row

    row = step(first, 0)
    starts = first.new_empty((*lead, states, blocks, rows))
    for b in range(blocks):
        starts[..., b, :] = row
        row = _times(_shifted(row.log() + logs[..., b, :]), ends[..., b, :, :, :])
        row = row / row.sum(-2, keepdim=True)
    row, within = starts.flatten(-2), torch.empty_like(inner)
    totals = inner.new_empty((length, *lead, 1, blocks * rows))
    for k in range(length):
        row = within_block.forth(row, k).mul_(inner[k])
        totals[k] = row.sum(-2, keepdim=True)
        within[k] = row = row.div_(totals[k])
    filtered[..., 1 : 1 + last, :] = _laid_back(within, blocks)
    norms[..., 1 : 1 + last, :] = _laid_back(totals, blocks).squeeze(-3)
    for t in range(1 + last, steps):
        step(moves.forth(filtered[..., t - 1, :], t - 1), t)

    row = torch.ones_like(first)
    for t in range(steps - 1, last, -1):
        beta[..., t, :] = row
        row = moves.back(row * likelihood[..., t, :] / norms[..., t, :].unsqueeze(-2), t - 1)
    after = first.new_empty((*lead, states, blocks, rows))
    for b in range(blocks - 1, -1, -1):
        after[..., b, :] = row
        row = _shifted(_times(row, ends[..., b, :, :, :].mT).log() + logs[..., b, :])
        # the smoothed weights of a step sum to one: that fixes the scale of its message
        row = row / (filtered[..., b * length, :] * row).sum(-2, keepdim=True)
    row, inner = after.flatten(-2), inner.div_(totals)
    for k in range(length - 1, -1, -1):
        within[k] = row
        row = within_block.back(row * inner[k], k)
    beta[..., 1 : 1 + last, :] = _laid_back(within, blocks)
    beta[..., 0, :] = row.unflatten(-1, (blocks, rows))[..., 0, :]


def _shifted(logs: Tensor) -> Tensor:
    """Exponentiate after taking the largest state out: `(..., K, R)`."""
    return (logs - logs.amax(-2, keepdim=True)).exp()


def _laid_back(within: Tensor, blocks: int) -> Tensor:
    """From `(length, ..., K, blocks x rows)` to `(..., K, blocks x length, rows)`."""
    return within.unflatten(-1, (blocks, -1)).movedim(0, -2).flatten(-3, -2)
