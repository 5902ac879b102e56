"""Louis' formula in one pass: the covariance of the scores of every row over the states of its latents.

With features `t_i` of a row, common to all states, the score of row `i` in state `k` is `s_ik = J_k' t_i`, where `J_k`
are the derivatives of the natural parameters. The weights `w_ik` of a row sum to one, so that

    Cov(s_i) = sum_{k < l} w_ik w_il (s_ik - s_il)(s_ik - s_il)'

has no difference of large numbers in it, and the sums `G_kl = sum_i c_i w_ik w_il t_i t_i'` are all that is asked of
the data. They are symmetric, in `k` and `l` and in the features: a quarter of the outer product of all `w_ik t_i`.

Features are taken around one centre as long as that keeps their digits to the fourth power; a pair of states of which
one is narrower than that is taken around the location of this one.

References: Louis (1982), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from math import prod

import torch
from torch import Tensor

from ...program.named import Batch, Named
from ...reading.bound import Bound
from ...records.frozen import frozen
from .directions import Directions
from .pairs import Pairs
from .rows import RowScores, check
from .states import States

FARTHEST = 25.0
"""Distance from the centre, in units of the smallest scale, up to which one centre does: its fourth power, times the
spacing of numbers, is 1e-10."""


@frozen
class Second:
    """Second-order sums over rows, along `r` directions; those of other rows add.

    Attributes:
        missing: information that is lost with the states, `sum_i c_i Cov(s_i(z) | x_i)`, `(r, r)`.
        squares: `sum_i c_i s_i s_i'` of the scores `s_i = E(s_i(z) | x_i)` of rows, which count `c_i` times, `(r, r)`;
            None where a site on which no latent tells has its rows summed before.
    """

    missing: Tensor
    squares: Tensor | None

    def __add__(self, other: Second) -> Second:
        """Add the sums of other rows."""
        known = self.squares is not None and other.squares is not None
        return Second(self.missing + other.missing, self.squares + other.squares if known else None)  # type: ignore[operator]


def second_order(
    states: Sequence[States],
    bound: Bound,
    along: Directions,
    bind: Callable[[Batch], Bound],
    replays: Mapping[str, Named],
    offsets: Mapping[str, Named],
) -> Second:
    """Collect the second-order sums of all rows.

    Args:
        states: rows, sorted by their plates.
        bound: arguments at the point around which `along` moves.
        along: directions.
        bind: binds arguments.
        replays: log-factors of the sites that are not compiled.
        offsets: log base measures that differ between states.

    Raises:
        PlanError: there are too many of them.
    """
    none = torch.zeros((along.count, along.count), dtype=torch.float64)
    total = Second(none, none)
    for some in states:
        if some.moving:
            total = total + _of(some, bound, along, bind, replays, offsets)
    return total


def _of(
    states: States,
    bound: Bound,
    along: Directions,
    bind: Callable[[Batch], Bound],
    replays: Mapping[str, Named],
    offsets: Mapping[str, Named],
) -> Second:
    """Collect the sums of rows in the same plates, chunk by chunk; arguments as for `second_order`."""
    views = _views(states, bound, along, bind)
    naturals = [unit.natural(bound, None, replays) for unit in states.units]
    for chunk in states.chunks:
        weights, counts = states.weights(naturals, replays, offsets, chunk), states.counts(chunk)
        for view in views:
            view.add(chunk, weights, counts)
    missing, squares = (sum(parts) for parts in zip(*(view.found() for view in views), strict=True))
    folded = any(site.data.folded and not states.plates and not states.latents for site in states.moving)
    return Second(missing, None if folded else squares)


def _views(
    states: States, bound: Bound, along: Directions, bind: Callable[[Batch], Bound]
) -> Sequence[Pairs | RowScores]:
    """Pairs of states by the centres of their features; or the rows themselves, where this is less or has to be."""
    rows = max(prod(states.rows(chunk)) for chunk in states.chunks)
    check(states.count * rows, "joint states and rows")  # latents that are no chain may have 2^50 of them
    check(along.count * states.count * len(states.moving), "directions, joint states and sites")
    narrow, view = _narrowness(states, bound), Pairs.of(states, bound, along, bind, None, ())
    pairs, width = states.count * (states.count + 1) // 2, view.sums.shape[-1]
    few = along.count * states.count * (along.count + view.slopes.shape[-1]) < pairs * width
    if states.by_rows or (few and max(narrow) <= FARTHEST):
        return (RowScores.of(view, along, bind),)
    check(pairs * width, f"pairs of {states.count} states and pairs of statistics")
    centred = dict[int | None, list[tuple[int, int]]]()
    for pair in combinations_with_replacement(range(states.count), 2):
        most = max(pair, key=narrow.__getitem__)
        centred.setdefault(most if narrow[most] > FARTHEST else None, []).append(pair)
    return [Pairs.of(states, bound, along, bind, at, tuple(those)) for at, those in centred.items()]


def _narrowness(states: States, bound: Bound) -> list[float]:
    """How many of its smallest scales the farthest row lies from the common centre, of every state."""
    most = torch.zeros(states.count, dtype=torch.float64)
    for site, common in states.observed:
        part = common.narrowness(bound)
        if part is not None:
            most = torch.maximum(most, states.by_state(part, site.layout.cells)[0])
    return most.tolist()
