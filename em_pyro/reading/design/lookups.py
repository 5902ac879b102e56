"""What rows look up in parameters, as `loc[z, group]` does: arguments that differ by row, of as many values as entries.

Which numbers of a row these go by is seen of the rows at hand, and two may agree in them by chance, or not differ at
all. So it is agreed on by all who hold rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from ...records.frozen import frozen
from ..bank import RoleMap
from ..reading import Lookup, Reading, Recognition


@frozen
class LookedUp:
    """What rows look up in one argument.

    Attributes:
        codes: the group of every row: a place along the dimensions of a parameter in which rows differ.
        count: how many there are.
        cells: all other dimensions of the argument.
        parts: for each stretch of the bank, the cells that select from it, where it begins, places of the first row,
            the shape of its parameter, and the dimensions in which rows differ.
        along: these dimensions, by parameter.
        numbers: as for `Lookup`.
    """

    codes: Tensor
    count: int
    cells: tuple[int, ...]
    parts: Sequence[tuple[Tensor, int, Sequence[Tensor], Sequence[int], Sequence[int]]]
    along: Mapping[str, tuple[int, ...]]
    numbers: int = 0

    def table(self) -> Tensor:
        """What every group selects, (groups) + cells."""
        table = self.codes.new_empty((self.count, prod(self.cells)))
        for cells, offset, first, sizes, moving in self.parts:
            there = _places(torch.arange(self.count, device=table.device), [sizes[v] for v in moving])
            moved = dict(zip(moving, there, strict=True))
            every = [moved[v].unsqueeze(-1) if v in moved else place for v, place in enumerate(first)]
            table[:, cells] = offset + _flat(every, sizes)
        return table.reshape((self.count, *self.cells))


def looked_up(
    reading: Reading, roles: Mapping[str, RoleMap], plate: str, recognition: Recognition
) -> dict[str, LookedUp] | None:
    """Return what rows look up in all arguments of a site; None if one of these differs by row in another way.

    Args:
        reading: of the site; what is not agreed on is seen of its rows.
        roles: the arguments that differ by row.
        plate: of the rows.
        recognition: with all atoms that they select from.
    """
    agreed = None if reading.form is None else reading.form.groups
    found, numbers = dict[str, LookedUp](), dict[int, tuple[Tensor, int]]()
    for key, role in roles.items():
        along = None if agreed is None else agreed[key].along if key in agreed else {}
        one = _of_one(role, plate, reading.family.roles[key].domain, recognition, along)
        if one is None:
            return None
        which = _numbered(one, numbers) if agreed is None else agreed[key].numbers
        codes, count = numbers.setdefault(which, (one.codes, one.count))
        if count != one.count or not torch.equal(codes, one.codes):
            return None
        found[key] = replace(one, numbers=which)
    return found


def together(numbers: Mapping[int, tuple[Tensor, int]]) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the group of every row by several numbers of it; and of every group, what each of these is there."""
    codes, count, places = torch.zeros((), dtype=torch.long), 1, dict[int, Tensor]()
    for which in sorted(numbers):
        own, many = numbers[which]
        places = {k: part.repeat_interleave(many) for k, part in places.items()}
        places[which] = torch.arange(many).repeat(count)
        codes, count = codes * many + own, count * many
    return codes, places


def _numbered(one: LookedUp, numbers: Mapping[int, tuple[Tensor, int]]) -> int:
    """By which of the known numbers of the rows an argument is looked up, or by a new one."""
    same = (k for k, (codes, count) in numbers.items() if count == one.count and torch.equal(codes, one.codes))
    return next(same, len(numbers))


def both(ours: Mapping[str, Lookup], theirs: Mapping[str, Lookup]) -> dict[str, Lookup]:
    """Return what rows look up where some look up one, some the other: along all dimensions, apart where either is."""
    found, numbers = dict[str, Lookup](), dict[tuple[int | None, int | None], int]()
    for key in sorted({*ours, *theirs}):
        parts = [lookups.get(key) for lookups in (ours, theirs)]
        label = tuple(None if part is None else part.numbers for part in parts)
        along: dict[str, tuple[int, ...]] = {}
        for part in parts:
            for parameter, dims in () if part is None else part.along.items():
                along[parameter] = tuple(sorted({*along.get(parameter, ()), *dims}))
        found[key] = Lookup(along, numbers.setdefault((label[0], label[1]), len(numbers)))
    return found


def along_rows(
    reading: Reading, roles: Mapping[str, RoleMap], agreed: Mapping[str, Lookup], sizes: Mapping[str, int]
) -> Mapping[str, RoleMap]:
    """Return the arguments that rows look up, with a dimension of the rows even where all of these look up the same."""
    plate = max(reading.site.plates, key=lambda p: sizes.get(p, 1))
    found = dict(roles)
    for key in agreed:
        if plate not in found[key].names and found[key].affine is None:
            index = found[key].index.expand((sizes[plate], *found[key].index.shape))
            found[key] = replace(found[key], names=(plate, *found[key].names), index=index)
    return found


def _of_one(
    role: RoleMap, plate: str, domain: str, recognition: Recognition, agreed: Mapping[str, tuple[int, ...]] | None
) -> LookedUp | None:
    """Return what rows look up in an argument; None if it is no lookup."""
    if role.affine is not None or role.coefficient is not None or role.constant is not None:
        return None
    index = role.index.movedim(role.names.index(plate), 0)
    flat, codes, count, along = index.reshape(len(index), -1), None, 1, dict[str, tuple[int, ...]]()
    parts = list[tuple[Tensor, int, Sequence[Tensor], Sequence[int], Sequence[int]]]()
    for segment in recognition.bank.touched(role, domain):
        cells = segment.holds(flat[0]).nonzero().squeeze(-1)
        if not bool(segment.holds(flat[:, cells]).all()):
            return None
        if segment.parameter not in recognition.values:  # a table
            return None
        shape = recognition.values[segment.parameter].shape
        shape = shape[:-2] if domain == "scale_tril" else shape
        places = _places(flat[:, cells] - segment.offset, shape)
        if agreed is None:
            differ = [v for v, place in enumerate(places) if bool((place != place[:1]).any())]
        else:
            differ = list(agreed.get(segment.parameter, ()))
        if differ and len(cells):
            own = _flat([places[v][:, 0] for v in differ], [shape[v] for v in differ])
            if codes is not None and not torch.equal(own, codes):
                return None
            codes, count = own, prod(shape[v] for v in differ)
        if not _steady(places, differ):
            return None
        along[segment.parameter] = tuple(differ)
        parts.append((cells, segment.offset, [place[:1] for place in places], shape, differ))
    return None if codes is None else LookedUp(codes, count, tuple(index.shape[1:]), parts, along)


def _steady(places: Sequence[Tensor], differ: Sequence[int]) -> bool:
    """Whether rows look the same up in all cells, and differ along no other dimension."""
    still = all(bool((place == place[:1]).all()) for v, place in enumerate(places) if v not in differ)
    return still and all(bool((places[v] == places[v][:, :1]).all()) for v in differ)


def _places(flat: Tensor, shape: Sequence[int]) -> tuple[Tensor, ...]:
    """What is flat as places along several dimensions."""
    found = list[Tensor]()
    for size in reversed(shape):
        found, flat = [flat % size, *found], flat // size
    return tuple(found)


def _flat(places: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Places along several dimensions as one."""
    found = torch.zeros((), dtype=torch.long)
    for place, size in zip(places, shape, strict=True):
        found = found * size + place
    return found
