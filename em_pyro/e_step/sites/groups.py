"""Rows that belong to groups, `loc[group]`: a cell for each group, and not for each row.

Arguments that are looked up by row differ by row, and yet take as many values as there are entries to look up. With
`g_n` the group of row `n`,

    log p(x_n | c, g_n) = eta[c, g_n]' T(x_n)   and   S[c, g] = sum of W_cn T(x_n) over the rows of group `g`.

So groups are what a folded plate is along which cells differ: features that are zero but for those of the row's group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...program.named import Named, align
from ...reading.bank import RoleMap
from ...reading.design.lookups import along_rows, looked_up, together
from ...reading.reading import Lookup, Reading, Recognition
from ...records.frozen import frozen
from ..chunks import Chunk
from .dimensions import Codes
from .product import InnerProduct
from .site_data import SiteData
from .site_factor import SiteFactor

LEAST = 1.0  # rows for each group, above which they are taken by group
MOST = 1 << 20  # groups


@frozen
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
    roles = along_rows(reading, roles, agreed, sizes) if agreed else roles
    plates = [p for p in reading.site.plates if any(p in role.names for role in roles.values())]
    plate = max(plates, key=lambda p: sizes[p], default=None)
    if plate is None or agreed == {} or (name := f"group of {plate}") in sizes:
        return None
    found = looked_up(reading, {key: role for key, role in roles.items() if plate in role.names}, plate, recognition)
    if found is None:
        return None
    numbers = {one.numbers: (one.codes, one.count) for one in found.values()}
    count = prod(many for _, many in numbers.values())
    if count > MOST or agreed is None and LEAST * count >= sizes[plate]:
        return None
    codes, places = together(numbers)
    changed = {key: _by_group(roles[key], plate, name, one.table()[places[one.numbers]]) for key, one in found.items()}
    lookups = {key: Lookup(one.along, one.numbers) for key, one in found.items()}
    return Groups(name, count, Codes(codes, (plate,), lookups), {**roles, **changed})


def _by_group(role: RoleMap, plate: str, name: str, table: Tensor) -> RoleMap:
    d = role.names.index(plate)
    names = (*role.names[:d], name, *role.names[d + 1 :])
    return replace(role, names=names, index=table.movedim(0, d))


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
    """Return the data of a site with a dimension of groups behind the folded plates along which cells differ."""
    layout = data.layout
    layout = replace(
        layout,
        cells=tuple(n for n in layout.cells if n != groups.name),
        folded=(*layout.folded, groups.name),
    )
    return replace(data, layout=layout, groups=groups.codes, cache={}, turned={}, rooms={})


def groups_of(factor: SiteFactor) -> Grouped | None:
    """Return a site with groups whose rows are columns, and of which nothing else is folded."""
    data, layout = factor.data, factor.layout
    if data.groups is None or layout.batch or len(layout.folded) > 1 or data.groups.names[0] not in layout.columns:
        return None
    alone = replace(data, layout=replace(layout, folded=()), groups=None, counted=False, cache={}, turned={}, rooms={})
    return Grouped(data=alone, codes=data.groups, count=data.sizes[layout.folded[0]])
