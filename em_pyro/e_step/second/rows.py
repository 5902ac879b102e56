"""Scores of rows in all states, where these are few or no features serve all rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import torch
from torch import Tensor

from ...errors import PlanError
from ...program.named import Batch
from ...reading.bound import Bound
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from .directions import Directions
from .pairs import Pairs, blocks, density

MOST = 50_000_000  # numbers that are held


@frozen
class RowScores:
    """Scores of rows in all states: where arguments or statistics of a site differ by row, or directions are few.

    Attributes:
        pairs: of the sites that are summed over rows, around the common centre.
        apart: scores of the others, `(r, K, rows)`; None without others.
        totals: what is missing, and the squares, `(2, r, r)`, which chunks are added to.
    """

    pairs: Pairs
    apart: Tensor | None
    totals: Tensor

    @classmethod
    def of(cls, pairs: Pairs, along: Directions, bind: Callable[[Batch], Bound]) -> RowScores:
        """Look at the sites that are not summed over rows, all rows at once."""
        states, apart = pairs.states, None
        if states.by_rows:
            check(along.count * states.count * prod(states.rows(WHOLE)), "directions, states and rows")
        for site in states.by_rows:
            found = along.derivative(bind, partial(density, site))
            found = states.by_row(found, site.names, WHOLE, states.latents).reshape((along.count, states.count, -1))
            alive = states.factors[site.name].alive if site.role != "observed" else None
            found = found if alive is None else found * states.by_row(alive.tensor, alive.names, WHOLE)
            apart = found if apart is None else apart + found
        return cls(pairs, apart, along.basis.new_zeros((2, along.count, along.count)))

    def add(self, chunk: Chunk, weights: Tensor, counts: Tensor | None) -> None:
        """Add the rows of a chunk; where some site is not summed, there is one chunk."""
        assert self.apart is None or chunk == WHOLE
        features, slopes = self.pairs.features(chunk), self.pairs.slopes
        for here in blocks(features, slopes[..., :1].numel()):
            scores, share = slopes @ features[:, here], weights[:, here]
            scores = scores if self.apart is None else scores + self.apart[..., here]
            mean = (scores * share).sum(1)
            apart = torch.where(share > 0, scores - mean.unsqueeze(1), 0.0)
            count = share.new_ones(()) if counts is None else counts[here]
            self.totals[0].addmm_((apart * share * count).flatten(1), apart.flatten(1).mT)
            self.totals[1].addmm_(mean * count, mean.mT)

    def found(self) -> tuple[Tensor, Tensor]:
        """Information that is missing, and squares of scores, both `(r, r)`."""
        return self.totals[0], self.totals[1]


def check(many: int, what: str) -> None:
    """Refuse what memory should not hold.

    Raises:
        PlanError: there are too many numbers.
    """
    if many > MOST:
        raise PlanError(
            f"Second-order sums: expected at most {MOST} numbers, got {many}, of {what}. Take differences of scores."
        )
