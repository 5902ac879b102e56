"""Columns of a parameter: entries of which no cell has more than one, which of them each cell has, and its multiplier.

They are set together, and told apart by marks of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...records.frozen import frozen
from .replays import Replays

Slot = tuple[Tensor, Tensor]  # which flat entry of a parameter a cell takes, -1 for none; its multiplier


@frozen
class Column:
    """Entries of a parameter of which no cell has more than one, and what they are multiplied by.

    Attributes:
        entries: flat.
        slots: of every link.
        step: over which they were moved.
        assumed: whether cells were taken to have the entry that they have of a column before.
    """

    entries: Tensor
    slots: list[Slot]
    step: float
    assumed: bool


def columns_of(replays: Replays, name: str, corners: Sequence[tuple[int | slice, ...]]) -> list[Column] | None:
    """Return the column of every corner, if no cell has two of its entries; else None.

    Which of the entries a cell has, it mostly has of all columns (the state of its row). So that is asked of the first,
    taken to hold for the others, and then asked of all these together.
    """
    shape = replays.zero[name].shape
    entries = [torch.arange(math.prod(shape)).reshape(shape)[where].reshape(-1) for where in corners]
    for trusting in (True, False):
        places: list[Tensor | None] = [None] * len(replays.links)
        columns = list[Column]()
        for some in entries:
            column = _column(replays, name, some, places)
            if column is None:
                return None
            columns.append(column)
            places = places if trusting else [None] * len(replays.links)
        if _agree(replays, name, [column for column in columns if column.assumed]):
            return columns
    raise AssertionError("nothing was assumed")


def _column(replays: Replays, name: str, entries: Tensor, places: list[Tensor | None]) -> Column | None:
    """Return one column, if no cell has two of its entries; else None. What is found of `places` is added there.

    Args:
        replays: the program.
        name: of the parameter.
        entries: of it, flat.
        places: of every link, which of the entries of a column each cell has, -1 where that is not known.
    """
    sums, step = replays.moved({name: put(replays.zero[name].shape, entries)})
    floors = [
        replays.floor(total, link, base, step)
        for total, link, base in zip(sums, replays.links, replays.base, strict=True)
    ]
    if len(entries) == 1:
        found = zip(sums, floors, strict=True)
        slots = [(torch.where(total.abs() > floor, int(entries), -1), total) for total, floor in found]
        return Column(entries, slots, step, assumed=False)
    idle = [total.abs() <= floor for total, floor in zip(sums, floors, strict=True)]
    assumed = all(
        place is not None and bool((still | (place >= 0)).all()) for place, still in zip(places, idle, strict=True)
    )
    if not assumed:
        told = _told(replays, name, entries, step, list(zip(sums, idle, floors, strict=True)))
        if told is None:
            return None
        for k, (still, place) in enumerate(zip(idle, told, strict=True)):
            before = places[k]
            places[k] = torch.where(still, -1, place) if before is None else torch.where(still, before, place)
    slots = list[Slot]()
    for total, still, where in zip(sums, idle, places, strict=True):
        assert where is not None
        slots.append((torch.where(still, -1, entries.to(total.device)[where]), total))
    return None if _hidden(replays, name, entries, slots) else Column(entries, slots, step, assumed)


def _told(
    replays: Replays, name: str, entries: Tensor, step: float, cells: Sequence[tuple[Tensor, Tensor, Tensor]]
) -> list[Tensor] | None:
    """Say of every link which of the entries each cell has, by marks of their own; None if a cell has two.

    Args:
        replays: the program.
        name: of the parameter.
        entries: of it, flat.
        step: over which all of them were moved.
        cells: of every link, how fast its predictor changed then, where it did not, and what may be rounding.
    """
    marks = marks_of(len(entries))
    changes = replays.change({name: put(replays.zero[name].shape, entries, marks)}, step)
    marks, order = marks.sort()
    found = []
    for (total, idle, floor), other in zip(cells, changes, strict=True):
        marks, order = marks.to(total.device), order.to(total.device)
        ratio = other / torch.where(idle, 1.0, total)
        at = torch.searchsorted(marks, ratio.contiguous()).clamp(1, len(marks) - 1)
        nearest = torch.where(ratio - marks[at - 1] < marks[at] - ratio, at - 1, at)
        gap = (other - marks[nearest] * total).abs()
        if bool((gap > torch.where(idle, 4 * floor, 1e4 * replays.noise * total.abs() + 4 * floor)).any()):
            return None
        found.append(order[nearest])
    return found


def _agree(replays: Replays, name: str, columns: Sequence[Column]) -> bool:
    """Tell whether cells have the entries of columns that they were taken to have: all are marked, and moved together.

    Each by its own step, so that columns in small units count as much as the others.
    """
    if not columns:
        return True
    marked = torch.zeros(replays.zero[name].numel(), dtype=torch.float64)
    for k, column in enumerate(columns):
        marks = marks_of(len(column.entries), k * len(column.entries))
        marked[column.entries] = marks * column.step / len(columns)
    changes = replays.change({name: marked.reshape(replays.zero[name].shape)}, 1.0)
    for k, (change, link, base) in enumerate(zip(changes, replays.links, replays.base, strict=True)):
        claim, size = torch.zeros_like(change), torch.zeros_like(change)
        for column in columns:
            part = _moved_by(column.slots[k], marked)
            claim += part
            size += part.abs()
        slack = size.mul_(100 * replays.noise).add_(replays.floor(change, link, base, 1.0), alpha=8)
        if bool(((change - claim).abs() > slack).any()):
            return False
    return True


def _moved_by(slot: Slot, marked: Tensor) -> Tensor:
    """Return what every cell is moved by if its entry of a column is."""
    index, value = slot
    return torch.where(index < 0, 0.0, marked.to(value.device)[index.clamp(min=0)] * value)


def marks_of(count: int, after: int = 0) -> Tensor:
    """Return so many numbers between one and two: irrational, so that no average of two is a third."""
    return 1 + torch.frac(torch.arange(after + 1, after + count + 1, dtype=torch.float64) * (math.sqrt(5) - 1) / 2)


def put(shape: Sequence[int], entries: Tensor, values: Tensor | float = 1.0) -> Tensor:
    """Return a parameter that is zero but for some entries."""
    found = torch.zeros(math.prod(shape), dtype=torch.float64)
    found[entries.cpu()] = values  # type: ignore[index]
    return found.reshape(tuple(shape))


def _hidden(replays: Replays, name: str, entries: Tensor, slots: Sequence[Slot]) -> bool:
    """Whether an entry that no cell seems to have moves one: it was lost beside another, by the units of covariates."""
    taken = torch.stack([used(index, replays.zero[name].numel()) for index, _ in slots]).any(0)
    left = entries[~taken[entries]]
    if not len(left):
        return False
    changes, step = replays.moved({name: put(replays.zero[name].shape, left)})
    every = zip(changes, replays.links, replays.base, strict=True)
    return any(bool((c.abs() > replays.floor(c, link, base, step)).any()) for c, link, base in every)


def used(index: Tensor, size: int | None = None) -> Tensor:
    """Tell of entries, of so many or up to the last one, whether a cell takes them."""
    size = int(index.max()) + 1 if size is None else size
    return torch.zeros(size + 1, dtype=torch.bool, device=index.device).index_fill_(0, index.flatten() + 1, True)[1:]  # noqa: FBT003
