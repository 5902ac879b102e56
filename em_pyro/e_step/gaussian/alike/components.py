"""Which latents hang together, and which components are alike: connected sets of entries, by what their rows are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

import numpy as np
import torch
from torch import Tensor

from ....records.frozen import frozen
from ..rows import Rows

MIX = np.uint64(0x9E3779B97F4A7C15)


@frozen
class Members:
    """Components that are alike: as many latents, met by rows of the same cells in the same places.

    Attributes:
        entries: latent entries of every member, (members, k).
        rows: of every site its rows in every member, (members, rows); None for sites without.
        slots: of every site which of the k entries its rows take, (rows, slots), -1 for none.
        present: of every site which of the rows a member has, (members, rows), where some have fewer than others: a row
            stands again in the place of one that is not there. None is all.
    """

    entries: Tensor = field(repr=False)
    rows: tuple[Tensor | None, ...] = field(repr=False)
    slots: tuple[Tensor | None, ...] = field(repr=False)
    present: tuple[Tensor | None, ...] = field(repr=False)


def connected(count: int, first: Tensor, second: Tensor) -> Tensor:
    """Label every item by the least that it is connected with: minima along edges, then along labels of labels."""
    label = torch.arange(count)
    while len(first):
        before = label
        label = label.scatter_reduce(0, first, label[second], "amin")
        label = label.scatter_reduce(0, second, label[first], "amin")
        label = label.scatter_reduce(0, before, label, "amin")
        label = label[label]
        if torch.equal(label, before):
            break
    return label


def members_of(sites: Sequence[Rows], count: int) -> list[Members]:
    """Sort `count` latent entries and all rows into components, and alike ones together."""
    first, second = list[Tensor](), list[Tensor]()
    for rows in sites:
        present = rows.which >= 0
        one = rows.which.gather(1, present.byte().argmax(1, keepdim=True)) if rows.which.shape[1] else rows.which
        for s in range(rows.which.shape[1]):
            first.append(one[present[:, s], 0])
            second.append(rows.which[present[:, s], s])
    label = connected(count, torch.cat([*first, torch.zeros(0).long()]), torch.cat([*second, torch.zeros(0).long()]))
    of_entry, of_rows, total = _numbered(sites, label)
    order = torch.argsort(of_entry, stable=True)
    sizes = torch.bincount(of_entry, minlength=total)
    starts = sizes.cumsum(0) - sizes
    place = torch.empty_like(order)
    place[order] = torch.arange(count) - starts[of_entry[order]]
    sorted_rows = [torch.argsort(component, stable=True) for component in of_rows]
    keys = _hashes(sites, of_rows, sorted_rows, place, sizes)
    _, kind = np.unique(keys, return_inverse=True)
    kinds = torch.from_numpy(kind.reshape(-1))
    return [_members(sites, torch.nonzero(kinds == k)[:, 0], of_rows, sorted_rows, order, place, sizes, starts)
             for k in range(int(kinds.max()) + 1)]  # fmt: skip


def _numbered(sites: Sequence[Rows], label: Tensor) -> tuple[Tensor, list[Tensor], int]:
    """Number the components: of every entry, and of the rows of every site; a row without latents is one by itself."""
    _, of_entry = label.unique(return_inverse=True)
    total = int(of_entry.max()) + 1
    of_rows = []
    for rows in sites:
        if rows.which.shape[1]:
            some = rows.which.amax(-1)
            component = torch.where(some >= 0, of_entry[some.clamp(min=0)], -1)
        else:
            component = torch.full((rows.layout.sizes[1],), -1)
        alone = component < 0
        component = component.clone()
        component[alone] = total + torch.arange(int(alone.sum()))
        total += int(alone.sum())
        of_rows.append(component)
    return of_entry, of_rows, total


def _hashes(
    sites: Sequence[Rows], of_rows: Sequence[Tensor], sorted_rows: Sequence[Tensor], place: Tensor, sizes: Tensor
) -> np.ndarray:
    """A number for every component, the same for those that are alike."""
    with np.errstate(over="ignore"):
        keys = (sizes.numpy().astype(np.uint64) + np.uint64(1)) * MIX
        for k, (rows, component, order) in enumerate(zip(sites, of_rows, sorted_rows, strict=True)):
            where = component[order]
            counts = torch.bincount(where, minlength=len(keys))
            starts = counts.cumsum(0) - counts
            rank = torch.arange(len(order)) - starts[where]
            code = np.full(len(order), k + 1, dtype=np.uint64)
            columns = [rank, rows.labels[order], *_slots(rows, order, place).unbind(-1)]
            for column in columns:
                code = (code ^ (column.numpy() + 2).astype(np.uint64)) * MIX
                code ^= code >> np.uint64(29)
            np.add.at(keys, where.numpy(), code * MIX)
    return keys


def _slots(rows: Rows, order: Tensor, place: Tensor) -> Tensor:
    """Which entries of its component every row takes, -1 for none."""
    which = rows.which[order]
    return torch.where(which >= 0, place[which.clamp(min=0)], -1)


def _members(
    sites: Sequence[Rows],
    members: Tensor,
    of_rows: Sequence[Tensor],
    sorted_rows: Sequence[Tensor],
    order: Tensor,
    place: Tensor,
    sizes: Tensor,
    starts: Tensor,
) -> Members:
    """Components of one kind; that they are alike is looked at, whatever their hashes say."""
    k = int(sizes[members[0]])
    entries = order[starts[members].unsqueeze(-1) + torch.arange(k)]
    rows_of, slots_of = list[Tensor | None](), list[Tensor | None]()
    for rows, component, ordered in zip(sites, of_rows, sorted_rows, strict=True):
        where = component[ordered]
        begin, end = torch.searchsorted(where, members), torch.searchsorted(where, members, right=True)
        count = int((end - begin)[0])
        assert bool((end - begin == count).all())
        if not count:
            rows_of.append(None)
            slots_of.append(None)
            continue
        mine = ordered[begin.unsqueeze(-1) + torch.arange(count)]
        slots = _slots(rows, mine.reshape(-1), place).reshape((*mine.shape, -1))
        assert bool((slots == slots[:1]).all())
        assert bool((rows.labels[mine] == rows.labels[mine[:1]]).all())
        rows_of.append(mine)
        slots_of.append(slots[0])
    return Members(entries, tuple(rows_of), tuple(slots_of), tuple(None for _ in sites))


def place_of(rows: Sequence[Rows], members: Members, plate: str, size: int) -> Tensor | None:
    """The row of a plate of some size that every member lies in; None if there is none, or several."""
    if size == 1:  # all lie in it, and no site tells its only row from others
        return torch.zeros(len(members.entries), dtype=torch.long)
    place: Tensor | None = None
    for mine, site in zip(members.rows, rows, strict=True):
        if mine is not None and plate in site.places:
            every = site.places[plate][mine]
            place = every[:, 0] if place is None else place
            if bool((every != place.unsqueeze(-1)).any()):
                return None
    return place
