"""Louis' formula in one pass: the covariance of the scores of every row over the states of its latents.

With features `t_i` of a row, common to all states, the score of row `i` in state `k` is `s_ik = J_k' t_i`, where `J_k`
are the derivatives of the natural parameters. The weights `w_ik` of a row sum to one, so that

    Cov(s_i) = sum_{k < l} w_ik w_il (s_ik - s_il)(s_ik - s_il)'

has no difference of large numbers in it, and the sums `G_kl = sum_i c_i w_ik w_il t_i t_i'` are all that is asked of
the data. They are symmetric, in `k` and `l` and in the features: a quarter of the outer product of all `w_ik t_i`.

Features are taken around one centre as long as that keeps their digits to the fourth power; a pair of states of which
one is narrower than that is taken around the location of this one.

References: Louis (1982), equations 3.1 to 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from math import prod

import torch
from torch import Tensor

from ...errors import PlanError
from ...program.named import Batch, Named
from ...reading.bound import Bound
from ...reading.predictor import pairs, squared
from ..chunks import WHOLE, Chunk
from ..sites.site_factor import SiteFactor
from .directions import Directions
from .states import States

BLOCK = 1 << 19  # products of features that are held at once: they stay in cache
MOST = 50_000_000  # second-order sums that are held
FARTHEST = 25.0
"""Distance from the centre, in units of the smallest scale, up to which one centre does: its fourth power, times the
spacing of numbers, is 1e-10."""


@dataclass(frozen=True)
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
    views = _views(states, bound, along, bind)
    naturals = [unit.natural(bound, None, replays) for unit in states.units]
    for chunk in states.chunks:
        weights, counts = states.weights(naturals, replays, offsets, chunk), states.counts(chunk)
        for view in views:
            view.add(chunk, weights, counts)
    missing, squares = (sum(parts) for parts in zip(*(view.found() for view in views), strict=True))
    folded = any(site.data.folded and not states.plates and not states.latents for site in states.moving)
    return Second(missing, None if folded else squares)


def _views(states: States, bound: Bound, along: Directions, bind: Callable[[Batch], Bound]) -> Sequence[View | Rows]:
    """Pairs of states by the centres of their features; or the rows themselves, where some site needs these."""
    if states.by_rows:
        _check(along.count * states.count * prod(states.rows(WHOLE)), "directions, states and rows")
        return (Rows.of(View.of(states, bound, along, bind, None, ()), along, bind),)
    narrow, centred = _narrowness(states, bound), dict[int | None, list[tuple[int, int]]]()
    for pair in combinations_with_replacement(range(states.count), 2):
        most = max(pair, key=narrow.__getitem__)
        centred.setdefault(most if narrow[most] > FARTHEST else None, []).append(pair)
    views = [View.of(states, bound, along, bind, at, tuple(those)) for at, those in centred.items()]
    _check(sum(view.sums.numel() for view in views), f"pairs of {states.count} states and pairs of statistics")
    return views


def _check(many: int, what: str) -> None:
    if many > MOST:
        raise PlanError(
            f"Second-order sums: expected at most {MOST} numbers, got {many}, of {what}. Take differences of scores."
        )


def _narrowness(states: States, bound: Bound) -> list[float]:
    """How many of its smallest scales the farthest row lies from the common centre, of every state."""
    most = torch.zeros(states.count, dtype=torch.float64)
    for site, common in states.observed:
        part = common.narrowness(bound)
        if part is not None:
            most = torch.maximum(most, states.by_state(part, site.layout.cells)[0])
    return most.tolist()


@dataclass(frozen=True)
class View:
    """Pairs of states whose features are taken around the same centre.

    Attributes:
        states: whose.
        centres: of every observed site; None is the common one.
        pairs: states `k <= l`.
        slopes: derivatives of the natural parameters of every state, `(r, K, F)`.
        sums: `(pairs, F (F + 1) / 2)`, which chunks of rows are added to.
    """

    states: States
    centres: tuple[Tensor | None, ...]
    pairs: tuple[tuple[int, int], ...]
    slopes: Tensor
    sums: Tensor

    @classmethod
    def of(
        cls,
        states: States,
        bound: Bound,
        along: Directions,
        bind: Callable[[Batch], Bound],
        at: int | None,
        those: tuple[tuple[int, int], ...],
    ) -> View:
        """Around the location of one state, or the common centre."""
        slopes, centres = list[Tensor](), list[Tensor | None]()
        for own in states.own:
            slope = along.derivative(bind, partial(_density, own))
            slopes.append(states.by_state(slope, own.names).unsqueeze(-1))
        if slopes and not states.dead:
            slopes = [torch.stack(slopes).sum(0)]
        for site, common in states.observed:
            every, cells = common.centres(bound), site.layout.cells
            if every is None or at is None:
                centres.append(common.middle(bound))
            else:
                centres.append(states.by_state(every, cells, every.dim() - 1 - len(cells))[0, at])
            slope = along.derivative(bind, partial(common.eta, centre=centres[-1]))
            slopes.append(_spread(states, site, states.by_state(slope, cells, 1)))
        none = along.basis.new_zeros((along.count, states.count, 0))
        joined = torch.cat([none, *slopes], -1)
        width = joined.shape[-1]
        return cls(states, tuple(centres), those, joined, joined.new_zeros((len(those), width * (width + 1) // 2)))

    def features(self, chunk: Chunk) -> Tensor:
        """Features of the rows of a chunk, `(F, rows)`: of the latents' own sites one, or one each, then the others."""
        states, at = self.states, 0
        made = self.slopes.new_empty((self.slopes.shape[-1], prod(states.rows(chunk))))
        for at, alive in enumerate(states.living(chunk), 1):
            made[at - 1] = alive
        for (site, common), centre in zip(states.observed, self.centres, strict=True):
            names, columns = site.layout.columns, common.columns(chunk, centre)
            columns = columns.reshape((-1, *(chunk.size(n, site.sizes[n]) for n in names)))
            found = states.by_row(columns, names, chunk, states.told(site)).flatten(0, -2)
            made[at : at + len(found)] = found
            at += len(found)
        return made

    def add(self, chunk: Chunk, weights: Tensor, counts: Tensor | None) -> None:
        """Add the rows of a chunk, given the posterior of their states `(K, rows)` and how much each counts."""
        features = self.features(chunk)
        first, second = (torch.tensor(part) for part in zip(*self.pairs, strict=True))
        size = max(1, BLOCK // self.sums.shape[-1])
        for start in range(0, features.shape[-1], size):
            here = slice(start, start + size)
            share = weights[first, here] * weights[second, here]
            share = share if counts is None else share * counts[here]
            self.sums.addmm_(share, pairs(features[:, here]).mT)

    def found(self) -> tuple[Tensor, Tensor]:
        """Information that is missing, and squares of scores, both `(r, r)`."""
        directions, _, width = self.slopes.shape
        missing, squares = (self.slopes.new_zeros((directions, directions)) for _ in range(2))
        for pair, upper in zip(self.pairs, self.sums, strict=True):
            moments = squared(upper, width)
            one, other = self.slopes[:, list(pair)].unbind(1)
            if pair[0] == pair[1]:
                squares += one @ moments @ one.mT
                continue
            cross = one @ moments @ other.mT
            squares += cross + cross.mT
            missing += (one - other) @ moments @ (one - other).mT
        return missing, squares


@dataclass(frozen=True)
class Rows:
    """Scores of all rows in all states, where arguments or statistics of some site differ by row.

    Attributes:
        states: whose.
        scores: `(r, K, rows)`.
        totals: what is missing, and the squares, both `(r, r)`, which chunks are added to.
    """

    states: States
    scores: Tensor
    totals: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, view: View, along: Directions, bind: Callable[[Batch], Bound]) -> Rows:
        """Of the sites that are summed over rows by their features, of the others by themselves."""
        states = view.states
        scores = (view.slopes.flatten(0, 1) @ view.features(WHOLE)).unflatten(0, view.slopes.shape[:2])
        for site in states.by_rows:
            found = along.derivative(bind, partial(_density, site))
            found = states.by_row(found, site.names, WHOLE, states.latents).reshape((along.count, states.count, -1))
            alive = states.factors[site.name].alive if site.role != "observed" else None
            scores += found if alive is None else found * states.by_row(alive.tensor, alive.names, WHOLE)
        none = scores.new_zeros((2, along.count, along.count))
        return cls(states, scores, (none[0], none[1]))

    def add(self, chunk: Chunk, weights: Tensor, counts: Tensor | None) -> None:
        """Add all rows; such rows are not taken in chunks."""
        assert chunk == WHOLE
        counts = weights.new_ones(()) if counts is None else counts
        mean = (self.scores * weights).sum(1)
        apart = torch.where(weights > 0, self.scores - mean.unsqueeze(1), 0.0)
        self.totals[0].addmm_((apart * weights * counts).flatten(1), apart.flatten(1).mT)
        self.totals[1].addmm_(mean * counts, mean.mT)

    def found(self) -> tuple[Tensor, Tensor]:
        """Information that is missing, and squares of scores, both `(r, r)`."""
        return self.totals


def _density(site: SiteFactor, bound: Bound) -> Tensor:
    return site.log_density(site.natural(bound), site.features())


def _spread(states: States, site: SiteFactor, slopes: Tensor) -> Tensor:
    """Derivatives `(r, K, F)` of features that differ by state: each state has features of its own."""
    if not (told := states.told(site)):
        return slopes
    each = torch.eye(prod(site.sizes[n] for n in told), dtype=torch.float64)
    each = each.reshape((*(site.sizes[n] for n in told), -1)).unsqueeze(0)
    return (slopes.unsqueeze(-1) * states.by_state(each, told, 1).unsqueeze(2)).flatten(2)
