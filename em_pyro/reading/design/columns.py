"""Columns of predictors: replays with single coordinates set, and what is under the link of an argument then.

Two steps along a random direction tell whether that may be affine at all. Entries of which no cell has more than one
(the rows of a coefficient matrix that a component selects from) are set together: one replay for each covariate,
however many components there are. Steps that are asked for of most predictors are taken at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

import torch
from torch import Tensor

from ...families.charts import Chart
from ...program.devices import seeded
from ...program.named import Params
from ...program.program import Program
from ..predictor import Affine, Piece
from .replays import Linked, Replays, finite
from .slots import Slot, columns_of, marks_of, put, used

REPLAYS, ALTERNATIVES = 512, 3
NEARER = 5  # steps along a random direction that are tried at once, each half as long as the one before
LIKELY = 30  # columns of a parameter, of so many entries each, that are run before it is known whether there are any


def columns(
    program: Program, coordinates: Mapping[str, Chart], values: Params, links: Sequence[Linked]
) -> Iterator[tuple[Linked, Affine]]:
    """Yield the links under which the arguments may be affine in these parameters, with what the columns say."""
    replays = Replays(program, coordinates, values, tuple(links))
    replays = replays.begun(_likely(replays))
    replays = replays.of([k for k, fit in enumerate(_straight(replays)) if fit])
    if not replays.links:
        return
    found: list[list[tuple[str, Tensor, Tensor]]] = [[] for _ in replays.links]
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


def _random(replays: Replays, names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Return a random direction of some parameters."""
    generator, zero = torch.Generator().manual_seed(seed), replays.zero
    return {n: seeded(torch.randn, zero[n].shape, generator=generator, dtype=torch.float64) for n in names}


def _likely(replays: Replays) -> list[tuple[dict[str, Tensor], float]]:
    """Return the directions and steps that are asked for of a predictor in units of its link, one state a row."""
    every = _random(replays, list(replays.zero), 2)
    found = [(every, 0.5**k) for k in range(NEARER)]
    for name, zero in replays.zero.items():
        found.append((_random(replays, [name], 4), 1.0))
        for chosen in _sets(zero.shape):
            corners = _corners(zero.shape, chosen)
            if not 0 < len(corners) <= LIKELY:
                break
            columns = [torch.arange(zero.numel()).reshape(zero.shape)[where].reshape(-1) for where in corners]
            found += [({name: put(zero.shape, entries)}, 1.0) for entries in columns]
            if len(columns[0]) > 1:  # single entries need no marks
                found.append(({name: put(zero.shape, columns[0], marks_of(len(columns[0])))}, 1.0))
    return found


def _sets(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the sets of dimensions along which entries may be told apart in one column, the most entries first."""
    dims = [i for i, size in enumerate(shape) if size > 1]
    sets = [chosen for r in range(min(len(dims), ALTERNATIVES), -1, -1) for chosen in combinations(dims, r)]
    return sorted(sets, key=lambda chosen: -math.prod(shape[i] for i in chosen))


def _corners(shape: Sequence[int], chosen: Sequence[int]) -> list[tuple[int | slice, ...]]:
    """Return where the columns of a parameter are that have all entries along the chosen dimensions."""
    others = [range(1 if i in chosen else size) for i, size in enumerate(shape)]
    return [tuple(slice(None) if i in chosen else k for i, k in enumerate(corner)) for corner in product(*others)]


def _straight(replays: Replays) -> list[bool]:
    """Tell whether two steps along a random direction lead twice as far as one."""
    direction = _random(replays, list(replays.zero), 2)
    full, step = replays.moved(direction)
    straight = []
    for one, half, base in zip(full, replays.change(direction, step / 2), replays.base, strict=True):
        slack = 1e4 * replays.noise * (one.abs() + finite(base).abs() / step + float(one.abs().max()))
        straight.append(bool((((one - half).abs() <= slack) & torch.isfinite(one)).all()))
    return straight


def _slots_of(replays: Replays, name: str, budget: int) -> list[list[Slot]] | None:
    """Find the slots of every link for one parameter, as few as explain it; None if that takes too many replays."""
    shape = replays.zero[name].shape
    if all(not bool(change.any()) for change in replays.moved(_random(replays, [name], 4))[0]):
        return [[] for _ in replays.links]
    for chosen in _sets(shape):
        corners = _corners(shape, chosen)
        if len(corners) * 2 > budget:
            return None
        columns = columns_of(replays, name, corners)
        if columns is not None:
            slots = zip(*(column.slots for column in columns), strict=True)
            return [[_thinned(index, value, replays.noise) for index, value in of_link] for of_link in slots]
    raise AssertionError("single entries are slots")


# ---- from columns to a predictor -------------------------------------------------------------------------------------


def _assembled(
    link: Linked,
    base: Tensor,
    slots: Sequence[tuple[str, Tensor, Tensor]],
    coordinates: Mapping[str, Chart],
) -> Affine:
    """Put slots that vary along the same dimensions side by side."""
    order = list(coordinates)
    taken = [(order.index(name), int(i)) for name, index, _ in slots for i in used(index).nonzero()]
    entries = sorted(set(taken))
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
