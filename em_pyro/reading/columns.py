"""Columns of predictors: replays with single coordinates set, and what is under the link of an argument then.

Two steps along a random direction tell whether that may be affine at all. Entries of which no cell has more than one
(the rows of a coefficient matrix that a component selects from) are set together, and told apart by their values: two
replays for each covariate, however many components there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from ..families import Family
from ..families.charts import Chart
from ..program.devices import seeded
from ..program.named import Named, Params, squeeze, unexpand, unwrap
from ..program.program import Program
from ..program.site import Site
from ..program.unroll import unroll
from .predictor import Affine, Piece

REPLAYS, ALTERNATIVES = 512, 3
FAR = 4.0  # units of the predictor up to which columns are evaluated: beyond, a link loses digits
NEXT = 2.0**50  # times as far, where a step has changed nothing, and as near, where it has left the numbers
NOISE = {torch.float64: 1e-13, torch.float32: 1e-5}


@dataclass(frozen=True)
class Linked:
    """One argument of one site, through one link."""

    site: str
    role: str
    chart: Chart
    family: Family
    rank: int  # events of the site
    reference: int = field(default=0, compare=False)  # category from which the predictors of a simplex row are counted

    @property
    def unitless(self) -> bool:
        """Whether one is one in any units of the data: of what is under a logarithm or a logit."""
        return self.chart.name != "itself"

    @property
    def event(self) -> int:
        """Trailing dimensions of the argument."""
        return self.rank + self.family.roles[self.role].event_dim

    def named(self, site: Site, tensor: Tensor) -> Named:
        """Name the dimensions of an argument, or of its predictor."""
        return squeeze(tensor, site.dims, self.site, self.event)

    def argument(self, site: Site) -> Named:
        """Return the argument as the model computed it."""
        return self.named(site, self.family.read(unwrap(site.fn).base)[self.role].detach())

    def predictor(self, site: Site) -> Named:
        """Return what is under the link."""
        base = unwrap(site.fn).base
        logistic = self.chart.name in ("sigmoid", "softmax")
        raw = _logits(base, self.family.roles[self.role].event_dim) if logistic else None
        if raw is None:
            raw = self.chart.inverse(self.family.read(base)[self.role])
        raw = raw.detach().double()
        if self.chart.name == "softmax":
            raw = raw - raw[..., self.reference : self.reference + 1]
        return self.named(site, raw)


def _logits(base: Any, event_dim: int) -> Tensor | None:
    """Return the logits, where the program gave them: no digits are lost far out."""
    inner = getattr(base, "_categorical", base)
    return unexpand(inner.logits, event_dim) if "logits" in vars(inner) and "probs" not in vars(inner) else None


@dataclass(frozen=True)
class Replays:
    """The program with all coordinates at zero, where the columns start from."""

    program: Program
    coordinates: Mapping[str, Chart]  # from the coordinates of a parameter to its values
    values: Params = field(repr=False)  # of the other parameters
    links: tuple[Linked, ...]
    base: tuple[Tensor, ...] = field(default=(), repr=False)  # predictor of every link

    @cached_property
    def zero(self) -> dict[str, Tensor]:
        """Coordinates of every parameter."""
        return {n: torch.zeros_like(self.program.parameters[n].initial) for n in self.coordinates}

    @cached_property
    def noise(self) -> float:
        """Rounding of a replay."""
        return NOISE[torch.float32 if any(z.dtype == torch.float32 for z in self.zero.values()) else torch.float64]

    def run(self, direction: Params, step: float = 1.0) -> tuple[Tensor, ...]:
        """Run the program a step away from zero coordinates, and return the predictors there."""
        moved = {n: self.zero[n] + step * part.to(self.zero[n]) for n, part in direction.items()}
        values = {n: self.coordinates[n].forward(point) for n, point in {**self.zero, **moved}.items()}
        with torch.no_grad():
            sites = unroll(self.program.run({**self.values, **values}))
        return tuple(link.predictor(sites[link.site]).tensor for link in self.links)

    def change(self, direction: Params, step: float) -> list[Tensor]:
        """Return how fast every predictor changes over a step."""
        return [_difference(m, b) / step for m, b in zip(self.run(direction, step), self.base, strict=True)]

    def moved(self, direction: Params) -> tuple[list[Tensor], float]:
        """Return the change over a step that keeps within the reach of every link, and that step.

        It is as large as links allow, or as their bases are: a covariate may be in any unit.
        """
        step, change = 1.0, self.change(direction, 1.0)
        for _ in range(8):
            sizes = [step * float(c.abs().max()) / self._reach(k) for k, c in enumerate(change)]
            size = max((s for s, link in zip(sizes, self.links, strict=True) if link.unitless), default=0.0)
            if size == 0.0:
                size = max((s for s, link in zip(sizes, self.links, strict=True) if not link.unitless), default=0.0)
                further = NEXT if size == 0.0 else 1.0 if size >= 1 / 16 else 2.0 ** math.ceil(-math.log2(size))
            else:
                further = 1 / NEXT if not math.isfinite(size) else 2.0 ** math.floor(-math.log2(size))
                further = 1.0 if 1 / 16 <= size <= 1 else further
            if further == 1.0 or (further > 1 and not self._free(direction)):
                break
            try:
                change, step = self.change(direction, step * further), step * further
            except (RuntimeError, ValueError):
                if further < 1:
                    raise
                break  # so far out there is no model
        return change, step

    def _reach(self, k: int) -> float:
        """Return how far a predictor is moved: as far as its link has digits, or once its own size."""
        if self.links[k].unitless:
            return FAR
        size = float(_finite(self.base[k]).abs().max()) if self.base[k].numel() else 0.0
        return size if size > 0 else 1e-300

    def _free(self, direction: Params) -> bool:
        """Whether a direction may be followed far: no parameter of it enters by its logarithm."""
        return all(self.coordinates[name].name == "itself" for name in direction)

    def floor(self, change: Tensor, link: Linked, base: Tensor, step: float) -> Tensor:
        """Return what a change may be by rounding alone; what is under a link that has no unit is rounded beside 1."""
        size = 1 + _finite(base).abs() if link.unitless else _finite(base).abs().max()
        return self.noise * (size / step + float(change.abs().max()))


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
            yield link, _assembled(link, base, slots_of_link, coordinates, replays.noise)


def _straight(replays: Replays) -> list[bool]:
    """Tell whether two steps along a random direction lead twice as far as one."""
    generator = torch.Generator().manual_seed(2)
    shapes = {n: zero.shape for n, zero in replays.zero.items()}
    direction = {n: seeded(torch.randn, shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}
    full, step = replays.moved(direction)
    straight = []
    for one, half, base in zip(full, replays.change(direction, step / 2), replays.base, strict=True):
        slack = 1e4 * replays.noise * (one.abs() + _finite(base).abs() / step + float(one.abs().max()))
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
            for have, new in zip(slots, found, strict=True):
                have.append(new)
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
    used = torch.cat([index.flatten() for index, _ in slots])
    left = entries[~torch.isin(entries, used)]
    if not len(left):
        return False
    mask = torch.zeros(replays.zero[name].numel(), dtype=torch.float64)
    mask[left.cpu()] = 1
    changes, step = replays.moved({name: mask.reshape(replays.zero[name].shape)})
    every = zip(changes, replays.links, replays.base, strict=True)
    return any(bool((c.abs() > replays.floor(c, link, base, step)).any()) for c, link, base in every)


def _difference(moved: Tensor, base: Tensor) -> Tensor:
    """Return what has changed; nothing at a structural zero, whose logit is minus infinity before and after."""
    return torch.where(moved == base, 0.0, moved - base)


def _finite(base: Tensor) -> Tensor:
    return torch.where(torch.isfinite(base), base, 0.0)


# ---- from columns to a predictor -------------------------------------------------------------------------------------


def _assembled(
    link: Linked,
    base: Tensor,
    slots: Sequence[tuple[str, Tensor, Tensor]],
    coordinates: Mapping[str, Chart],
    noise: float,
) -> Affine:
    """Drop the dimensions along which slots do not vary, and put those that vary alike side by side."""
    order = list(coordinates)
    used = [(order.index(name), int(i)) for name, index, _ in slots for i in index[index >= 0].unique()]
    entries = sorted(set(used))
    groups: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
    for name, index, value in slots:
        place = torch.full((max(i for _, i in entries) + 2,), -1, device=index.device)
        for k, (which, i) in enumerate(entries):
            if order[which] == name:
                place[i] = k
        thin, multiplier = _thinned(torch.where(index < 0, -1, place[index]), value, noise)
        groups.setdefault(tuple(thin.shape), []).append((thin, multiplier))
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
        first = index.gather(d, (index >= 0).byte().argmax(d, keepdim=True))
        if bool(((index == first) | (index < 0)).all()):
            index = first
    free = (index < 0).expand(value.shape)
    slack = 10 * noise * float(value.abs().max())
    for d in range(value.dim()):
        first = value.gather(d, (~free).byte().argmax(d, keepdim=True))
        if bool((((value - first).abs() <= slack) | free).all()):
            value, free = first, free.all(d, keepdim=True)
    return index, value
