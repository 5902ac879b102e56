"""Of which entries of the parameters locations are affine, and which of them meet."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...program.named import Named
from ..bank import Bank, RoleMap
from ..reading import Reading
from .replays import names_of, trailing


def first_alike(readings: Mapping[str, Reading], shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Return of every site the first one whose locations have the same entries in all cells: the steps of a loop.

    Args:
        readings: where arguments come from; those of steps share what they select by.
        shapes: of the cells.
    """
    first, found = dict[Hashable, str](), dict[str, str]()
    for name, reading in readings.items():
        role = reading.roles["loc"]
        by = id(role.index), id(role.affine) if role.affine is not None else None
        key = (*by, role.names, names_of(reading.site), len(shapes[name]))
        found[name] = first.setdefault(key, name)
    return found


def entries_of(reading: Reading, bank: Bank, shape: Sequence[int]) -> tuple[list[tuple[str, int]], Tensor]:
    """The entries of which locations are affine, and of every cell those that it has, -1 for none: cells + (slots,)."""
    role = reading.roles["loc"]
    if role.affine is not None:
        slots = [piece.index for piece in role.affine.pieces]
        every = [part for piece in slots for part in piece.unbind(-1)]
        return list(role.affine.entries), _laid(every, role, reading, shape)
    entries, where = list[tuple[str, int]](), torch.full((max(int(role.index.max()), 0) + 1,), -1)
    for segment in bank.touched(role, "real"):
        for position in role.entries[segment.holds(role.entries)].tolist():
            where[position] = len(entries)
            entries.append((segment.parameter, position - segment.offset))
    index = torch.where(role.index < 0, -1, where[role.positions])
    return entries, _laid([index], role, reading, shape)


def _laid(parts: Sequence[Tensor], role: RoleMap, reading: Reading, shape: Sequence[int]) -> Tensor:
    """Lay indices out over the cells, in the dimensions that they have."""
    names = names_of(reading.site)
    events = len(shape) - len(names)
    found = [trailing(Named(part, role.names).align(names), len(names), events) for part in parts]
    return torch.stack(torch.broadcast_tensors(*found), -1)


def colours_of(indices: Sequence[Tensor], count: int) -> Tensor:
    """Colour entries so that no cell has two of a colour: (count,)."""
    meets: list[set[int]] = [set() for _ in range(count)]
    for index in indices:
        for row in index.reshape(-1, index.shape[-1]).unique(dim=0).tolist():
            row = {i for i in row if i >= 0}
            for i in row:
                meets[i] |= row - {i}
    colour = [-1] * count
    for i in range(count):
        taken = {colour[j] for j in meets[i]}
        colour[i] = next(c for c in range(count) if c not in taken)
    return torch.tensor(colour, dtype=torch.long)


def numbered(own: Sequence[tuple[str, int]], index: Tensor, number: Mapping[tuple[str, int], int]) -> Tensor:
    """Return an index into the entries of one site as one into those of all, by their numbers."""
    table = torch.tensor([*(number[entry] for entry in own), -1], dtype=torch.long)
    return table[index]


def of_colour(index: Tensor, colours: Tensor, c: int) -> Tensor:
    """The entry of a colour that a cell has, -1 for none."""
    hit = torch.cat([colours == c, torch.zeros(1, dtype=torch.bool)])[index]
    return torch.where(hit, index, -1).amax(-1)


class Used(NamedTuple):
    """The colours of which a site has entries, then the response; the entries, and where cells have them."""

    kept: list[int]
    entries: tuple[tuple[str, int], ...]
    where: tuple[Tensor, ...]


def used_of(index: Sequence[Tensor], entries: Sequence[tuple[str, int]]) -> Used:
    """Find the covariates that some cell has, by the entry that it has of every colour."""
    kept = [k for k, part in enumerate(index) if bool((part >= 0).any())]
    used = sorted({int(i) for k in kept for i in index[k].unique() if i >= 0})
    table = torch.full((len(entries) + 1,), -1)
    table[used] = torch.arange(len(used))
    own = tuple(table[index[k]] for k in kept)
    return Used([*kept, len(index)], tuple(entries[i] for i in used), own)
