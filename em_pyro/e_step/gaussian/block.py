"""The rows of one site in components that are alike, and their residuals as affine functions of the latents.

Dimensions: s starts, z states of the discrete latents, p patterns, n members, c rows of a member, e coordinates, f
slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ...program.named import broadcast
from ...records.frozen import frozen
from .alike.components import Members
from .rows import Part, Rows

DENSE = 1 << 16  # slopes, of which most may be zero, up to which one product is taken with all of them


@frozen
class Block:
    """Rows of a site, laid out by member; every part is of size one where it does not vary.

    Attributes:
        site: number of the site.
        joint: whether coordinates have a covariance matrix in common.
        cells: (z, c, e), c of size one where all rows of a member are of the same; e is one if joint.
        slots: which latents of its component a row takes, (c, f).
        constants: covariates, then the response, where all latents are zero: (z, n, c, e) each.
        slopes: of every slot the same, (z, p, c, e).
        weight: one where seen, (p, c, e); None is everywhere.
        offset: minus the logarithms of known scales, of all coordinates that are seen, (z, n).
        known: whether no parameter enters.
    """

    site: int
    joint: bool
    cells: Tensor = field(repr=False)
    slots: Tensor = field(repr=False)
    constants: tuple[Part, ...] = field(repr=False)
    slopes: tuple[tuple[Part, ...], ...] = field(repr=False)
    weight: Tensor | None = field(repr=False)
    offset: Tensor | None = field(repr=False)
    known: bool = False

    @property
    def count(self) -> int:
        """Number of covariates."""
        return len(self.constants) - 1

    @property
    def rows(self) -> int:
        """Number of rows of a member."""
        return len(self.slots)

    @property
    def residuals(self) -> int:
        """Number of residuals of a member."""
        return self.rows * max(self.cells.shape[2], *(part.shape[3] for part in self.constants if part is not None), 1)

    @cached_property
    def in_order(self) -> bool:
        """Whether it has all cells of the first numbers, each once and in order."""
        return bool((self.cells.reshape(-1) == torch.arange(self.cells.numel())).all())

    @cached_property
    def common(self) -> bool:
        """Whether all rows take the same latents: what they add to the law of these is one sum."""
        return self.rows > 1 and bool((self.slots == self.slots[:1]).all())

    @property
    def added(self) -> Tensor:
        """Which latents the sums of rows are of, (c, f): of each row, or of all together."""
        return self.slots[:1] if self.common else self.slots

    @cached_property
    def full(self) -> bool:
        """Whether every row takes a latent in each slot."""
        return bool((self.slots >= 0).all())

    @cached_property
    def dense(self) -> tuple[Tensor | None, Tensor] | None:
        """Slopes of all covariates, (z, p, c, e, J, f), and of the response, (z, p, c, e, f), for products with them.

        None where they are many, of which most may be zero; no covariates where no latent enters any.
        """
        parts = [part for slot in self.slopes for part in slot if part is not None]
        cells = prod(broadcast(*(part.shape for part in parts))) if parts else 0
        if not parts or cells * (self.count + 1) * len(self.slopes) > DENSE:
            return None
        response = beside([slot[-1] for slot in self.slopes])
        if not self.moving:
            return None, response
        return beside([s[j] for j in range(self.count) for s in self.slopes]).unflatten(-1, (self.count, -1)), response

    @cached_property
    def moving(self) -> bool:
        """Whether latents enter covariates."""
        return any(part is not None for slot in self.slopes for part in slot[:-1])

    @property
    def alike(self) -> bool:
        """Whether all rows of a member are of the same cells: their sums are one."""
        return self.rows > 1 and self.cells.shape[1] == 1


def beside(parts: Sequence[Part]) -> Tensor:
    """Parts (z, p, c, e) side by side, in a dimension of their own."""
    some = {f: part for f, part in enumerate(parts) if part is not None}
    shape = broadcast((1,) * 4, *(part.shape for part in some.values()))
    if len(some) == len(parts):
        return torch.stack([part.expand(shape) for part in some.values()], -1)
    found = torch.zeros((*shape, len(parts)), dtype=torch.float64)  # most may be none
    for f, part in some.items():
        found[..., f] = part
    return found


@frozen
class Patterns:
    """Which members have the same precision: the same seen coordinates, free latents and slopes.

    Attributes:
        of: the pattern of every member, (n,).
        first: a member of every pattern, (p,).
        sizes: how many members they have, (p,).
    """

    of: Tensor = field(repr=False)
    first: Tensor = field(repr=False)
    sizes: Tensor = field(repr=False)


def patterns_of(members: Members, sites: Sequence[Rows], free: Tensor | None) -> Patterns:
    """Sort the members of a kind by their precision.

    Args:
        members: of one kind.
        sites: all.
        free: which latent entries are not observed exactly, of all entries; None is all.
    """
    keys, count = [] if free is None else [free[members.entries].double()], len(members.entries)
    for rows, mine, present in zip(sites, members.rows, members.present, strict=True):
        if mine is not None:
            parts = [part for slot in rows.slopes for part in slot if part is not None and part.shape[1] > 1]
            keys += [part[:, mine].movedim(1, 0).reshape((count, -1)) for part in parts]
            if (seen := seen_of(rows, mine, present)) is not None:
                keys.append(seen.reshape((count, -1)))
    keys = [key for key in keys if bool((key != key[:1]).any())]
    if not keys:
        return Patterns(torch.zeros(count, dtype=torch.long), torch.zeros(1, dtype=torch.long), torch.tensor([count]))
    _, of = torch.cat(keys, 1).unique(dim=0, return_inverse=True)
    total = int(of.max()) + 1
    first = torch.full((total,), count).scatter_reduce(0, of, torch.arange(count), "amin")
    return Patterns(of, first, torch.bincount(of, minlength=total))


def seen_of(rows: Rows, mine: Tensor, present: Tensor | None) -> Tensor | None:
    """One where a coordinate of a row is there and seen, (members, c, e); None is everywhere."""
    seen = None if rows.weight is None else rows.weight[mine]
    if present is None:
        return seen
    there = present.double().unsqueeze(-1)
    return there.expand((*mine.shape, rows.layout.sizes[2])) if seen is None else seen * there


def block_of(number: int, rows: Rows, mine: Tensor, slots: Tensor, present: Tensor | None, patterns: Patterns) -> Block:
    """Lay the rows of a site out by member.

    Args:
        number: of the site.
        rows: all of its rows.
        mine: those of every member, (members, c).
        slots: which latents of its component a row takes.
        present: which of these a member has; None is all.
        patterns: of the members.
    """
    seen = seen_of(rows, mine, present)
    if seen is not None and not bool((some := (seen != 0).any(-1).any(0)).all()):  # what no member has is no row
        some[0] = True
        mine, slots, seen = mine[:, some], slots[some], seen[:, some]
    firsts = mine[patterns.first]
    cells = rows.cells if rows.cells.shape[1] == 1 else rows.cells[:, mine[0]]
    cells = cells[:, :1] if bool((cells == cells[:, :1]).all()) else cells
    cells = cells.expand((*cells.shape[:2], 1 if rows.joint else rows.layout.sizes[2]))
    constants = tuple(_laid(part, mine) for part in rows.constants)
    slopes = tuple(tuple(_laid(part, firsts) for part in slot) for slot in rows.slopes)
    weight = None
    if seen is not None:  # what is not seen may be anything
        constants = tuple(None if c is None else c * seen if c.shape[1] > 1 else c for c in constants)
        weight = seen[patterns.first][..., : 1 if rows.joint else None]
    weight = None if weight is None or bool(weight.all()) else weight
    offset = _offset(rows, mine, seen)
    return Block(number, rows.joint, cells, slots, constants, slopes, weight, offset, rows.fixed)


def _laid(part: Part, rows: Tensor) -> Part:
    """Rows of every member, or of one of every pattern: (z, members, c, e), of size one where all are the same."""
    if part is None or part.shape[1] == 1:
        return None if part is None else part.unsqueeze(2)
    found = part[:, rows]
    return found[:, :1] if bool((found == found[:, :1]).all()) else found


def _offset(rows: Rows, mine: Tensor, seen: Tensor | None) -> Part:
    """Minus the logarithms of known scales, of all coordinates of a member that are seen: (z, n)."""
    if rows.log_factors is None:
        return None
    logs = rows.log_factors
    logs = logs.unsqueeze(2) if logs.shape[1] == 1 else logs[:, mine]
    logs = logs if seen is None else logs * seen
    return -logs.expand((len(logs), *mine.shape, rows.layout.sizes[2])).sum((-1, -2))
