"""Pairs of states: sums of products of features, under the products of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod

import torch
from torch import Tensor

from ...program.named import Batch
from ...reading.bound import Bound
from ...reading.predictor import pairs, squared
from ...records.frozen import frozen
from ..chunks import Chunk
from ..sites.site_factor import SiteFactor
from .directions import Directions
from .states import States

BLOCK = 1 << 19  # products of features that are held at once: they stay in cache


@frozen
class Pairs:
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
    ) -> Pairs:
        """Around the location of one state, or the common centre."""
        slopes, centres = list[Tensor](), list[Tensor | None]()
        for own in states.own:
            slope = along.derivative(bind, partial(density, own))
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
        for here in blocks(features, max(self.sums.shape)):
            share = weights[first, here] * weights[second, here]
            share = share if counts is None else share * counts[here]
            self.sums.addmm_(share, pairs(features[:, here]).mT)

    def found(self) -> tuple[Tensor, Tensor]:
        """Information that is missing, and squares of scores, both `(r, r)`: a pair moves few of the directions."""
        directions, _, width = self.slopes.shape
        missing, squares = (self.slopes.new_zeros((directions, directions)) for _ in range(2))
        for pair, upper in zip(self.pairs, self.sums, strict=True):
            moments, slopes = squared(upper, width), self.slopes[:, list(pair)]
            moved = (slopes != 0).any(-1).any(-1).nonzero().squeeze(-1)
            one, other = slopes[moved].unbind(1)
            here = moved.unsqueeze(-1), moved
            cross = one @ moments @ other.mT
            squares[here] += cross if pair[0] == pair[1] else cross + cross.mT
            missing[here] += (one - other) @ moments @ (one - other).mT
        return missing, squares


def density(site: SiteFactor, bound: Bound) -> Tensor:
    """Log-density of a site in all rows and cells, (starts) + its names."""
    return site.log_density(site.natural(bound), site.features())


def blocks(features: Tensor, width: int) -> Iterator[slice]:
    """Yield the rows in blocks, so many numbers each, that stay in cache."""
    size = max(1, BLOCK // max(width, 1))
    yield from (slice(start, start + size) for start in range(0, features.shape[-1], size))


def _spread(states: States, site: SiteFactor, slopes: Tensor) -> Tensor:
    """Derivatives `(r, K, F)` of features that differ by state: each state has features of its own."""
    if not (told := states.told(site)):
        return slopes
    each = torch.eye(prod(site.sizes[n] for n in told), dtype=torch.float64)
    each = each.reshape((*(site.sizes[n] for n in told), -1)).unsqueeze(0)
    return (slopes.unsqueeze(-1) * states.by_state(each, told, 1).unsqueeze(2)).flatten(2)
