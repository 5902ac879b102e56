"""One recognised site as linear algebra: all components' log-densities by one matrix product, statistics by another.

The value's sufficient statistics form a matrix `features`, one column a row of data; the bound arguments form a matrix
`natural`, one row a cell (a component, a state, an item). The factor is `natural @ features + base`, and the expected
statistics of every cell are `weights @ features'`. Plates inside which no latent lives are events: they are summed in
the product. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from .bank import RoleMap, gather
from .charts import safe_log
from .families import Family
from .named import Named, align

LOWEST = -1e30  # a structural zero in log space; finite, because 0 * -inf is not 0 in a matrix product
CACHE = 4_000_000  # features of at most this many entries are kept, larger ones are rebuilt block by block


@dataclass(frozen=True)
class Block:
    """Rows of one plate; None is all of them."""

    plate: str | None
    start: int = 0
    length: int = 0


WHOLE = Block(None)


@dataclass(frozen=True)
class Bound:
    """The atoms of one set of parameter values, computed once a step and shared by all terms."""

    params: Mapping[str, Tensor]
    entries: Tensor
    logs: tuple[Tensor, Tensor]
    matrices: Tensor
    lead: int = 0


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
    cache: dict[Block, Tensor] = field(default_factory=dict, repr=False, compare=False)

    # ---- the two products ----

    def natural(self, bound: Bound) -> Tensor:
        """Natural parameters of every cell as one matrix: (starts) + batch + rows + (F,)."""
        lead, layout = bound.lead, self.layout
        kept = (*layout.batch, *layout.rows)
        starts = next(iter(bound.params.values())).shape[:lead] if lead else ()
        parts = []
        for k, part in enumerate(self.family.natural(self.arguments(bound))):
            event = self.events[k]
            part = part.expand((*starts, *self.cell_shape, *self.event_shape, *event))
            if kept != self.cells:
                part = align(part, self.cells, (*kept, *layout.folded), len(self.event_shape) + len(event))
            part = part.reshape((*part.shape[: lead + len(kept)], -1))
            parts.append(part.sum(-1, keepdim=True) if k in self.counting else part)
        eta = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return eta.clamp(min=LOWEST)

    def factor(self, natural: Tensor, features: Tensor, block: Block = WHOLE, lead: int = 0) -> Tensor:
        """Log-density of the rows of `block`, in the order of `names`, without the base measure."""
        layout, at = self.layout, lead + len(self.layout.batch)
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
        kept = weights.shape[: lead + len(layout.batch) + len(layout.rows)]
        flat = weights.reshape((*kept[: lead + len(layout.batch)], prod(kept[lead + len(layout.batch) :]), -1))
        return (flat @ features.mT).reshape((*kept, -1))

    def split(self, statistics: Tensor, lead: int = 0) -> tuple[Tensor, ...]:
        """Cut summed statistics into those of the family: (starts) + cells + events + event of the statistic."""
        layout, parts, at = self.layout, [], 0
        kept = (*layout.batch, *layout.rows)
        dims = (*(self.sizes[n] for n in layout.folded), *self.event_shape)
        for k, event in enumerate(self.events):
            size = 1 if k in self.counting else prod((*dims, *event))
            part = statistics[..., at : at + size]
            if k in self.counting:
                part = part.reshape((*statistics.shape[:-1], *(1 for _ in dims)))
                part = part.expand((*statistics.shape[:-1], *dims))
            else:
                part = part.reshape((*statistics.shape[:-1], *dims, *event))
            parts.append(align(part, (*kept, *layout.folded), self.cells, len(self.event_shape) + len(event)))
            at += size
        return tuple(parts)

    # ---- features ----

    def features(self, block: Block = WHOLE) -> Tensor:
        """`T(x)` as (batch) + (F, columns flattened)."""
        key = block if block.plate in self.data_plates else WHOLE
        if key in self.cache:
            return self.cache[key]
        made = self._features(key)
        if made.numel() * (1 if key.plate is None else -(-self.sizes[key.plate] // key.length)) <= CACHE:
            self.cache[key] = made
        return made

    def _features(self, block: Block) -> Tensor:
        layout = self.layout
        keep = (*layout.batch, *layout.columns)
        value, known, weight = self._rows(block)
        rank = len(self.event_shape)
        plain = weight is None and not self.folded and not layout.batch and len(layout.columns) == 1
        if plain and (not rank or self.counting):
            fast = self.family.columns(value, known)
            if fast is not None and fast.shape[0] == self.width:
                return fast
        shape = [self._size(n, block) for n in (*keep, *self.folded)]
        parts = []
        for k, part in enumerate(self.family.statistics(value, known)):
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
        count = sum(part.shape[-1] for part in parts)
        at = len(layout.batch)
        out = torch.empty((*shape[:at], count, *shape[at : len(keep)]), dtype=torch.float64, device=value.device)
        start = 0
        for part in parts:
            out.narrow(at, start, part.shape[-1]).copy_(part.movedim(-1, at))
            start += part.shape[-1]
        return out.reshape((*out.shape[: at + 1], -1))

    def base(self, block: Block = WHOLE) -> Named | None:
        """Log base measure of every row, events and folded plates summed."""
        value, known, weight = self._rows(block)
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

    def _rows(self, block: Block) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Value, known arguments and weight of some rows, each in dimensions (batch, columns, folded) + events."""
        every = (*self.layout.batch, *self.layout.columns, *self.folded)

        def cut(part: Named, trailing: int) -> Tensor:
            tensor = part.tensor
            if block.plate in part.names:
                tensor = tensor.narrow(part.names.index(block.plate), block.start, block.length)
            return align(tensor, part.names, every, trailing)

        rank = len(self.event_shape)
        value = cut(self.value, self.value.tensor.dim() - len(self.value.names))
        value = value if self.shift is None else value.double() - self.shift
        known = {
            key: part.tensor if key in self.family.known_event_dim and not part.names
            else cut(part, part.tensor.dim() - len(part.names))
            for key, part in self.known.items()
        }  # fmt: skip
        return value, known, None if self.weight is None else cut(self.weight, rank)

    # ---- arguments ----

    def arguments(self, bound: Bound) -> dict[str, Tensor]:
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
                args[key] = self._log(key, role, bound.logs[0], bound)
                if domain == "unit":
                    args[f"{key}_complement"] = self._log(f"{key}_complement", role, bound.logs[1], bound)
                continue
            atoms = bound.matrices if domain == "scale_tril" else bound.entries
            args[key] = gather(role, atoms, bound.params, bound.lead)
            if args[key].dtype != torch.float64:
                args[key] = args[key].double()
            if self.shift is not None and key == self.family.location:
                args[key] = args[key] - self.shift
        return args

    def _log(self, key: str, role: RoleMap, logs: Tensor, bound: Bound) -> Tensor:
        log = gather(self.log_roles[key], logs, bound.params, bound.lead)
        if role.coefficient is not None:
            log = log + self.log_coefficients[key.removesuffix("_complement")]
        return log.clamp(min=LOWEST)

    # ---- layout, worked out once ----

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Named dimensions of the factor."""
        kept = (*self.cells, *self.columns)
        return tuple(n for n in self.sizes if n in kept and n not in self.folded)

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
                constant = None if role.constant is None else role.constant.double()
                found[key] = replace(role, coefficient=None, constant=None if constant is None else safe_log(constant))
                other = None if constant is None else safe_log(1 - constant)
                found[f"{key}_complement"] = replace(role, coefficient=None, constant=other)
        return found

    @cached_property
    def log_coefficients(self) -> dict[str, Tensor]:
        """Logarithms of the known factors of probabilities."""
        return {
            key: torch.where(role.index < 0, 0.0, role.coefficient.log())
            for key, role in self.roles.items()
            if role.coefficient is not None
        }

    @cached_property
    def width(self) -> int:
        """Number of features."""
        dims = prod((*(self.sizes[n] for n in self.layout.folded), *self.event_shape))
        return sum(1 if k in self.counting else dims * prod(event) for k, event in enumerate(self.events))

    def block_sizes(self, block: Block) -> tuple[int, ...]:
        """Sizes of `laid_out` in a block."""
        return tuple(self._size(n, block) for n in self.laid_out)

    def _sample(self) -> tuple[Tensor, ...]:
        """The statistics of one row."""
        tensor = self.value.tensor[(0,) * len(self.value.names)]
        known = {k: p.tensor if not p.names else p.tensor[(0,) * len(p.names)] for k, p in self.known.items()}
        return self.family.statistics(tensor, known)

    def _size(self, name: str, block: Block) -> int:
        return block.length if name == block.plate else self.sizes[name]
