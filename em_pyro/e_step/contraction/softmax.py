"""The softmax of a mixture: posterior weights of the states of every row, and the log evidence of all rows."""

from __future__ import annotations

from functools import cache
from math import log

import torch
from torch import Tensor

# exp is several times slower where it underflows; what is below exp(floor) is zero in any sum that it enters.
FLOOR = {torch.float64: -700.0, torch.float32: -80.0}
SMALLEST = {dtype: 2 * torch.tensor(floor, dtype=torch.float64).exp().item() for dtype, floor in FLOOR.items()}
FEW = 4096  # rows up to which another call costs more than it saves
RANGE = 500.0  # log of what a product of softmax peaks may shrink to


def posterior_weights(logits: Tensor, out: Tensor, scale: Tensor | None) -> Tensor:
    """Write the softmax of `logits` over its states to `out`, and return the sum of their log-sum-exps.

    The largest weight `p` of a row is `exp(top) / sum exp`, so that the log-sum-exp of the row is `top - log p`. All
    `p` lie between 1/K and 1; of many rows without weights the logarithm of a product of several is taken, which is one
    logarithm in place of many.

    Args:
        logits: shape `(..., K, rows)`; overwritten.
        out: of the same shape.
        scale: weight of each row, shape `(rows,)`; it multiplies the row's weights and its log-sum-exp.

    Returns:
        Shape `(...)`.
    """
    top, few = logits.amax(-2, keepdim=True), logits.shape[-1] <= FEW
    if not few:  # exp is many times slower where it underflows
        torch.maximum(logits, top + FLOOR[logits.dtype], out=logits)
    torch.softmax(logits, -2, out=out)
    torch.threshold_(out, SMALLEST[logits.dtype], 0.0)  # exact zeros stay zero
    peak = out.amax(-2, keepdim=True)
    if scale is not None:
        out *= scale
        return ((top - peak.log()) * scale).sum((-1, -2))
    if few:
        return (top - peak.log()).sum((-1, -2))
    return top.sum((-1, -2)) - log_of_product(peak.squeeze(-2), logits.shape[-2])


def log_of_product(peak: Tensor, states: int) -> Tensor:
    """`sum log(peak)` over the last dimension, for values between `1 / states` and 1, without underflow."""
    rows = peak.shape[-1]
    together, whole = _groups(rows, states)
    if whole == rows:
        return peak.view((*peak.shape[:-1], together, -1)).prod(-2).log().sum(-1)
    return log_of_product(peak[..., :whole].contiguous(), states) + peak[..., whole:].log().sum(-1)


@cache
def _groups(rows: int, states: int) -> tuple[int, int]:
    """How many rows are multiplied together, and how many rows are in such groups: all, if a fair number divides."""
    most = min(int(RANGE / log(max(states, 2))), 16, rows)
    fair = next((n for n in range(most, most // 2, -1) if rows % n == 0), 0)
    return (fair, rows) if fair else (most, rows - rows % most)
