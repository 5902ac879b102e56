"""Columns of predictors: replays with single coordinates set, and what is under the link of an argument then.

Two steps along a random direction tell whether that may be affine at all. Entries of which no cell has more than one
(the rows of a coefficient matrix that a component selects from) are set together, and told apart by their values: two
replays for each covariate, however many components there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product

import torch
from torch import Tensor

from ...families.charts import Chart
from ...program.devices import seeded
from ...program.named import Params
from ...program.program import Program
from ..predictor import Affine, Piece
from .replays import Linked, Replays, finite

REPLAYS, ALTERNATIVES = 512, 3

Slot = tuple[Tensor, Tensor]  # which flat entry of a parameter a cell takes, -1 for none; its multiplier


def columns(
    program: Program, coordinates: Mapping[str, Chart], values: Params, links: Sequence[Linked]
) -> Iterator[tuple[Linked, Affine]]:
    """Yield the links under which the arguments may be affine in these parameters, with what the columns say."""
    replays = Replays(program, coordinates, values, tuple(links))
    replays = replace(replays, base=replays.run({}))
    fits = [k for k, fit in enumerate(_straight(replays)) if fit]
    replays = replace(replays, links=tuple(links[k] for k in fits), base=tuple(replays.base[k] for k in fits))
    if not fits:
        return
    found: list[list[tuple[str, Tensor, Tensor]]] = [[] for _ in fits]
    budget = REPLAYS
    for name in coordinates:
        slots = _slots_of(replays, name, budget)
        if slots is None:
            return
        budget -= 2 * len(slots[0])
        for have, new in zip(found, slots, strict=True):
            have += [(name, index, value) for index, value in new if bool((index >= 0).any())]
    for link, base, slots_of_link in zip(replays.links, replays.base, found, strict=True):
        if slots_of_link:
            yield link, _assembled(link, base, slots_of_link, coordinates)


def _straight(replays: Replays) -> list[bool]:
    """Tell whether two steps along a random direction lead twice as far as one."""
    generator = torch.Generator().manual_seed(2)
    shapes = {n: zero.shape for n, zero in replays.zero.items()}
    direction = {n: seeded(torch.randn, shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}
    full, step = replays.moved(direction)
    straight = []
    for one, half, base in zip(full, replays.change(direction, step / 2), replays.base, strict=True):
        slack = 1e4 * replays.noise * (one.abs() + finite(base).abs() / step + float(one.abs().max()))
        straight.append(bool((((one - half).abs() <= slack) & torch.isfinite(one)).all()))
    return straight


def _slots_of(replays: Replays, name: str, budget: int) -> list[list[Slot]] | None:
    """Find the slots of every link for one parameter, as few as explain it; None if that takes too many replays."""
    shape = replays.zero[name].shape
    noise = seeded(torch.randn, shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    if all(not bool(change.any()) for change in replays.moved({name: noise})[0]):
        return [[] for _ in replays.links]
    dims = [i for i, size in enumerate(shape) if size > 1]
    sets = [chosen for r in range(min(len(dims), ALTERNATIVES), -1, -1) for chosen in combinations(dims, r)]
    for chosen in sorted(sets, key=lambda chosen: -math.prod(shape[i] for i in chosen)):
        others = [range(1 if i in chosen else size) for i, size in enumerate(shape)]
        if math.prod(len(o) for o in others) * 2 > budget:
            return None
        slots: list[list[Slot]] = [[] for _ in replays.links]
        for corner in product(*others):
            found = _slot(replays, name, tuple(slice(None) if i in chosen else k for i, k in enumerate(corner)))
            if found is None:
                break
            for have, (index, value) in zip(slots, found, strict=True):
                have.append(_thinned(index, value, replays.noise))
        else:
            return slots
    raise AssertionError("single entries are slots")


def _slot(replays: Replays, name: str, where: tuple[int | slice, ...]) -> list[Slot] | None:
    """Return one slot of every link, if no cell has two of these entries; else None."""
    shape = replays.zero[name].shape
    entries = torch.arange(math.prod(shape)).reshape(shape)[where].reshape(-1)
    mask = torch.zeros(shape, dtype=torch.float64)
    mask[where] = 1
    sums, step = replays.moved({name: mask})
    floors = [
        replays.floor(total, link, base, step)
        for total, link, base in zip(sums, replays.links, replays.base, strict=True)
    ]
    if len(entries) == 1:
        found = zip(sums, floors, strict=True)
        return [(torch.where(total.abs() > floor, int(entries), -1), total) for total, floor in found]
    # Each entry gets a mark of its own: irrational, so that no average of two is the mark of a third.
    marks = 1 + torch.frac(torch.arange(1, len(entries) + 1, dtype=torch.float64) * (math.sqrt(5) - 1) / 2)
    marked = torch.zeros(math.prod(shape), dtype=torch.float64)
    marked[entries] = marks
    slots = []
    marks, order = marks.sort()
    for total, other, floor in zip(sums, replays.change({name: marked.reshape(shape)}, step), floors, strict=True):
        marks, order, entries = (part.to(total.device) for part in (marks, order, entries))
        idle = total.abs() <= floor
        ratio = other / torch.where(idle, 1.0, total)
        at = torch.searchsorted(marks, ratio).clamp(1, len(marks) - 1)
        nearest = torch.where(ratio - marks[at - 1] < marks[at] - ratio, at - 1, at)
        gap = (other - marks[nearest] * total).abs()
        if bool((gap > torch.where(idle, 4 * floor, 1e4 * replays.noise * total.abs() + 4 * floor)).any()):
            return None
        slots.append((torch.where(idle, -1, entries[order[nearest]]), total))
    return None if _hidden(replays, name, entries, slots) else slots


def _hidden(replays: Replays, name: str, entries: Tensor, slots: Sequence[Slot]) -> bool:
    """Whether an entry that no cell seems to have moves one: it was lost beside another, by the units of covariates."""
    used = torch.stack([_used(index, replays.zero[name].numel()) for index, _ in slots]).any(0)
    left = entries[~used[entries]]
    if not len(left):
        return False
    mask = torch.zeros(replays.zero[name].numel(), dtype=torch.float64)
    mask[left.cpu()] = 1
    changes, step = replays.moved({name: mask.reshape(replays.zero[name].shape)})
    every = zip(changes, replays.links, replays.base, strict=True)
    return any(bool((c.abs() > replays.floor(c, link, base, step)).any()) for c, link, base in every)


# ---- from columns to a predictor -------------------------------------------------------------------------------------


def _assembled(
    link: Linked,
    base: Tensor,
    slots: Sequence[tuple[str, Tensor, Tensor]],
    coordinates: Mapping[str, Chart],
) -> Affine:
    """Put slots that vary along the same dimensions side by side."""
    order = list(coordinates)
    used = [(order.index(name), int(i)) for name, index, _ in slots for i in _used(index).nonzero()]
    entries = sorted(set(used))
    groups: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
    for name, index, value in slots:
        place = torch.full((max(i for _, i in entries) + 2,), -1, device=index.device)
        for k, (which, i) in enumerate(entries):
            if order[which] == name:
                place[i] = k
        groups.setdefault(tuple(index.shape), []).append((torch.where(index < 0, -1, place[index]), value))
    pieces = []
    for group in groups.values():
        values = torch.broadcast_tensors(*(value for _, value in group))
        pieces.append(Piece(torch.stack([index for index, _ in group], -1), torch.stack(values, -1)))
    offset = base
    for d in range(base.dim() - link.family.roles[link.role].event_dim):
        if bool((offset == offset.narrow(d, 0, 1)).all()):
            offset = offset.narrow(d, 0, 1)
    names = tuple((order[which], i) for which, i in entries)
    curved = {name: coordinates[name] for name, _ in names if coordinates[name].name != "itself"}
    return Affine(names, offset.contiguous(), tuple(pieces), link.chart, curved)


def _used(index: Tensor, size: int | None = None) -> Tensor:
    """Tell of entries, of so many or up to the last one, whether a cell takes them."""
    size = int(index.max()) + 1 if size is None else size
    return torch.zeros(size + 1, dtype=torch.bool, device=index.device).index_fill_(0, index.flatten() + 1, True)[1:]  # noqa: FBT003


def _thinned(index: Tensor, value: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Keep one of what is the same along a dimension; an index is free where its multiplier is zero, and vice versa."""
    for d in range(index.dim()):
        first = index.amax(d, keepdim=True)  # of those that are not free, which are -1
        if bool(((index == first) | (index < 0)).all()):
            index = first
    free = (index < 0).expand(value.shape)
    slack = 10 * noise * float(value.abs().max())
    for d in range(value.dim()):
        ends = [part.narrow(d, k, 1) for part in (value, free) for k in (0, value.shape[d] - 1)]
        if bool((((ends[0] - ends[1]).abs() > slack) & ~ends[2] & ~ends[3]).any()):
            continue
        some = bool(free.any())
        first = value.gather(d, (~free).byte().argmax(d, keepdim=True)) if some else ends[0]
        if bool((((value - first).abs() <= slack) | free).all()):
            value, free = first, free.all(d, keepdim=True)
    return index, value
