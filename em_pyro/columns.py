"""Columns of predictors: replays with single coordinates set, and what is under the link of an argument then.

Two steps along a random direction tell whether that may be affine at all. Entries of which no cell has more than one
(the rows of a coefficient matrix that a component selects from) are set together, and told apart by their values: two
replays for each covariate, however many components there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from .charts import Chart
from .families import Family
from .named import Named, squeeze, unexpand, unwrap
from .predictor import Affine, Piece
from .program import Params, Program, Site
from .unroll import unroll

REPLAYS, ALTERNATIVES = 512, 3
FAR = 4.0  # units of the predictor up to which columns are evaluated: beyond, a link loses digits
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
    def event(self) -> int:
        """Trailing dimensions of the argument."""
        return self.rank + self.family.roles[self.role].event_dim

    def named(self, site: Site, tensor: Tensor) -> Named:
        """Name the dimensions of an argument, or of its predictor."""
        return squeeze(tensor, site.dims, self.site, self.event)

    def argument(self, site: Site) -> Named:
        """The argument as the model computed it."""
        return self.named(site, self.family.read(unwrap(site.fn).base)[self.role].detach())

    def predictor(self, site: Site) -> Named:
        """What is under the link."""
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
    """Logits, where the program gave them: no digits are lost far out."""
    inner = getattr(base, "_categorical", base)
    return unexpand(inner.logits, event_dim) if "logits" in vars(inner) and "probs" not in vars(inner) else None


@dataclass
class Columns:
    """Replays with single coordinates set, and what they say of each link."""

    program: Program
    coordinates: Mapping[str, Chart]  # from the coordinates of a parameter to its values
    values: Params
    links: list[Linked]
    replays: int = 0

    def found(self) -> Iterator[tuple[Linked, Affine]]:
        """Links that may be affine, with their columns."""
        self.zero = {n: torch.zeros_like(self.program.parameters[n].initial) for n in self.coordinates}
        self.base = self._run(self.zero)
        straight = self._straight()
        self.links = [link for link, fits in zip(self.links, straight, strict=True) if fits]
        self.base = [base for base, fits in zip(self.base, straight, strict=True) if fits]
        if not self.links:
            return
        slots: list[list[tuple[str, Tensor, Tensor]]] = [[] for _ in self.links]
        for name in self.coordinates:
            columns = self._columns_of(name)
            if columns is None:
                return
            for have, new in zip(slots, columns, strict=True):
                have += [(name, index, value) for index, value in new if bool((index >= 0).any())]
        for k, link in enumerate(self.links):
            if slots[k]:
                yield link, _assembled(link, self.base[k].tensor, slots[k], self.coordinates, self.noise)

    @property
    def noise(self) -> float:
        """Rounding of a replay."""
        single = any(self.program.parameters[n].initial.dtype == torch.float32 for n in self.coordinates)
        return NOISE[torch.float32 if single else torch.float64]

    def _run(self, values: Params) -> list[Named]:
        self.replays += 1
        values = {n: self.coordinates[n].forward(point) for n, point in {**self.zero, **values}.items()}
        with torch.no_grad():
            sites = unroll(self.program.run({**self.values, **values}))
        return [link.predictor(sites[link.site]) for link in self.links]

    def _moved(self, direction: Params) -> tuple[list[Tensor], float]:
        """Differences along a direction, over a step that keeps within the reach of every link; and the step."""
        step = 1.0
        for _ in range(8):
            moved = self._run({n: self.zero[n] + step * part.to(self.zero[n]) for n, part in direction.items()})
            change = [_difference(m.tensor, b.tensor) for m, b in zip(moved, self.base, strict=True)]
            linked = [c for c, link in zip(change, self.links, strict=True) if link.chart.name != "itself"]
            size = max((float(c.abs().max()) for c in linked), default=0.0)
            if size == 0.0 or FAR / 16 <= size <= FAR:
                break
            step = step * 2.0**-20 if not math.isfinite(size) else step * 2.0 ** math.floor(math.log2(FAR / size))
        return [c / step for c in change], step

    def _straight(self) -> list[bool]:
        """Whether two steps along a random direction lead twice as far as one."""
        generator = torch.Generator().manual_seed(2)
        direction = {n: torch.randn(z.shape, generator=generator, dtype=torch.float64) for n, z in self.zero.items()}
        one, step = self._moved(direction)
        half = self._run({n: self.zero[n] + step / 2 * d.to(self.zero[n]) for n, d in direction.items()})
        straight = []
        for a, b, base in zip(one, half, self.base, strict=True):
            other = 2 * _difference(b.tensor, base.tensor) / step
            slack = 1e4 * self.noise * (a.abs() + _finite(base.tensor).abs() / step + float(a.abs().max()))
            straight.append(bool((((a - other).abs() <= slack) & torch.isfinite(a)).all()))
        return straight

    def _columns_of(self, name: str) -> list[list[tuple[Tensor, Tensor]]] | None:
        """Slots of every link: which flat entry of the parameter a cell takes (-1 for none), and its multiplier."""
        shape = self.zero[name].shape
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        if all(not bool(change.any()) for change in self._moved({name: noise})[0]):
            return [[] for _ in self.links]
        dims = [i for i, size in enumerate(shape) if size > 1]
        sets = [chosen for r in range(min(len(dims), ALTERNATIVES), -1, -1) for chosen in combinations(dims, r)]
        for chosen in sorted(sets, key=lambda chosen: -math.prod(shape[i] for i in chosen)):
            others = [range(1 if i in chosen else size) for i, size in enumerate(shape)]
            if math.prod(len(o) for o in others) * 2 + self.replays > REPLAYS:
                return None
            slots: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.links]
            for corner in product(*others):
                found = self._slot(name, tuple(slice(None) if i in chosen else k for i, k in enumerate(corner)))
                if found is None:
                    break
                for have, new in zip(slots, found, strict=True):
                    have.append(new)
            else:
                return slots
        raise AssertionError

    def _slot(self, name: str, where: tuple[int | slice, ...]) -> list[tuple[Tensor, Tensor]] | None:
        """One slot of every link, if no cell has two of the entries; else None."""
        shape = self.zero[name].shape
        flat = torch.arange(math.prod(shape)).reshape(shape)[where].reshape(-1)
        mask = torch.zeros(shape, dtype=torch.float64)
        mask[where] = 1
        sums, step = self._moved({name: mask})
        if len(flat) == 1:
            index = [torch.where(s.abs() > self._floor(s, b.tensor, step), int(flat), -1) for s, b in self._with(sums)]
            return list(zip(index, sums, strict=True))
        ratios = 1 + torch.frac(torch.arange(1, len(flat) + 1, dtype=torch.float64) * (math.sqrt(5) - 1) / 2)
        marked = torch.zeros(math.prod(shape), dtype=torch.float64)
        marked[flat] = ratios
        moved = self._run({name: self.zero[name] + step * marked.reshape(shape).to(self.zero[name])})
        found = []
        order = ratios.argsort()
        for k, (total, base) in enumerate(self._with(sums)):
            other = _difference(moved[k].tensor, base.tensor) / step
            floor = self._floor(total, base.tensor, step)
            idle = total.abs() <= floor
            ratios, order, flat = (part.to(total.device) for part in (ratios, order, flat))
            ratio = other / torch.where(idle, 1.0, total)
            at = torch.searchsorted(ratios[order], ratio).clamp(1, len(flat) - 1)
            lower, upper = ratios[order][at - 1], ratios[order][at]
            nearest = order[torch.where(ratio - lower < upper - ratio, at - 1, at)]
            gap = (other - ratios[nearest] * total).abs()
            if bool((gap > torch.where(idle, 4 * floor, 1e4 * self.noise * total.abs() + 4 * floor)).any()):
                return None
            found.append((torch.where(idle, -1, flat[nearest]), total))
        return found

    def _with(self, sums: list[Tensor]) -> list[tuple[Tensor, Named]]:
        return list(zip(sums, self.base, strict=True))

    def _floor(self, change: Tensor, base: Tensor, step: float) -> Tensor:
        """What a difference may be by rounding alone."""
        return self.noise * ((1 + _finite(base).abs()) / step + float(change.abs().max()))


def _difference(moved: Tensor, base: Tensor) -> Tensor:
    """What has changed; nothing at a structural zero, whose logit is minus infinity before and after."""
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
