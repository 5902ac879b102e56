"""Numbers of rows added up in a matrix, and taken out of its inverse, as plain loops to be compiled (`loops.py`)."""

from __future__ import annotations

import numpy as np

from .loops import Array, Index


def scatter(products: Array, at: Index, found: Array) -> None:
    """Add up what rows have, each in its places.

    Args:
        products: `(B, C, F)`, or `(B, 1, F)` where all rows have the same.
        at: places, `(C, F)`.
        found: is added to, `(B, places)`.
    """
    matrices, shared = products.shape[0], products.shape[1] == 1
    rows, size = at.shape
    for b in range(matrices):
        for c in range(rows):
            own = 0 if shared else c
            for f in range(size):
                found[b, at[c, f]] += products[b, own, f]


def gather(diagonal: Array, below: Array, spots: Index, weights: Array, found: Array) -> None:
    """Add up what stands in the places of rows, times their weights; a place behind all others holds a zero.

    Args:
        diagonal: the first places, `(B, D)`.
        below: those behind them, `(B, E)`.
        spots: places, `(C, F)`.
        weights: of the rows, `(B, W, C)`, or `(B, W, 1)` where all have the same.
        found: is added to, `(B, W, F)`.
    """
    matrices, kinds = weights.shape[:2]
    rows, size = spots.shape
    first, second, shared = diagonal.shape[1], diagonal.shape[1] + below.shape[1], weights.shape[2] == 1
    each = np.empty(size)
    for b in range(matrices):
        each[:] = 0.0
        for c in range(rows):
            for f in range(size):
                at = spots[c, f]
                value = diagonal[b, at] if at < first else below[b, at - first] if at < second else 0.0
                each[f] = each[f] + value if shared else value
            if not shared or c == rows - 1:
                for w in range(kinds):
                    for f in range(size):
                        found[b, w, f] += weights[b, w, 0 if shared else c] * each[f]
