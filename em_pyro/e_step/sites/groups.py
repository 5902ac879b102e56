"""Rows that belong to groups, `loc[group]`: a cell for each group, and not for each row.

Arguments that are looked up by row differ by row, and yet take as many values as there are entries to look up. With
`g_n` the group of row `n`,

    log p(x_n | c, g_n) = eta[c, g_n]' T(x_n)   and   S[c, g] = sum of W_cn T(x_n) over the rows of group `g`.

So groups are what a folded plate is along which cells differ: features that are zero but for those of the row's group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from math import inf, prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...program.named import Named, align
from ...reading.bank import RoleMap
from ...reading.reading import Lookups, Reading, Recognition
from ..chunks import Chunk
from .dimensions import Codes
from .product import InnerProduct
from .site_data import SiteData
from .site_factor import SiteFactor

LEAST = 1.0  # rows for each group, above which they are taken by group


@dataclass(frozen=True)
class Groups:
    """Rows of a plate by their groups.

    Attributes:
        name: of the dimension of groups.
        count: how many there are, those without rows included: all entries that could be looked up.
        codes: the group of every row.
        roles: the arguments, with a dimension of groups in place of that of the rows.
    """

    name: str
    count: int
    codes: Codes = field(repr=False)
    roles: Mapping[str, RoleMap] = field(repr=False)


def grouped(
    reading: Reading, roles: Mapping[str, RoleMap], recognition: Recognition, sizes: Mapping[str, int]
) -> Groups | None:
    """Return the groups of the rows of a site; None where rows are not looked up, or as many as entries.

    Args:
        reading: of the site.
        roles: its arguments.
        recognition: with all atoms that they select from.
        sizes: of all latents and plates.
    """
    agreed = None if reading.form is None else reading.form.groups
    roles = _along_rows(reading, roles, agreed, sizes) if agreed else roles
    plates = [p for p in reading.site.plates if any(p in role.names for role in roles.values())]
    plate = max(plates, key=lambda p: sizes[p], default=None)
    if plate is None or agreed == {} or (name := f"group of {plate}") in sizes:
        return None
    codes, count, tables = torch.zeros(sizes[plate], dtype=torch.long), 1, dict[str, Tensor]()
    lookups = dict[tuple[str, str], tuple[int, ...]]()
    most = sizes[plate] / LEAST if agreed is None else inf
    for key, role in roles.items():
        if plate not in role.names:
            continue
        found = _looked_up(role, plate, reading.family.roles[key].domain, recognition, agreed, key)
        if found is None or count * found.count >= most:
            return None
        table = found.table()
        if found.count != count or not torch.equal(found.codes, codes):
            tables = {other: part.repeat_interleave(found.count, 0) for other, part in tables.items()}
            table = table.repeat(count, *(1,) * (table.dim() - 1))
            codes, count = codes * found.count + found.codes, count * found.count
        tables[key] = table
        lookups |= {(key, parameter): along for parameter, along in found.lookups.items()}
    changed = {key: _by_group(roles[key], plate, name, table) for key, table in tables.items()}
    return Groups(name, count, Codes(codes, (plate,), lookups), {**roles, **changed})


def _along_rows(
    reading: Reading, roles: Mapping[str, RoleMap], agreed: Lookups, sizes: Mapping[str, int]
) -> Mapping[str, RoleMap]:
    """Arguments that rows look up, with a dimension of the rows even where all of these look up the same."""
    plate = max(reading.site.plates, key=lambda p: sizes.get(p, 1))
    wanted = {key for key, _ in agreed if plate not in roles[key].names and roles[key].affine is None}
    return {
        key: role if key not in wanted else replace(
            role,
            names=(plate, *role.names),
            index=role.index.expand((sizes[plate], *role.index.shape)),
        )
        for key, role in roles.items()
    }  # fmt: skip


def _by_group(role: RoleMap, plate: str, name: str, table: Tensor) -> RoleMap:
    d = role.names.index(plate)
    names = (*role.names[:d], name, *role.names[d + 1 :])
    return replace(role, names=names, index=table.movedim(0, d))


@dataclass(frozen=True)
class _Lookup:
    """What rows look up in one argument.

    Attributes:
        codes: the group of every row: a place along the dimensions of a parameter in which rows differ.
        count: how many there are.
        cells: all other dimensions of the argument.
        parts: for each stretch of the bank, the cells that select from it, where it begins, places of the first row,
            the shape of its parameter, and the dimensions in which rows differ.
        lookups: these dimensions, by parameter.
    """

    codes: Tensor
    count: int
    cells: tuple[int, ...]
    parts: Sequence[tuple[Tensor, int, Sequence[Tensor], Sequence[int], Sequence[int]]]
    lookups: Mapping[str, tuple[int, ...]]

    def table(self) -> Tensor:
        """What every group selects, (groups) + cells."""
        table = self.codes.new_empty((self.count, prod(self.cells)))
        for cells, offset, first, sizes, moving in self.parts:
            there = _places(torch.arange(self.count, device=table.device), [sizes[v] for v in moving])
            moved = dict(zip(moving, there, strict=True))
            every = [moved[v].unsqueeze(-1) if v in moved else place for v, place in enumerate(first)]
            table[:, cells] = offset + _flat(every, sizes)
        return table.reshape((self.count, *self.cells))


def _looked_up(
    role: RoleMap, plate: str, domain: str, recognition: Recognition, agreed: Lookups | None, key: str
) -> _Lookup | None:
    """Return what rows look up in an argument; None if it is no lookup."""
    if role.affine is not None or role.coefficient is not None or role.constant is not None:
        return None
    index = role.index.movedim(role.names.index(plate), 0)
    flat, codes, count, lookups = index.reshape(len(index), -1), None, 1, dict[str, tuple[int, ...]]()
    parts = list[tuple[Tensor, int, Sequence[Tensor], Sequence[int], Sequence[int]]]()
    for segment in recognition.bank.touched(role, domain):
        cells = segment.holds(flat[0]).nonzero().squeeze(-1)
        if not bool(segment.holds(flat[:, cells]).all()):
            return None
        shape = recognition.values[segment.parameter].shape
        shape = shape[:-2] if domain == "scale_tril" else shape
        places = _places(flat[:, cells] - segment.offset, shape)
        if agreed is None:
            differ = [v for v, place in enumerate(places) if bool((place != place[:1]).any())]
        else:
            differ = list(agreed.get((key, segment.parameter), ()))
        if differ and len(cells):
            own = _flat([places[v][:, 0] for v in differ], [shape[v] for v in differ])
            if codes is not None and not torch.equal(own, codes):
                return None
            codes, count = own, prod(shape[v] for v in differ)
        if not _steady(places, differ):
            return None
        lookups[segment.parameter] = tuple(differ)
        parts.append((cells, segment.offset, [place[:1] for place in places], shape, differ))
    return None if codes is None else _Lookup(codes, count, tuple(index.shape[1:]), parts, lookups)


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


@dataclass(frozen=True)
class Grouped(InnerProduct):
    """Features of every row, and the group in which they stand; zeros of the other groups are not written down.

    Attributes:
        data: of the rows without groups.
        codes: the group of every row.
        count: how many groups there are.
    """

    data: SiteData = field(kw_only=True, repr=False)
    codes: Named = field(kw_only=True, repr=False)
    count: int = field(kw_only=True)
    together: bool = False
    in_product: ClassVar[bool] = False

    def features(self, factor: SiteFactor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Groups of the columns, and `T(x)`, (F, columns)."""
        columns = factor.layout.columns
        codes = align(chunk.cut(self.codes), self.codes.names, columns)
        codes = codes.expand([chunk.size(n, factor.sizes[n]) for n in columns])
        return codes.reshape(-1), self.data.features(chunk)

    def row(self, factor: SiteFactor) -> int:
        """Features without those of other groups, and the group."""
        return 1 + self.data.width

    def densities(self, eta: Tensor, features: Any) -> Tensor:
        """Natural parameters of the group of every row, times its features."""
        codes, made = features
        flat = eta.flatten(0, -2)
        codes, total = codes.expand(len(flat), -1), flat.new_zeros((len(flat), len(codes)))
        for k, place in enumerate(self._places):
            total.addcmul_(flat[:, place].gather(-1, codes), made[k])
        return total.reshape((*eta.shape[:-1], -1))

    def statistics(self, weights: Tensor, features: Any, width: int) -> Tensor:
        """Weights times features, added up by group."""
        codes, made = features
        flat = weights.flatten(0, -2)
        found, codes = flat.new_zeros((len(flat), width)), codes.expand(len(flat), -1)
        for k, place in enumerate(self._places):
            found[:, place] = flat.new_zeros((len(flat), self.count)).scatter_add_(-1, codes, flat * made[k])
        return found.reshape((*weights.shape[:-1], width))

    @cached_property
    def _places(self) -> list[Tensor]:
        """Of every feature of a row, where it stands in each group among the features of the site."""
        found, start, groups = list[Tensor](), 0, torch.arange(self.count)
        for first, last in pairwise(self.data.places):
            each = last - first
            found += [start + e + each * groups for e in range(each)]
            start += each * self.count
        return found


def by_group(data: SiteData, groups: Groups) -> SiteData:
    """The data of a site with a dimension of groups behind the folded plates along which cells differ."""
    layout = data.layout
    layout = replace(
        layout,
        cells=tuple(n for n in layout.cells if n != groups.name),
        folded=(*layout.folded, groups.name),
    )
    return replace(data, layout=layout, groups=groups.codes, cache={}, turned={}, rooms={})


def groups_of(factor: SiteFactor) -> Grouped | None:
    """A site with groups whose rows are columns, and of which nothing else is folded."""
    data, layout = factor.data, factor.layout
    if data.groups is None or layout.batch or len(layout.folded) > 1 or data.groups.names[0] not in layout.columns:
        return None
    alone = replace(data, layout=replace(layout, folded=()), groups=None, counted=False, cache={}, turned={}, rooms={})
    return Grouped(data=alone, codes=data.groups, count=data.sizes[layout.folded[0]])
