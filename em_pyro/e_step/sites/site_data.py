"""The rows of one site: what is observed, what is known of it, how much each row counts, and its features.

The value's sufficient statistics form a matrix of features, one column a row of data. Plates inside which no latent
lives are folded: they are events, summed in the product of features and natural parameters. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from ...families import Family
from ...program.masks import seen_entries
from ...program.named import SLICE, Named, align
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from .dimensions import Codes, Layout, into_groups, precise, summed_by_group

CACHE = 4_000_000  # features of at most this many entries are kept, larger ones are rebuilt chunk by chunk

Room = Callable[[], Tensor]
"""Where to write features that are not kept: a matrix (F, columns) that is read before it is asked for again."""


@frozen
class SiteData:
    """The data of one site, as the columns of a matrix of features."""

    family: Family
    role: str  # "observed" | "latent"
    layout: Layout
    event_shape: tuple[int, ...]  # reinterpreted events
    folded: tuple[str, ...]  # plates that are events
    value: Named = field(repr=False)
    known: Mapping[str, Named] = field(repr=False)
    weight: Named | None = field(repr=False)  # mask, and scale within the folded plates
    shift: Tensor | None = field(repr=False)  # mean over all rows, subtracted from values: an offset costs no digits
    sizes: Mapping[str, int] = field(repr=False)
    agreed: Tensor | None = field(default=None, repr=False)  # the reach of all sites that share this one's centre
    passing: bool = False  # rows that are read once, of which nothing is kept
    groups: Codes | None = field(default=None, repr=False)  # of every row of a plate, the last of the folded dimensions
    counted: bool = True  # whether what is one in every row and event may be one feature
    cache: dict[Chunk, Tensor] = field(default_factory=dict, repr=False)
    turned: dict[object, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False)
    rooms: dict[str, Tensor] = field(default_factory=dict, repr=False)

    # ---- features ----

    def features(self, chunk: Chunk = WHOLE, room: Room | None = None) -> Tensor:
        """`T(x)` as (batch) + (F, columns flattened); what is not kept is written into `room()`, if that is given."""
        key = chunk if chunk.plate in self.plates else WHOLE
        if key not in self.cache:
            keep = self.kept()
            made = room() if room and not keep else self.empty(key)
            self.write(key, made)
            if not keep:
                return made
            self.cache[key] = made
        return self.cache[key]

    def kept(self, width: int | None = None) -> bool:
        """Whether the features of all rows together are few enough to be kept."""
        dims = (*self.layout.batch, *self.layout.columns)
        return not self.passing and (width or self.width) * prod(self.sizes[n] for n in dims) <= CACHE

    def empty(self, chunk: Chunk, width: int | None = None) -> Tensor:
        """Room for the features of a chunk."""
        batch = [chunk.size(n, self.sizes[n]) for n in self.layout.batch]
        columns = prod(chunk.size(n, self.sizes[n]) for n in self.layout.columns)
        shape = (*batch, width or self.width, columns)
        return torch.empty(shape, dtype=torch.float64, device=self.value.tensor.device)

    def write(self, chunk: Chunk, out: Tensor, shift: Tensor | None = None, *, lean: bool = False) -> None:
        """Write the features of a chunk, of values less `shift` (the site's own if none is given).

        `lean` leaves out the last of statistics that add up to `total`.
        """
        layout = self.layout
        keep = (*layout.batch, *layout.columns)
        value, known, weight = self.rows(chunk, shift)
        plain = weight is None and not self.folded and not layout.batch and len(layout.columns) == 1 and not lean
        if (
            plain
            and self.groups is None
            and (not self.event_shape or self.counting)
            and self.family.columns(value, known, out)
        ):
            return
        statistics = self.family.statistics(value, known)
        if lean:  # every row counts once
            weight, statistics = None, statistics[:-1] if len(statistics) > 1 else (statistics[0][..., :-1],)
        shape = [chunk.size(n, self.sizes[n]) for n in (*keep, *self.folded)]
        at, start = len(layout.batch), 0
        spread = out.view((*out.shape[: at + 1], *shape[at : len(keep)]))
        for k, part in enumerate(statistics):
            made = self._column(k, part.double(), shape, weight, chunk)
            spread.narrow(at, start, made.shape[-1]).copy_(made.movedim(-1, at))
            start += made.shape[-1]

    def _column(self, k: int, part: Tensor, shape: list[int], weight: Tensor | None, chunk: Chunk) -> Tensor:
        """Statistic `k` of every row, times its weight: (batch, columns) + its own entries side by side."""
        rank, kept = len(self.event_shape), len(self.layout.batch) + len(self.layout.columns)
        if k in self.counting:
            return part.new_ones(()).expand((*shape[:kept], 1))
        event = part.dim() - len(shape) - rank
        if weight is not None:
            part = torch.where((w := weight.reshape(weight.shape + (1,) * event)) == 0, 0.0, part * w)
        part = part.expand((*shape, *self.event_shape, *part.shape[len(shape) + rank :]))
        if self.groups is not None:
            (plate,), names = self.groups.names, (*self.layout.batch, *self.layout.columns, *self.folded)
            place = summed_by_group if plate in self.folded else into_groups
            part = place(
                part, names.index(plate), chunk.cut(self.groups), self.sizes[self.layout.folded[-1]], len(shape)
            )
        drop = tuple(i + kept for i, n in enumerate(self.folded) if n not in self.layout.folded)
        part = part.sum(drop) if drop else part
        return part.reshape((*part.shape[:kept], -1))

    def base(self, chunk: Chunk = WHOLE) -> Named | None:
        """Log base measure of every row, events and folded plates summed."""
        base = self.family.base(*self.rows(chunk)[:2]) if self.constant is None else self.constant
        if base is None:
            return None
        keep = (*self.layout.batch, *self.layout.columns)
        if self.weight is None and not base.dim():
            each = prod((*(self.sizes[n] for n in self.folded), *self.event_shape))
            return Named((each * base.double()).expand([chunk.size(n, self.sizes[n]) for n in keep]), keep)
        if self.weight is not None:
            weight = self._cut(chunk, self.weight, len(self.event_shape)).double()
            base = torch.where(weight == 0, 0.0, base.double() * weight)
        shape = [chunk.size(n, self.sizes[n]) for n in (*keep, *self.folded)]
        base = base.double().expand((*shape, *self.event_shape))
        extra = tuple(range(len(keep), base.dim()))
        return Named(base.sum(extra) if extra else base, keep)

    def rows(self, chunk: Chunk, shift: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Value, known arguments and weight of some rows, each in dimensions (batch, columns, folded) + events."""

        def cut(part: Named, trailing: int) -> Tensor:
            return self._cut(chunk, part, trailing)

        rank = len(self.event_shape)
        value = cut(self.value, self.value.tensor.dim() - len(self.value.names))
        shift = self.shift if shift is None else shift
        value = precise(value) if shift is None else value.double() - shift
        known = {
            key: precise(
                part.tensor if key in self.family.known_event_dim and not part.names
                else cut(part, part.tensor.dim() - len(part.names))
            )
            for key, part in self.known.items()
        }  # fmt: skip
        return value, known, None if self.weight is None else cut(self.weight, rank).double()

    def columns(self, chunk: Chunk = WHOLE, *, centred: bool = False) -> tuple[Tensor, Tensor | None]:
        """Values (as they are, or less the shift) and weights: events + event of the value + (folded, columns).

        Where the weight is zero the value is, too; what is small enough is kept.
        """
        if (chunk, centred) in self.turned:
            return self.turned[chunk, centred]
        tail = self.value.tensor.shape[self.value.tensor.dim() - self.family.event_dim :]
        value = self._turned(chunk, self.value, (*self.event_shape, *tail))
        value = value.contiguous() if self.shift is None or not centred else value - self.shift[..., None, None]
        weight = None if self.weight is None else self._turned(chunk, self.weight, self.event_shape)
        if weight is not None:
            seen = weight.reshape((*self.event_shape, *(1,) * self.family.event_dim, *weight.shape[-2:])) != 0
            value = torch.where(seen, value, 0.0)
        if self.kept(value[..., 0].numel()):
            self.turned[chunk, centred] = value, weight
        return value, weight

    def room(self, name: str, shape: Sequence[int]) -> Tensor:
        """Where to write what is read before it is asked for again: to allocate it anew would cost as much as it."""
        have, size = self.rooms.get(name), prod(shape)
        if have is None or have.numel() < size:
            have = self.rooms[name] = torch.empty(size, dtype=torch.float64, device=self.value.tensor.device)
        return have[:size].view(tuple(shape))

    def _turned(self, chunk: Chunk, part: Named, event: tuple[int, ...]) -> Tensor:
        """Some rows, the last dimensions (folded, columns)."""
        dims, folded = (*self.layout.columns, *self.folded), len(self.layout.columns)
        sizes = [chunk.size(n, self.sizes[n]) for n in dims]
        made = self._cut(chunk, part, part.tensor.dim() - len(part.names)).double()
        missing = len(dims) + len(event) - made.dim()
        made = made.reshape((*made.shape[: len(dims)], *(1,) * missing, *made.shape[len(dims) :]))
        made = made.expand((*sizes, *event))
        order = (*range(len(dims), made.dim()), *range(folded, len(dims)), *range(folded))
        return made.permute(order).reshape((*event, prod(sizes[folded:]), prod(sizes[:folded])))

    def _cut(self, chunk: Chunk, part: Named, trailing: int) -> Tensor:
        """Some rows, in dimensions (batch, columns, folded) + the trailing ones."""
        return align(chunk.cut(part), part.names, (*self.layout.batch, *self.layout.columns, *self.folded), trailing)

    def slices(self) -> list[Chunk]:
        """Chunks of rows over which to sum something once, so that no large temporary is made."""
        plates = [n for n in self.layout.columns if n in self.value.names]
        plate = max(plates, key=lambda n: self.sizes[n], default=None)
        if plate is None or self.sizes[plate] <= SLICE:
            return [WHOLE]
        size = self.sizes[plate]
        return [Chunk(plate, start, min(SLICE, size - start)) for start in range(0, size, SLICE)]

    # ---- worked out once ----

    @cached_property
    def plates(self) -> frozenset[str]:
        """Plates along which the features have rows."""
        parts = [self.value, *self.known.values()] + ([self.weight] if self.weight else [])
        every = (*self.layout.batch, *self.layout.columns, *self.folded)
        return frozenset(n for part in parts for n in part.names) | frozenset(every)

    @cached_property
    def constant(self) -> Tensor | None:
        """The log base measure, if it is one number for all rows: seen of the first, without a look at the others."""
        plate = next((n for n in self.value.names if n in self.layout.columns), None)
        value, known, _ = self.rows(WHOLE if plate is None else Chunk(plate, 0, 1))
        base = self.family.base(value, known)
        return base if base is not None and value.dim() and not base.dim() else None

    @cached_property
    def events(self) -> tuple[tuple[int, ...], ...]:
        """Event shape of each statistic."""
        return tuple(tuple(s.shape[len(self.event_shape) :]) for s in self._of_one_row())

    @cached_property
    def counting(self) -> frozenset[int]:
        """Statistics that are one in every row and event: their natural parameters are summed before the product."""
        if self.weight is not None or self.groups is not None or not self.counted:
            return frozenset()
        return frozenset(k for k in self.family.counting if not self.events[k] and not self.folded)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """The first feature of every statistic, and at the end the number of features."""
        dims = prod((*(self.sizes[n] for n in self.layout.folded), *self.event_shape))
        sizes = [1 if k in self.counting else dims * prod(event) for k, event in enumerate(self.events)]
        return tuple(accumulate(sizes, initial=0))

    @property
    def width(self) -> int:
        """Number of features."""
        return self.places[-1]

    @cached_property
    def total(self) -> Tensor | None:
        """What the statistics of every row add up to, of each folded plate and event: shape (E,).

        None if it differs between rows or is not known: no statistic then follows from the others.
        """
        never = type(self.family).total is Family.total  # no row need be looked at
        if never or self.layout.batch or self.layout.folded != self.folded or self.role != "observed":
            return None
        inner = (*(self.sizes[n] for n in self.folded), *self.event_shape)
        total: Tensor | None = None
        for chunk in self.slices():
            value, known, weight = self.rows(chunk)
            found = self.family.total(value, known)
            if found is None or not (weight is None or bool((weight == 1).all())):
                return None
            found = found.reshape((-1, *found.shape[max(found.dim() - len(inner), 0) :]))
            total = found[0] if total is None else total
            if not bool((found == total).all()):
                return None
        return None if total is None else total.double().expand(inner).reshape(-1)

    @cached_property
    def reach(self) -> Tensor:
        """Largest distance of any value from the common centre, over all events."""
        assert self.shift is not None
        if self.agreed is not None:
            return self.agreed
        values, rows, seen = self.value.tensor, len(self.value.names), self.seen
        if not rows:
            return (values.double() - self.shift).abs().nan_to_num(0.0).amax()
        longest = max(range(rows), key=lambda axis: values.shape[axis])
        found = torch.zeros((), dtype=torch.float64)
        for start in range(0, values.shape[longest], SLICE):
            size = min(SLICE, values.shape[longest] - start)
            part = values.narrow(longest, start, size).double() - self.shift
            if seen is not None:
                part = torch.where(seen.narrow(longest, start, size), part, 0.0)
            found = torch.maximum(found, part.abs().nan_to_num(0.0).amax())
        return found

    @property
    def seen(self) -> Tensor | None:
        """Entries of the value that no mask leaves out; None is all."""
        return seen_entries(self.value, self.weight, len(self.event_shape), self.family.event_dim)

    def _of_one_row(self) -> tuple[Tensor, ...]:
        """The statistics of one row."""
        value, *known = (precise(p.tensor[(0,) * len(p.names)]) for p in (self.value, *self.known.values()))
        return self.family.statistics(value, dict(zip(self.known, known, strict=True)))
