"""Least squares between bounds: what has to stay positive, or in an interval.

`Q` is concave in locations, so that the maximum between bounds is where every entry inside has a slope of zero, and
every entry at a bound a slope that points out. Which entries are at their bounds is found by exchange: solve for those
inside, put those that left to their bounds, let go of those that are pulled in, and again. All that are wrong are
exchanged at once; where that does not lessen their number, only the last of them, which ends for every matrix.

References:
    Júdice and Pires (1994), A block principal pivoting algorithm for large-scale strictly monotone linear
    complementarity problems. Computers & Operations Research 21. Murty (1974), Note on a Bard-type scheme for solving
    the complementarity problem. Opsearch 11 (the last of them).
"""

from __future__ import annotations

import torch
from torch import Tensor

TRIES = 3  # exchanges of all that are wrong without fewer of them, before it is the last one alone
EXCHANGES = 100  # for every unknown
ROUNDING = 1e-13  # of the terms of a slope, or of a bound: what is zero
RIDGE = 1e-12  # of a diagonal of one: what makes a matrix that has lost its rank regular

Bounds = tuple[Tensor, Tensor]


def between(matrix: Tensor, right: Tensor, old: Tensor, free: Tensor, bounds: Bounds) -> Tensor:
    """Minimise `x' A x / 2 - r' x` between bounds, each of a batch by itself; `old` where no end was found.

    Args:
        matrix: `A`, positive semi-definite with a diagonal of one, (batch, n, n).
        right: `r`, (batch, n).
        old: where to stay, between the bounds, (batch, n).
        free: the minimum without bounds, (batch, n).
        bounds: each (batch, n).
    """
    low, high = bounds
    found, todo = free.clone(), ((free < low) | (free > high)).any(-1).nonzero().squeeze(-1)
    if len(todo):
        parts = (part[todo] for part in (matrix, right, old, free, low, high))
        found[todo] = _exchanged(*parts)
    return found


def _exchanged(matrix: Tensor, right: Tensor, old: Tensor, free: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The same of those whose minimum without bounds is beyond one."""
    count = free.shape[-1]
    ridge = torch.where(torch.linalg.cholesky_ex(matrix)[1] == 0, 0.0, RIDGE)[:, None]
    matrix, right = matrix + torch.diag_embed(ridge.expand_as(free)), right + ridge * old
    at = torch.where(free < low, -1, torch.where(free > high, 1, 0))  # below, inside, above
    fewest = torch.full((len(free),), count + 1)
    tries, done = torch.zeros_like(fewest), torch.zeros_like(fewest, dtype=torch.bool)
    found = old
    for _ in range(EXCHANGES * count):
        x = _inside(matrix, right, at, low, high)
        pull = right - (matrix @ x.unsqueeze(-1)).squeeze(-1)
        slack = ROUNDING * (right.abs() + (matrix.abs() @ x.abs().unsqueeze(-1)).squeeze(-1))
        below, above = (at == 0) & (x < low), (at == 0) & (x > high)
        inwards = (at < 0) & (pull > slack) | (at > 0) & (pull < -slack)
        wrong = below | above | inwards
        many = wrong.sum(-1)
        found, done = torch.where((~done & (many == 0))[:, None], x, found), done | (many == 0)
        if bool(done.all()):
            break
        fewer = many < fewest
        fewest, tries = torch.where(fewer, many, fewest), torch.where(fewer, 0, tries + 1)
        last = torch.where(wrong, torch.arange(count), -1).amax(-1, keepdim=True) == torch.arange(count)
        exchanged = wrong & ((tries < TRIES)[:, None] | last)
        at = torch.where(exchanged, torch.where(below, -1, torch.where(above, 1, 0)), at)
    return found


def _inside(matrix: Tensor, right: Tensor, at: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Solve for the entries inside, the others at their bounds."""
    inside = at == 0
    held = torch.where(at < 0, low, torch.where(at > 0, high, 0.0))
    right = torch.where(inside, right - (matrix @ held.unsqueeze(-1)).squeeze(-1), held)
    matrix = torch.where(inside.unsqueeze(-1) & inside.unsqueeze(-2), matrix, 0.0)
    matrix = matrix + torch.diag_embed(torch.where(inside, 0.0, 1.0).to(matrix))
    return torch.linalg.solve_ex(matrix, right.unsqueeze(-1))[0].squeeze(-1)
