"""One recognised site as linear algebra: all components' log-densities by one matrix product, statistics by another.

The value's sufficient statistics form a matrix `features`, one column a row of data; the bound arguments form a matrix
`natural`, one row a cell (a component, a state, an item). The factor is `natural @ features + base`, and the expected
statistics of every cell are `weights @ features'`. Plates inside which no latent lives are events: they are summed in
the product. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...families import Family
from ...families.charts import safe_log
from ...program.named import SLICE, Named, align, ordered
from ...reading.bank import RoleMap, gather
from ...reading.bound import LOWEST, Bound

CACHE = 4_000_000  # features of at most this many entries are kept, larger ones are rebuilt block by block


@dataclass(frozen=True)
class Block:
    """Rows of one plate; None is all of them."""

    plate: str | None
    start: int = 0
    length: int = 0


WHOLE = Block(None)

Room = Callable[[], Tensor]
"""Where to write features that are not kept: a matrix (F, columns) that is read before it is asked for again."""


@dataclass(frozen=True)
class Layout:
    """How the named dimensions of a term's factor are laid out in its two matrix products."""

    batch: tuple[str, ...]  # of cells and columns both
    rows: tuple[str, ...]  # of the cells alone
    columns: tuple[str, ...]  # of the features alone
    folded: tuple[str, ...]  # folded plates along which the cells differ


@dataclass(frozen=True)
class Term:
    """A compiled site."""

    name: str
    family: Family
    role: str  # "observed" | "latent"
    plates: frozenset[str]
    roles: Mapping[str, RoleMap] = field(repr=False)  # broadcast to the cells
    cells: tuple[str, ...]  # named dimensions of the cells
    cell_shape: tuple[int, ...]
    event_shape: tuple[int, ...]  # reinterpreted events
    columns: tuple[str, ...]  # named dimensions of the features
    folded: tuple[str, ...]  # plates that are events
    value: Named = field(repr=False)
    known: Mapping[str, Named] = field(repr=False)
    weight: Named | None = field(repr=False)  # mask, and scale within the folded plates
    shift: Tensor | None = field(repr=False)  # subtracted from values and locations
    sizes: Mapping[str, int] = field(repr=False)
    parameters: frozenset[str] = frozenset()
    centred: bool = False  # each cell around its own location, see `centring.py`
    cache: dict[Block, Tensor] = field(default_factory=dict, repr=False, compare=False)

    # ---- the two products ----

    def natural(self, bound: Bound, centre: Tensor | None = None) -> Tensor:
        """Natural parameters of every cell as one matrix: (starts) + batch + rows + (F,).

        They are those of values less `shift`, or less a `centre` of every cell.
        """
        lead, layout = bound.lead, self.layout
        kept = (*layout.batch, *layout.rows)
        inner = (*bound.starts, *self.cell_shape, *self.event_shape)
        parts = []
        for k, part in enumerate(self.family.natural(self.arguments(bound, centre))):
            event = self.events[k]
            if part.shape != (*inner, *event):
                part = part.expand((*inner, *event))
            if kept != self.cells:
                part = align(part, self.cells, (*kept, *layout.folded), len(self.event_shape) + len(event))
            if part.dim() != lead + len(kept) + 1:
                part = part.reshape((*part.shape[: lead + len(kept)], -1))
            parts.append(part.sum(-1, keepdim=True) if k in self.counting and part.shape[-1] > 1 else part)
        eta = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return eta if self.logarithmic else eta.clamp(min=LOWEST)

    def factor(self, natural: Tensor, features: Tensor, block: Block = WHOLE, lead: int = 0) -> Tensor:
        """Log-density of the rows of `block`, in the order of `names`, without the base measure."""
        layout, at = self.layout, lead + len(self.layout.batch)
        if self.indicator:
            return align(natural.reshape((*natural.shape[:lead], *self.block_sizes(block))), self.laid_out, self.names)
        if layout.rows:
            natural = natural.flatten(at, -2) if len(layout.rows) > 1 else natural
        else:
            natural = natural.unsqueeze(-2)
        product = natural @ features
        sizes = self.block_sizes(block)
        return align(product.reshape((*product.shape[:lead], *sizes)), self.laid_out, self.names)

    def statistics(self, weights: Tensor, features: Tensor, lead: int = 0) -> Tensor:
        """Expected sufficient statistics `S = <W, T(x)>` of every cell: (starts) + batch + rows + (F,)."""
        layout = self.layout
        weights = align(weights, self.names, self.laid_out)
        if self.indicator:
            return weights.reshape((*weights.shape[:lead], -1))
        kept = weights.shape[: lead + len(layout.batch) + len(layout.rows)]
        flat = weights.reshape((*kept[: lead + len(layout.batch)], prod(kept[lead + len(layout.batch) :]), -1))
        return (flat @ features.mT).reshape((*kept, -1))

    def split(self, statistics: Tensor, lead: int = 0) -> tuple[Tensor, ...]:
        """Cut summed statistics into those of the family: (starts) + cells + events + event of the statistic."""
        before, parts = statistics.shape[:-1], []
        for k, (start, stop, shape, moved) in enumerate(self._cuts):
            part = statistics[..., start:stop]
            if k in self.counting:
                part = part.reshape((*before, *(1 for _ in shape))).expand((*before, *shape))
            elif len(shape) != 1:
                part = part.reshape((*before, *shape))
            parts.append(align(part, *moved) if moved else part)
        if self.centred:
            parts.append(self.centre_of(statistics))
        return tuple(parts)

    def centre_of(self, statistics: Tensor) -> Tensor:
        """Behind the statistics of a term that is centred by cell: the locations that they are around."""
        location = self.family.location
        assert location is not None
        tail = statistics[..., self.width :].shape[-1:] if self.family.roles[location].event_dim else ()
        events = self.event_shape if not tail else (*self.event_shape, -1)
        return statistics[..., self.width :].reshape((*statistics.shape[:-1], *events))

    def inner(self, bound: Bound, statistics: Tensor) -> Tensor:
        """`<eta, S>` of every statistic, the share of this term in `Q`."""
        if self.centred:
            eta, statistics = self.natural(bound, self.centre_of(statistics)), statistics[..., : self.width]
        else:
            eta = self.natural(bound)
        return torch.where(statistics != 0, eta * statistics, 0.0)

    @cached_property
    def _cuts(self) -> list[tuple[int, int, tuple[int, ...], Any]]:
        """Of every statistic: its features, their shape, and how its dimensions are moved, if they are."""
        layout, found = self.layout, []
        have = (*layout.batch, *layout.rows, *layout.folded)
        dims = (*(self.sizes[n] for n in layout.folded), *self.event_shape)
        for k, event in enumerate(self.events):
            shape = dims if k in self.counting else (*dims, *event)
            moved = None if have == self.cells else (have, self.cells, len(self.event_shape) + len(event))
            found.append((self.places[k], self.places[k + 1], shape, moved))
        return found

    # ---- features ----

    def features(self, block: Block = WHOLE, room: Room | None = None) -> Tensor:
        """`T(x)` as (batch) + (F, columns flattened); what is not kept is written into `room()`, if that is given."""
        key = block if block.plate in self.data_plates else WHOLE
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
        return (width or self.width) * prod(self.sizes[n] for n in dims) <= CACHE

    def empty(self, block: Block, width: int | None = None) -> Tensor:
        """Room for the features of a block."""
        batch = [self._size(n, block) for n in self.layout.batch]
        columns = prod(self._size(n, block) for n in self.layout.columns)
        shape = (*batch, width or self.width, columns)
        return torch.empty(shape, dtype=torch.float64, device=self.value.tensor.device)

    def write(self, block: Block, out: Tensor, shift: Tensor | None = None, *, lean: bool = False) -> None:
        """Write the features of a block, of values less `shift` (the term's own if none is given).

        `lean` leaves out the last of statistics that add up to `total`.
        """
        layout = self.layout
        keep = (*layout.batch, *layout.columns)
        value, known, weight = self.rows(block, shift)
        rank = len(self.event_shape)
        shape = [self._size(n, block) for n in (*keep, *self.folded)]
        at = len(layout.batch)
        plain = weight is None and not self.folded and not layout.batch and len(layout.columns) == 1 and not lean
        if plain and (not rank or self.counting) and self.family.columns(value, known, out):
            return
        parts, statistics = [], self.family.statistics(value, known)
        if lean:  # every row counts once
            weight, statistics = None, statistics[:-1] if len(statistics) > 1 else (statistics[0][..., :-1],)
        for k, part in enumerate(statistics):
            part = part.double()
            if k in self.counting:
                parts.append(part.new_ones(()).expand((*shape[: len(keep)], 1)))
                continue
            event = part.dim() - len(shape) - rank
            if weight is not None:
                w = weight.reshape(weight.shape + (1,) * event)
                part = torch.where(w == 0, 0.0, part * w)
            part = part.expand((*shape, *self.event_shape, *part.shape[len(shape) + rank :]))
            drop = tuple(i + len(keep) for i, n in enumerate(self.folded) if n not in self.cells)
            part = part.sum(drop) if drop else part
            parts.append(part.reshape((*part.shape[: len(keep)], -1)))
        spread, start = out.view((*out.shape[: at + 1], *shape[at : len(keep)])), 0
        for part in parts:
            spread.narrow(at, start, part.shape[-1]).copy_(part.movedim(-1, at))
            start += part.shape[-1]

    def base(self, block: Block = WHOLE) -> Named | None:
        """Log base measure of every row, events and folded plates summed."""
        value, known, weight = self.rows(block)
        base = self.family.base(value, known)
        if base is None:
            return None
        keep = (*self.layout.batch, *self.layout.columns)
        if weight is not None:
            base = torch.where(weight == 0, 0.0, base.double() * weight)
        shape = [self._size(n, block) for n in (*keep, *self.folded)]
        base = base.double().expand((*shape, *self.event_shape))
        extra = tuple(range(len(keep), base.dim()))
        return Named(base.sum(extra) if extra else base, keep)

    def rows(self, block: Block, shift: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Value, known arguments and weight of some rows, each in dimensions (batch, columns, folded) + events."""
        every = (*self.layout.batch, *self.layout.columns, *self.folded)

        def cut(part: Named, trailing: int) -> Tensor:
            tensor = part.tensor
            if block.plate in part.names:
                tensor = tensor.narrow(part.names.index(block.plate), block.start, block.length)
            return align(tensor, part.names, every, trailing)

        rank = len(self.event_shape)
        value = cut(self.value, self.value.tensor.dim() - len(self.value.names))
        shift = self.shift if shift is None else shift
        value = value if shift is None else value.double() - shift
        known = {
            key: part.tensor if key in self.family.known_event_dim and not part.names
            else cut(part, part.tensor.dim() - len(part.names))
            for key, part in self.known.items()
        }  # fmt: skip
        return value, known, None if self.weight is None else cut(self.weight, rank).double()

    def slices(self) -> list[Block]:
        """Blocks of rows over which to sum something once, so that no large temporary is made."""
        plates = [n for n in self.layout.columns if n in self.value.names]
        plate = max(plates, key=lambda n: self.sizes[n], default=None)
        if plate is None or self.sizes[plate] <= SLICE:
            return [WHOLE]
        size = self.sizes[plate]
        return [Block(plate, start, min(SLICE, size - start)) for start in range(0, size, SLICE)]

    # ---- arguments ----

    def arguments(self, bound: Bound, centre: Tensor | None = None) -> dict[str, Tensor]:
        """Bind every role to the atoms, as the family expects them (logarithms for probabilities)."""
        args: dict[str, Tensor] = {}
        for key, role in self.roles.items():
            domain = self.family.roles[key].domain
            if role.affine is not None and domain in ("unit", "simplex"):
                logs = role.affine.logs(bound.params, bound.lead)
                for name, log in zip((key, f"{key}_complement"), logs, strict=True):
                    if log is not None:
                        args[name] = log.clamp(min=LOWEST)
                continue
            if domain in ("unit", "simplex"):
                args[key] = self._log(key, role, bound.logs, bound)
                if domain == "unit":
                    args[f"{key}_complement"] = self._log(f"{key}_complement", role, bound.log_complements, bound)
                continue
            atoms = bound.matrices if domain == "scale_tril" else bound.entries
            args[key] = gather(role, atoms, bound.params, bound.lead)
            if args[key].dtype != torch.float64:
                args[key] = args[key].double()
            if self.shift is not None and key == self.family.location:
                args[key] = args[key] - (self.shift if centre is None else centre)
        return args

    def _log(self, key: str, role: RoleMap, logs: Tensor, bound: Bound) -> Tensor:
        log = gather(self.log_roles[key], logs, bound.params, bound.lead)
        if role.coefficient is not None:
            log = (log + self.log_coefficients[key.removesuffix("_complement")]).clamp(min=LOWEST)
        return log

    def centres(self, bound: Bound) -> Tensor:
        """The location of every cell: (starts) + cells + events + event of the location."""
        location = self.family.location
        assert location is not None
        found = gather(self.roles[location], bound.entries, bound.params, bound.lead).double()
        tail = found.shape[found.dim() - self.family.roles[location].event_dim :]
        return found.expand((*bound.starts, *self.cell_shape, *self.event_shape, *tail))

    # ---- layout, worked out once ----

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Named dimensions of the factor."""
        kept = (*self.cells, *self.columns)
        return ordered((n for n in kept if n not in self.folded), self.sizes)

    @cached_property
    def layout(self) -> Layout:
        """Which dimensions are shared, of the cells, of the columns."""
        cells = [n for n in self.cells if n not in self.folded]
        columns = [n for n in self.columns if n not in self.folded]
        return Layout(
            tuple(n for n in cells if n in columns),
            tuple(n for n in cells if n not in columns),
            tuple(n for n in columns if n not in cells),
            tuple(n for n in self.folded if n in self.cells),
        )

    @cached_property
    def laid_out(self) -> tuple[str, ...]:
        """Dimensions of the product."""
        return (*self.layout.batch, *self.layout.rows, *self.layout.columns)

    @cached_property
    def events(self) -> tuple[tuple[int, ...], ...]:
        """Event shape of each statistic."""
        return tuple(tuple(s.shape[len(self.event_shape) :]) for s in self._sample())

    @cached_property
    def counting(self) -> frozenset[int]:
        """Statistics that are one in every row and event: their natural parameters are summed before the product."""
        if self.weight is not None:
            return frozenset()
        return frozenset(
            k for k in self.family.counting if not self.events[k] and not self.layout.folded and not self.folded
        )

    @cached_property
    def total(self) -> Tensor | None:
        """What the statistics of every row add up to, of each folded plate and event: shape (E,).

        None if it differs between rows or is not known: no statistic then follows from the others.
        """
        if self.layout.batch or self.layout.folded != self.folded or self.role != "observed":
            return None
        inner = (*(self.sizes[n] for n in self.folded), *self.event_shape)
        total: Tensor | None = None
        for block in self.slices():
            value, known, weight = self.rows(block)
            found = self.family.total(value, known)
            if found is None or not (weight is None or bool((weight == 1).all())):
                return None
            found = found.reshape((-1, *found.shape[max(found.dim() - len(inner), 0) :]))
            total = found[0] if total is None else total
            if not bool((found == total).all()):
                return None
        assert total is not None
        return total.double().expand(inner).reshape(-1)

    @cached_property
    def indicator(self) -> bool:
        """Whether the features are the identity: a product with a latent's own support is a copy."""
        if self.role != "latent" or self.layout.batch or self.layout.rows:
            return False
        features = self.features()
        return features.shape[0] == features.shape[1] and torch.equal(features, torch.eye(len(features)).to(features))

    @cached_property
    def data_plates(self) -> frozenset[str]:
        """Plates along which the features have rows."""
        parts = [self.value, *self.known.values()] + ([self.weight] if self.weight else [])
        return frozenset(n for part in parts for n in part.names) | frozenset(self.columns)

    @cached_property
    def log_roles(self) -> dict[str, RoleMap]:
        """Roles of probabilities with their constants as logarithms."""
        found = {}
        for key, role in self.roles.items():
            if self.family.roles[key].domain in ("unit", "simplex"):
                plain = replace(role, coefficient=None)
                for name, complement in ((key, False), (f"{key}_complement", True)):
                    constant = role.constant
                    if constant is not None:
                        constant = constant.double()
                        constant = safe_log(1 - constant if complement else constant).clamp(min=LOWEST)
                    found[name] = replace(plain, constant=constant)
        return found

    @cached_property
    def logarithmic(self) -> bool:
        """Whether all arguments are probabilities, whose logarithms are finite as they are bound."""
        return all(role.domain in ("unit", "simplex") for role in self.family.roles.values())

    @cached_property
    def log_coefficients(self) -> dict[str, Tensor]:
        """Logarithms of the known factors of probabilities."""
        return {
            key: torch.where(role.index < 0, 0.0, role.coefficient.log())
            for key, role in self.roles.items()
            if role.coefficient is not None
        }

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

    def block_sizes(self, block: Block) -> tuple[int, ...]:
        """Sizes of `laid_out` in a block."""
        return tuple(self._size(n, block) for n in self.laid_out)

    @property
    def seen(self) -> Tensor | None:
        """Entries of the value that no mask leaves out; None is all."""
        return seen_entries(self.value, self.weight, len(self.event_shape), self.family.event_dim)

    def _sample(self) -> tuple[Tensor, ...]:
        """The statistics of one row."""
        tensor = self.value.tensor[(0,) * len(self.value.names)]
        known = {k: p.tensor if not p.names else p.tensor[(0,) * len(p.names)] for k, p in self.known.items()}
        return self.family.statistics(tensor, known)

    def _size(self, name: str, block: Block) -> int:
        return block.length if name == block.plate else self.sizes[name]


def seen_entries(value: Named, weight: Named | None, rank: int, event_dim: int) -> Tensor | None:
    """Entries of a value whose weight is not zero, as a view of its shape; None is all."""
    if weight is None or not set(weight.names) <= set(value.names):
        return None
    w = weight.tensor.reshape(weight.tensor.shape + (1,) * event_dim)
    return (align(w, weight.names, value.names, rank + event_dim) != 0).expand_as(value.tensor)
