"""Coordinates that meet in no cell of any site: each set is climbed by itself, with steps and an end of its own.

One component that runs off to infinity then holds up none of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import field

import torch
from torch import Tensor

from ...program.named import broadcast, connected
from ...records.frozen import frozen
from .site import Site


@frozen
class Apart:
    """Sets of coordinates that `Q` adds up over.

    Attributes:
        count: number of sets.
        labels: the set of every coordinate that moves, shape (E,).
        cells: the set that every cell of each site belongs to, of size one along dimensions where all are alike.
    """

    count: int
    labels: Tensor = field(repr=False)
    cells: tuple[Tensor, ...] = field(repr=False)

    def added(self, each: Tensor) -> Tensor:
        """Add up what belongs to coordinates, (S, E), by set: (S, sets)."""
        if self.count == 1:
            return each.sum(-1, keepdim=True)
        return each.new_zeros((len(each), self.count)).index_add_(1, self.labels, each)

    def largest(self, each: Tensor) -> Tensor:
        """The largest of what belongs to coordinates, (S, E), by set: (S, sets)."""
        if self.count == 1:
            return each.amax(-1, keepdim=True)
        labels = self.labels.expand_as(each)
        return each.new_zeros((len(each), self.count)).scatter_reduce_(1, labels, each, "amax")

    def each(self, sets: Tensor) -> Tensor:
        """What belongs to sets, (S, sets), for every coordinate: (S, E)."""
        return sets[:, self.labels]

    def of_cells(self, site: int, q: Tensor) -> Tensor:
        """Add up the cells of a site, (S) + cells, by set: (S, sets)."""
        if self.count == 1:
            return q.reshape((len(q), -1)).sum(-1, keepdim=True)
        where = self.cells[site]
        alike = [d + 1 for d, size in enumerate(where.shape) if size == 1]
        q = (q.sum(alike, keepdim=True) if alike else q).expand((len(q), *where.shape)).reshape((len(q), -1))
        return q.new_zeros((len(q), self.count)).index_add_(1, where.flatten(), q)


def apart(sites: Sequence[Site], sizes: Sequence[int], whole: Collection[int]) -> Apart:
    """Find the sets.

    Args:
        sites: of a block.
        sizes: coordinates of every parameter that moves; those of other parameters come after them.
        whole: parameters whose coordinates stay together, by position.
    """
    count, slots = sum(sizes), [_slots(site) for site in sites]
    meetings = [row for every in slots for row in every.reshape((-1, every.shape[-1])).unique(dim=0).tolist()]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    meetings += [list(range(ends[k] - sizes[k], ends[k])) for k in whole]
    groups = connected(range(count), meetings)
    labels = torch.zeros(count, dtype=torch.long)
    for label, group in enumerate(groups):
        labels[group] = label
    device = slots[0].device if slots else labels.device
    labels = labels.to(device)
    every = torch.cat([labels, labels.new_zeros(1)])  # a cell in which nothing moves belongs anywhere
    cells = tuple(every[torch.where(at < count, at, -1)].amax(-1) for at in slots)
    return Apart(len(groups), labels, cells)


def _slots(site: Site) -> Tensor:
    """The coordinates that enter every cell of a site, -1 for none: cells (of size one where all are alike) + slots."""
    indices = [piece.index for argument in site.arguments for one in argument.predictors for piece in one.pieces]
    shape = broadcast(*(index.shape[:-1] for index in indices))
    return torch.cat([index.expand((*shape, index.shape[-1])) for index in indices], -1)
