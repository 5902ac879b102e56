"""What a few moves have taught about the curvature of an objective: limited-memory BFGS, preconditioned by a map.

This file knows vectors, nothing else. A map that climbs an objective, `x -> x + r(x)`, is a preconditioner: near a
maximum its step is `r = H0 g`, with `g` the gradient and `H0` the inverse of some information (of complete data, where
the map is an EM step). A move `s` changes the gradient by `-y` and the step by `-w`, so that `w = H0 y` is known
without `H0`. BFGS corrects `H0` to an `H` with `H y = s` for the moves that it keeps.

References:
    Jamshidian and Jennrich (1997), Acceleration of the EM algorithm by using quasi-Newton methods, Journal of the Royal
    Statistical Society B 59:569-587 (QN2, of which this is the limited-memory form).
    Byrd, Nocedal and Schnabel (1994), Representations of quasi-Newton matrices and their use in limited memory methods,
    Mathematical Programming 63:129-156 (equation 3.1: all corrections as a few products).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...records.frozen import frozen

KEPT, NUMBERS = 40, 200_000  # moves that are remembered: at most, and so many that they take this many numbers
CURVED = 1e-10  # of the terms of `s'y`, in any units: a move along which the gradient hardly falls teaches nothing


@frozen
class Secants:
    """Moves and what they changed, the oldest first; empty at the start.

    Attributes:
        moves: `s`, shape (moves, D).
        falls: of the gradient, `y`, shape (moves, D).
        shrinks: of the map's step, `w`, shape (moves, D).
    """

    moves: Tensor
    falls: Tensor
    shrinks: Tensor

    @staticmethod
    def none(size: int) -> Secants:
        """Know nothing yet of `size` coordinates."""
        return Secants(*torch.zeros((3, 0, size), dtype=torch.float64))

    def __len__(self) -> int:
        """Return how many moves are remembered."""
        return len(self.moves)

    def after(self, move: Tensor, fall: Tensor, shrink: Tensor) -> Secants:
        """Remember one more move, unless the objective is not concave along it; forget the oldest of too many."""
        if not bool(_curved(move, fall)):
            return self
        most = max(5, min(KEPT, NUMBERS // max(1, len(move))))
        pairs = zip((self.moves, self.falls, self.shrinks), (move, fall, shrink), strict=True)
        return Secants(*(torch.cat([old, new.unsqueeze(0)]) for old, new in pairs)).newest(most)

    def within(self, free: Tensor) -> Secants:
        """Leave out coordinates that others than `free` have moved, and moves that then teach nothing."""
        if not len(self) or not bool((self.moves[:, ~free] != 0).any()):
            return self
        moves, falls, shrinks = (part * free for part in (self.moves, self.falls, self.shrinks))
        kept = _curved(moves, falls)
        return Secants(moves[kept], falls[kept], shrinks[kept])

    def newest(self, many: int) -> Secants:
        """Forget all but the last moves."""
        first = max(0, len(self) - many)
        return Secants(self.moves[first:], self.falls[first:], self.shrinks[first:])

    def direction(self, slope: Tensor, step: Tensor) -> Tensor:
        """Return `H g`, shape (D), for the gradient `g` at a point and the map's step there.

        With `S, Y, W` the matrices of moves, `R` the upper triangle of `S Y'` and `D` its diagonal,

            p = R^-1 S g,    H g = r - W' p + S' R^-T ((D + Y W') p - Y r).
        """
        if not len(self):
            return step
        upper = (self.moves @ self.falls.T).triu()
        p = torch.linalg.solve_triangular(upper, (self.moves @ slope).unsqueeze(-1), upper=True)
        right = (upper.diagonal().diag() + self.falls @ self.shrinks.T) @ p - (self.falls @ step).unsqueeze(-1)
        back = torch.linalg.solve_triangular(upper.T, right, upper=False)
        return step - self.shrinks.T @ p.squeeze(-1) + self.moves.T @ back.squeeze(-1)


def _curved(moves: Tensor, falls: Tensor) -> Tensor:
    """Whether the gradient falls along moves (..., D), by more than the rounding of its terms."""
    terms = moves * falls
    return terms.sum(-1) > CURVED * terms.abs().sum(-1)
