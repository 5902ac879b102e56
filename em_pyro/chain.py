"""Forward-backward along a chain of latents, for many rows at once: scaled recursions, not log space.

Each step's likelihood is shifted by its largest state, so a distant outlier does not underflow. A long chain of few
rows is cut into about `sqrt(T)` blocks that are advanced together: their transfer matrices first, then the boundaries
between them, then every block again from its boundary.

Shapes: `T` steps, `...` starts, `R` rows, `K` states. References: Rabiner (1989), section III; the blocks are the
two-level scan of Blelloch (1990).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

LONG = 1024  # steps from which a chain of few rows is taken in blocks


@dataclass(frozen=True)
class Passes:
    """What the forward pass leaves for the backward pass."""

    log_z: Tensor  # (..., R); -inf or nan where the recursion underflowed
    likelihood: Tensor = field(repr=False)  # (T, ..., R, K), shifted
    transition: Tensor = field(repr=False)  # (..., K, K) or (T - 1, ..., R or 1, K, K)
    filtered: Tensor = field(repr=False)  # (T, ..., R, K)
    norms: Tensor = field(repr=False)  # (T, ..., R, 1)
    ends: Tensor | None = field(default=None, repr=False)  # transfer matrices of the blocks


def forward(unary: Tensor, pair: Tensor, *, shared: bool) -> Passes:
    """Filter.

    Args:
        unary: log-factors of every step, shape `(T, ..., R, K)`.
        pair: log-factors of the transitions, `(..., K, K)` if one serves all steps and rows (`shared`), else
            `(T - 1, ..., R or 1, K, K)`.
        shared: which of the two.
    """
    top = unary.amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    likelihood = (unary - top).exp_()
    transition = pair.exp()
    steps, states = unary.shape[0], unary.shape[-1]
    filtered, norms = torch.empty_like(likelihood), torch.empty_like(top)
    ends = None
    if shared and steps >= LONG and unary[0].numel() * states <= 4096:
        ends = _filter_blocks(likelihood, transition, filtered, norms)
    else:
        norms[0] = likelihood[0].sum(-1, keepdim=True)
        filtered[0] = likelihood[0] / norms[0]
        for t in range(1, steps):
            step = _advance(filtered[t - 1], transition if shared else transition[t - 1], shared=shared)
            step.mul_(likelihood[t])
            torch.sum(step, -1, keepdim=True, out=norms[t])
            torch.div(step, norms[t], out=filtered[t])
    log_z = (norms.log() + top).sum(0).squeeze(-1)
    return Passes(log_z, likelihood, transition, filtered, norms, ends)


def backward(passes: Passes, *, shared: bool) -> tuple[Tensor, Tensor]:
    """Smooth.

    Returns:
        Posterior of every step's state, `(T, ..., R, K)`, and the right-hand messages `e_t beta_t / c_t` of steps
        1 .. T - 1, from which `filtered[t - 1] x transition x message[t - 1]` is the posterior of a pair.
    """
    scaled = passes.likelihood / passes.norms
    beta = torch.empty_like(passes.filtered)
    steps = len(beta)
    if passes.ends is not None:
        _smooth_blocks(passes, scaled, beta)
    else:
        beta[-1] = 1.0
        for t in range(steps - 1, 0, -1):
            step = scaled[t] * beta[t]
            transition = passes.transition if shared else passes.transition[t - 1]
            beta[t - 1] = _advance(step, transition.mT, shared=shared)
    return passes.filtered * beta, scaled[1:].mul_(beta[1:])


def pairs_sum(passes: Passes, messages: Tensor, alive: Tensor | None = None) -> Tensor:
    """Posterior of all pairs summed over steps and rows, `(..., K, K)`, for a shared transition."""
    left = passes.filtered[:-1]
    right = messages if alive is None else messages * alive
    states = left.shape[-1]
    lead = left.dim() - 3
    if not lead:
        return (left.reshape(-1, states).mT @ right.reshape(-1, states)) * passes.transition
    left, right = (x.movedim(0, lead).flatten(lead, lead + 1) for x in (left, right))
    return (left.mT @ right) * passes.transition


def pairs_each(passes: Passes, messages: Tensor, *, shared: bool) -> Tensor:
    """Posterior of every pair, `(T - 1, ..., R, K, K)`."""
    transition = passes.transition.unsqueeze(-3) if shared else passes.transition
    return passes.filtered[:-1].unsqueeze(-1) * transition * messages.unsqueeze(-2)


def _advance(row: Tensor, transition: Tensor, *, shared: bool) -> Tensor:
    if shared:
        return row @ transition
    return (row.unsqueeze(-2) @ transition).squeeze(-2)


# ---- blocks of a long chain ------------------------------------------------------------------------------------------


def _cut(steps: int) -> tuple[int, int]:
    """Number of blocks and their length; what is left over is taken step by step."""
    length = max(2, int(steps**0.5))
    return (steps - 1) // length, length


def _filter_blocks(likelihood: Tensor, transition: Tensor, filtered: Tensor, norms: Tensor) -> Tensor:
    steps, states = likelihood.shape[0], likelihood.shape[-1]
    blocks, length = _cut(steps)
    rows = likelihood.shape[1:-1]
    inner = likelihood[1 : 1 + blocks * length].reshape(blocks, length, *rows, states)
    spread = transition.unsqueeze(-3)  # (..., 1, K, K): one for all rows
    ends = torch.eye(states, dtype=likelihood.dtype, device=likelihood.device).expand(blocks, *rows, states, states)
    for k in range(length):
        ends = (ends @ spread) * inner[:, k].unsqueeze(-2)
        ends = ends / ends.sum((-1, -2), keepdim=True)
    norms[0] = likelihood[0].sum(-1, keepdim=True)
    filtered[0] = likelihood[0] / norms[0]
    boundary = torch.empty((blocks, *rows, states), dtype=likelihood.dtype, device=likelihood.device)
    row = filtered[0]
    for b in range(blocks):
        boundary[b] = row
        row = (row.unsqueeze(-2) @ ends[b]).squeeze(-2)
        row = row / row.sum(-1, keepdim=True)
    within = torch.empty((length, blocks, *rows, states), dtype=likelihood.dtype, device=likelihood.device)
    scale = torch.empty((length, blocks, *rows, 1), dtype=likelihood.dtype, device=likelihood.device)
    row = boundary
    for k in range(length):
        row = (row @ transition) * inner[:, k]
        torch.sum(row, -1, keepdim=True, out=scale[k])
        row = torch.div(row, scale[k], out=within[k])
    filtered[1 : 1 + blocks * length] = within.transpose(0, 1).reshape(blocks * length, *rows, states)
    norms[1 : 1 + blocks * length] = scale.transpose(0, 1).reshape(blocks * length, *rows, 1)
    for t in range(1 + blocks * length, steps):
        row = (filtered[t - 1] @ transition) * likelihood[t]
        norms[t] = row.sum(-1, keepdim=True)
        filtered[t] = row / norms[t]
    return ends


def _smooth_blocks(passes: Passes, scaled: Tensor, beta: Tensor) -> None:
    steps, states = scaled.shape[0], scaled.shape[-1]
    blocks, length = _cut(steps)
    rows = scaled.shape[1:-1]
    back = passes.transition.mT
    beta[-1] = 1.0
    last = blocks * length  # step at which the last block ends
    for t in range(steps - 1, last, -1):
        beta[t - 1] = (scaled[t] * beta[t]) @ back
    assert passes.ends is not None
    boundary = torch.empty((blocks, *rows, states), dtype=scaled.dtype, device=scaled.device)
    row, filtered = beta[last], passes.filtered
    for b in range(blocks - 1, -1, -1):
        boundary[b] = row
        row = (passes.ends[b] @ row.unsqueeze(-1)).squeeze(-1)
        # the smoothed weights of a step sum to one: that fixes the scale of its message
        row = row / (filtered[b * length] * row).sum(-1, keepdim=True)
    inner = scaled[1 : 1 + last].reshape(blocks, length, *rows, states)
    within = torch.empty((length, blocks, *rows, states), dtype=scaled.dtype, device=scaled.device)
    row = boundary
    for k in range(length - 1, -1, -1):
        within[k] = row
        row = (inner[:, k] * row) @ back
    beta[1 : 1 + last] = within.transpose(0, 1).reshape(last, *rows, states)
    beta[0] = row[0]
