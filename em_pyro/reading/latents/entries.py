"""Of which entries of the parameters locations are affine, and which of them meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...program.named import Named
from ..bank import Bank, RoleMap
from ..reading import Reading
from .replays import names_of, trailing


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
