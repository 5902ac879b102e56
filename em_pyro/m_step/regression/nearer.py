"""From far out back towards zero: a climb that was given up where all densities are saturated begins again nearer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FAR = 100.0  # beside `1 + |coordinate|`: what takes a direction of no use away from the others; a coordinate far out
SHARES = (*(0.1**k for k in range(1, 16)), 0.0)  # of the way out from zero, at which the function is looked at


def nearer(heights: Callable[[Tensor], Tensor], stuck: Tensor) -> Tensor:
    """Return where on the way to zero a function is highest, as shares of the coordinates; one where it is higher here.

    Args:
        heights: the function at such shares, both `(S, sets)`.
        stuck: the sets of coordinates that are to be moved, `(S, sets)`.
    """
    best = torch.ones(stuck.shape, dtype=torch.float64, device=stuck.device)
    highest = heights(best)
    for share in SHARES:
        trial = torch.where(stuck, share, best)
        height = heights(trial)
        higher = stuck & (height > highest)
        best, highest = torch.where(higher, trial, best), torch.where(higher, height, highest)
    return best
