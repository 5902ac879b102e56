"""Which cells of the sites select what of a parameter, and how their statistics are pooled.

Everything in this room has the starts as its first dimension, of size one for one start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import cached_property

import torch
from torch import Tensor

from ..program.named import unraveled
from ..reading.bank import RoleMap, Segment
from ..records.frozen import frozen


class Refused(Exception):
    """There is no joint closed form; says why."""


COLLAPSED, TINY = 1e-14, 1e-300  # what a singular covariance is raised by, relative to its mean variance


class PriorUnbounded(Exception):
    """The update would go to a boundary at which the prior's density has no bound; says where, and what helps."""


def refuse_unbounded(name: str, pooled: Tensor, pseudo: Tensor, shape: Sequence[int]) -> None:
    """Refuse a prior of shape below one whose negative count the data do not outweigh: no maximum is interior.

    Args:
        name: of the parameter.
        pooled: its counts, shape `(S, entries)`.
        pseudo: those of its prior, flat.
        shape: of the parameter.

    Raises:
        PriorUnbounded: at the first such entry.
    """
    if not bool((pseudo < 0).any()):
        return
    bad = (pooled <= 0) & (pseudo.reshape(-1) < 0)
    if bool(bad.any()):
        raise unbounded_at(name, bad.reshape(-1, bad.shape[-1]).any(0).reshape(tuple(shape)))


def unbounded_at(name: str, bad: Tensor) -> PriorUnbounded:
    """Say it of the first of some entries of a parameter."""
    entry = unraveled(bad.reshape(-1).nonzero()[0, 0], bad.shape)
    return PriorUnbounded(
        f'site "{name}", entry {tuple(int(i) for i in entry)}: its prior is unbounded where the update would go, '
        f'and has a mode in EM(prior_density="unconstrained")'
    )


@frozen
class Selected:
    """Which flat cells of an argument select which entries (or rows, or matrices) of one parameter.

    Attributes:
        cells: positions among the cells.
        entries: what each of them selects, counted in the flattened parameter.
        complement: whether the argument is one minus what is selected.
    """

    cells: Tensor = field(repr=False)
    entries: Tensor = field(repr=False)
    complement: bool = False

    @cached_property
    def ordered(self) -> bool:
        """Whether these are the first cells, in order."""
        return bool((self.cells == torch.arange(len(self.cells), device=self.cells.device)).all())

    @cached_property
    def everything(self) -> bool:
        """Whether every cell selects its own entry, in order: there is nothing to pool."""
        return self.ordered and bool((self.entries == self.cells).all())


def select(role: RoleMap, segments: Sequence[Segment], parameter: str) -> list[Selected]:
    """List all places at which `parameter` enters a role."""
    flat = role.index.reshape(-1)
    found = []
    for segment in segments:
        if segment.parameter == parameter:
            cells = segment.holds(flat).nonzero().squeeze(-1)
            if len(cells):
                found.append(Selected(cells, flat[cells] - segment.offset, segment.complement))
    return found


def used_charts(role: RoleMap, segments: Sequence[Segment], parameter: str) -> set[str]:
    """Name the charts through which a parameter enters a role."""
    flat = role.entries
    return {s.chart.name for s in segments if s.parameter == parameter and bool(s.holds(flat).any())}


def pool(values: Tensor, selected: Selected, size: int) -> Tensor:
    """Sum what the selected cells hold into the `size` entries of the parameter.

    Args:
        values: shape `(S, cells)`, and whatever one cell holds.
        selected: which cells, and into which entries.
        size: entries of the parameter.
    """
    cells, count = values.shape[1], selected.cells.shape[0]
    if count == size == cells and selected.everything:
        return values
    chosen = values if count == cells and selected.ordered else values[:, selected.cells]
    return values.new_zeros((len(values), size, *values.shape[2:])).index_add_(1, selected.entries, chosen)


def flat(value: Tensor) -> Tensor:
    """Lay all entries out in one dimension after the starts."""
    return value if value.dim() == 2 else value.reshape((value.shape[0], -1))


def shaped(value: Tensor, like: Tensor) -> Tensor:
    """Give `value` the shape of `like`, if it has another."""
    return value if value.shape == like.shape else value.reshape(like.shape)


def added(parts: Sequence[Tensor]) -> Tensor:
    """Sum one part or more."""
    return sum(parts[1:], parts[0])
