"""Which cells of the sites select which entries of a parameter, and how their statistics are pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..reading.bank import RoleMap, Segment

Statistics = Mapping[str, tuple[Tensor, ...]]


class Refused(Exception):
    """There is no joint closed form; says why."""


COLLAPSED, TINY = 1e-14, 1e-300  # what a singular covariance is raised by, relative to its mean variance


class PriorUnbounded(Exception):
    """The update would go to a boundary at which the prior's density has no bound; says where."""


def refuse_unbounded(name: str, pooled: Tensor, pseudo: Tensor) -> None:
    """A shape below one pulls with a negative count; where the data do not outweigh it, no maximum is interior."""
    if not bool((pseudo < 0).any()):
        return
    bad = (pooled <= 0) & (pseudo.reshape(-1) < 0)
    if bool(bad.any()):
        entry = int(bad.reshape(-1, bad.shape[-1]).any(0).nonzero()[0])
        raise PriorUnbounded(f'parameter "{name}", entry {entry}: the prior is unbounded where the update would go')


@dataclass(frozen=True)
class Selected:
    """Which flat cells of one role select which entries of one parameter."""

    cells: Tensor = field(repr=False)  # positions in the flattened role
    entries: Tensor = field(repr=False)  # positions in the flattened parameter
    complement: bool = False

    @cached_property
    def everything(self) -> bool:
        """Whether every cell selects its own entry, in order: there is nothing to pool."""
        cells, entries = self.cells, self.entries
        return bool((cells == torch.arange(len(cells), device=cells.device)).all() and (entries == cells).all())


def select(role: RoleMap, segments: Sequence[Segment], parameter: str) -> list[Selected]:
    """All places at which `parameter` enters a role."""
    flat = role.index.reshape(-1)
    found = []
    for segment in segments:
        if segment.parameter == parameter:
            cells = ((flat >= segment.offset) & (flat < segment.offset + segment.size)).nonzero().squeeze(-1)
            if len(cells):
                found.append(Selected(cells, flat[cells] - segment.offset, segment.complement))
    return found


def used_charts(role: RoleMap, segments: Sequence[Segment], parameter: str) -> set[str]:
    """Charts through which a parameter enters a role."""
    flat = role.entries
    return {
        s.chart.name
        for s in segments
        if s.parameter == parameter and bool(((flat >= s.offset) & (flat < s.offset + s.size)).any())
    }


def pool(values: Tensor, selected: Selected, size: int, lead: int) -> Tensor:
    """Sum the selected cells of `values` into the entries of the parameter."""
    cells = flat(values, lead)
    if selected.everything and len(selected.cells) == size == cells.shape[-1]:
        return cells
    out = cells.new_zeros((*cells.shape[:lead], size))
    return out.index_add_(-1, selected.entries, cells[..., selected.cells])


def flat(value: Tensor, lead: int) -> Tensor:
    """All entries in one dimension, after `lead` dimensions of starts."""
    return value if value.dim() == lead + 1 else value.reshape((*value.shape[:lead], -1))


def added(parts: Sequence[Tensor]) -> Tensor:
    """Sum of one part or more."""
    return sum(parts[1:], parts[0])
