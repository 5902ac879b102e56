"""Block Cholesky of block tridiagonal matrices, solves and selected inverses, as plain loops to be compiled.

Nothing here imports a compiler: `sequential` hands these functions to numba where it is installed. With `D_i` on the
diagonal and `B_i` below it, between the blocks `i` and `i + 1`,

    L_i L_i' = D_i - M_{i-1} M_{i-1}',   M_i = B_i L_i'^-1,

and with `G_i = M_i L_i^-1` the blocks of the inverse `V` that are wanted follow backwards,

    V_{i+1,i} = -V_{i+1,i+1} G_i,   V_ii = (L_i L_i')^-1 - G_i' V_{i+1,i}.

Shapes: `B` matrices, `T` blocks of width `w`. References: Golub and Van Loan (2013), Matrix computations, section 4.5;
Takahashi, Fagan and Chin (1973), formation of a sparse bus impedance matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Index = np.ndarray[Any, np.dtype[np.int64]]


@lru_cache
def factoring(width: int) -> Callable[..., None]:
    """The loop for blocks of one width, of which a compiler makes less than half of the time."""

    def factor(diagonal: Array, below: Array, fine: np.ndarray[Any, np.dtype[np.bool_]], first: int, end: int) -> None:
        """Factor in place.

        Args:
            diagonal: `D` on entry, the lower triangles `L` on exit, `(B, T, w, w)`; what is above them is zero.
            below: `B` on entry, `M` on exit, `(B, T - 1, w, w)`.
            fine: is put to false where a matrix is not positive definite, `(B,)`.
            first: block that is factored; those before it are.
            end: behind the last one.
        """
        matrices, steps = diagonal.shape[:2]
        for b in range(matrices):
            for t in range(first, end):
                root = diagonal[b, t]
                if t > 0:
                    before = below[b, t - 1]
                    for i in range(width):
                        for j in range(i + 1):
                            total = root[i, j]
                            for k in range(width):
                                total -= before[i, k] * before[j, k]
                            root[i, j] = total
                for j in range(width):
                    pivot = root[j, j]
                    for k in range(j):
                        pivot -= root[j, k] * root[j, k]
                    if not pivot > 0.0:
                        fine[b] = False
                    pivot = np.sqrt(pivot)
                    root[j, j] = pivot
                    inverse = 1.0 / pivot
                    for i in range(j + 1, width):
                        total = root[i, j]
                        for k in range(j):
                            total -= root[i, k] * root[j, k]
                        root[i, j] = total * inverse
                        root[j, i] = 0.0
                    if t + 1 < steps:  # a column of M
                        after = below[b, t]
                        for i in range(width):
                            total = after[i, j]
                            for k in range(j):
                                total -= after[i, k] * root[j, k]
                            after[i, j] = total * inverse

    return factor


@lru_cache
def going_forth(width: int) -> Callable[..., None]:
    """Likewise."""

    def forth(root: Array, coupling: Array, of: Index, vectors: Array) -> None:
        """Solve with the factor, in place.

        Args:
            root: `L`, `(B, T, w, w)`.
            coupling: `M`, `(B, T - 1, w, w)`.
            of: the matrix of every vector, `(n,)`.
            vectors: right sides on entry, solutions on exit, `(n, T, w)`.
        """
        count, steps = vectors.shape[:2]
        reciprocal = np.empty(width)  # known before what waits for the step before it
        for n in range(count):
            b = of[n]
            for t in range(steps):
                for i in range(width):
                    reciprocal[i] = 1.0 / root[b, t, i, i]
                for i in range(width):
                    total = vectors[n, t, i]
                    if t > 0:
                        for k in range(width):
                            total -= coupling[b, t - 1, i, k] * vectors[n, t - 1, k]
                    for k in range(i):
                        total -= root[b, t, i, k] * vectors[n, t, k]
                    vectors[n, t, i] = total * reciprocal[i]

    return forth


@lru_cache
def going_back(width: int) -> Callable[..., None]:
    """Likewise."""

    def back(root: Array, coupling: Array, of: Index, vectors: Array) -> None:
        """Solve with the transpose of the factor, in place; the same arguments.

        Independent standard normal vectors become ones with this precision.
        """
        count, steps = vectors.shape[:2]
        reciprocal = np.empty(width)
        for n in range(count):
            b = of[n]
            for t in range(steps - 1, -1, -1):
                for i in range(width):
                    reciprocal[i] = 1.0 / root[b, t, i, i]
                for i in range(width - 1, -1, -1):
                    total = vectors[n, t, i]
                    if t + 1 < steps:
                        for k in range(width):
                            total -= coupling[b, t, k, i] * vectors[n, t + 1, k]
                    for k in range(i + 1, width):
                        total -= root[b, t, k, i] * vectors[n, t, k]
                    vectors[n, t, i] = total * reciprocal[i]

    return back


@lru_cache
def inverting_roots(width: int) -> Callable[..., None]:
    """Likewise."""

    def invert_roots(root: Array, inverse: Array, diagonal: Array) -> None:
        """Invert the lower triangles.

        Args:
            root: `L`, `(B, T, w, w)`.
            inverse: receives `L^-1`, whose upper half is left as it is, `(B, T, w, w)`.
            diagonal: receives `(L L')^-1`, `(B, T, w, w)`.
        """
        matrices, steps = root.shape[:2]
        for b in range(matrices):
            for t in range(steps):
                for j in range(width):
                    inverse[b, t, j, j] = 1.0 / root[b, t, j, j]
                for j in range(width):
                    for i in range(j + 1, width):
                        total = 0.0
                        for k in range(j, i):
                            total -= root[b, t, i, k] * inverse[b, t, k, j]
                        inverse[b, t, i, j] = total * inverse[b, t, i, i]
                for i in range(width):
                    for j in range(i + 1):
                        total = 0.0
                        for k in range(i, width):
                            total += inverse[b, t, k, i] * inverse[b, t, k, j]
                        diagonal[b, t, i, j] = total
                        diagonal[b, t, j, i] = total

    return invert_roots


@lru_cache
def inverting(width: int) -> Callable[..., None]:
    """Likewise."""

    def invert(inverse: Array, coupling: Array, diagonal: Array, below: Array) -> None:
        """Find the blocks of the inverse on the diagonal and below it.

        Args:
            inverse: `L^-1`, `(B, T, w, w)`.
            coupling: `M`, `(B, T - 1, w, w)`.
            diagonal: `(L L')^-1` on entry, `V_ii` on exit, `(B, T, w, w)`.
            below: receives `V_{i+1,i}`, `(B, T - 1, w, w)`.
        """
        matrices, steps = inverse.shape[:2]
        gain = np.empty((width, width))
        for b in range(matrices):
            for t in range(steps - 2, -1, -1):
                for i in range(width):
                    for j in range(width):
                        total = 0.0
                        for k in range(j, width):
                            total += coupling[b, t, i, k] * inverse[b, t, k, j]
                        gain[i, j] = total
                for i in range(width):
                    for j in range(width):
                        total = 0.0
                        for k in range(width):
                            total -= diagonal[b, t + 1, i, k] * gain[k, j]
                        below[b, t, i, j] = total
                for i in range(width):
                    for j in range(i + 1):
                        total = diagonal[b, t, i, j]
                        for k in range(width):
                            total -= gain[k, i] * below[b, t, k, j]
                        diagonal[b, t, i, j] = total
                        diagonal[b, t, j, i] = total

    return invert
