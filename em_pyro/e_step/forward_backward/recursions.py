"""The scaled forward and backward recursions as plain loops over arrays, to be compiled.

Nothing here imports a compiler: `compiled` hands these functions to numba where it is installed. Few rows are taken one
after the other; many are advanced together, `BLOCK` at a time, so that the innermost loop runs over rows that stand
side by side in memory.

Shapes: `L` starts, `K` states, `T` steps, `R` rows. Reference: Rabiner (1989), section V.A.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

BLOCK = 64  # rows side by side: their messages stay in the first-level cache for some tens of states
FEW = 8  # rows below which they are taken one by one


def filter_few(prior: Array, transition: Array, likelihood: Array, filtered: Array, norms: Array) -> None:
    """Filter: `a_t = (a_{t-1} P) e_t / c_t`, with `c_t` such that `a_t` sums to one.

    Args:
        prior: law of the first state, `(L, K, R)`.
        transition: `(L, K, K)`.
        likelihood: `(L, K, T, R)`.
        filtered: receives `a`, `(L, K, T, R)`.
        norms: receives `c`, `(L, T, R)`.
    """
    starts, states, steps, rows = likelihood.shape
    last, new = np.empty(states), np.empty(states)
    for s in range(starts):
        for r in range(rows):
            for t in range(steps):
                if t == 0:
                    for j in range(states):
                        new[j] = prior[s, j, r]
                else:
                    for j in range(states):
                        new[j] = 0.0
                    for i in range(states):
                        x = last[i]
                        for j in range(states):
                            new[j] += x * transition[s, i, j]
                total = 0.0
                for j in range(states):
                    new[j] *= likelihood[s, j, t, r]
                    total += new[j]
                inverse = 1.0 / total
                for j in range(states):
                    last[j] = new[j] * inverse
                    filtered[s, j, t, r] = last[j]
                norms[s, t, r] = total


def filter_many(prior: Array, transition: Array, likelihood: Array, filtered: Array, norms: Array) -> None:
    """Do what `filter_few` does, `BLOCK` rows at a time."""
    starts, states, steps, rows = likelihood.shape
    lasts, news, totals = np.empty((states, BLOCK)), np.empty((states, BLOCK)), np.empty(BLOCK)
    for s in range(starts):
        for first in range(0, rows, BLOCK):
            n = min(BLOCK, rows - first)
            for t in range(steps):
                for r in range(n):
                    totals[r] = 0.0
                for j in range(states):
                    if t == 0:
                        for r in range(n):
                            news[j, r] = prior[s, j, first + r]
                    else:
                        for r in range(n):
                            news[j, r] = 0.0
                        for i in range(states):
                            x = transition[s, i, j]
                            for r in range(n):
                                news[j, r] += x * lasts[i, r]
                    for r in range(n):
                        news[j, r] *= likelihood[s, j, t, first + r]
                        totals[r] += news[j, r]
                for r in range(n):
                    norms[s, t, first + r] = totals[r]
                    totals[r] = 1.0 / totals[r]
                for j in range(states):
                    for r in range(n):
                        lasts[j, r] = news[j, r] * totals[r]
                        filtered[s, j, t, first + r] = lasts[j, r]


def smooth_few(
    transition: Array, filtered: Array, norms: Array, messages: Array, smoothed: Array, peaks: Array
) -> None:
    """Smooth: `b_{t-1} = P m_t` with the messages `m_t = e_t b_t / c_t`.

    Args:
        transition: `(L, K, K)`.
        filtered: `a`, `(L, K, T, R)`.
        norms: `c`, `(L, T, R)`.
        messages: `e` on entry, `m` on exit, `(L, K, T, R)`.
        smoothed: receives `a b`, `(L, K, T, R)`.
        peaks: receives the largest `b / c` of every row, `(L, R)`.
    """
    starts, states, steps, rows = messages.shape
    beta, message, back = np.empty(states), np.empty(states), np.empty((states, states))
    for s in range(starts):
        for i in range(states):
            for j in range(states):
                back[j, i] = transition[s, i, j]
        for r in range(rows):
            peak = 0.0
            for j in range(states):
                beta[j] = 1.0
            for t in range(steps - 1, -1, -1):
                inverse = 1.0 / norms[s, t, r]
                for j in range(states):
                    x = beta[j]
                    smoothed[s, j, t, r] = filtered[s, j, t, r] * x
                    x *= inverse
                    peak = max(peak, x)
                    message[j] = messages[s, j, t, r] * x
                    messages[s, j, t, r] = message[j]
                    beta[j] = 0.0
                for j in range(states):
                    x = message[j]
                    for i in range(states):
                        beta[i] += back[j, i] * x
            peaks[s, r] = peak


def smooth_many(
    transition: Array, filtered: Array, norms: Array, messages: Array, smoothed: Array, peaks: Array
) -> None:
    """Do what `smooth_few` does, `BLOCK` rows at a time."""
    starts, states, steps, rows = messages.shape
    betas, sent, inverses, tops = np.empty((states, BLOCK)), np.empty((states, BLOCK)), np.empty(BLOCK), np.empty(BLOCK)
    for s in range(starts):
        for first in range(0, rows, BLOCK):
            n = min(BLOCK, rows - first)
            for r in range(n):
                tops[r] = 0.0
            for j in range(states):
                for r in range(n):
                    betas[j, r] = 1.0
            for t in range(steps - 1, -1, -1):
                for r in range(n):
                    inverses[r] = 1.0 / norms[s, t, first + r]
                for j in range(states):
                    for r in range(n):
                        x = betas[j, r]
                        smoothed[s, j, t, first + r] = filtered[s, j, t, first + r] * x
                        x = x * inverses[r]
                        tops[r] = max(tops[r], x)
                        sent[j, r] = messages[s, j, t, first + r] * x
                        messages[s, j, t, first + r] = sent[j, r]
                for i in range(states):
                    for r in range(n):
                        betas[i, r] = 0.0
                    for j in range(states):
                        x = transition[s, i, j]
                        for r in range(n):
                            betas[i, r] += x * sent[j, r]
            for r in range(n):
                peaks[s, first + r] = tops[r]


BY_ROWS = ((filter_few, smooth_few), (filter_many, smooth_many))
"""Filter and smoother for fewer than `FEW` rows, and for more."""
