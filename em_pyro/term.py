"""One recognised site as linear algebra: all components' log-densities by one matrix product, statistics by another.

The value's sufficient statistics form a matrix `features`, one column a row of data; the bound arguments form a matrix
`natural`, one row a cell (a component, a state, an item). The factor is `natural @ features + base`, and the expected
statistics of every cell are `weights @ features'`. Plates inside which no latent lives are events: they are summed in the
product. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from .bank import RoleMap, gather
from .charts import safe_log
from .families import Family
from .named import Named, align, squeeze
from .recognise import Reading

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
    atoms: Tensor
    logs: tuple[Tensor, Tensor]
    matrices: Tensor
    lead: int = 0


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
    cache: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Named dimensions of the factor."""
        kept = (*self.cells, *self.columns)
        return tuple(n for n in self.sizes if n in kept and n not in self.folded)

    # -- the two products --

    def natural(self, bound: Bound) -> tuple[Tensor, ...]:
        """Natural parameters of every cell: shape (starts) + cells + events + event of the statistic."""
        return tuple(part.clamp(min=LOWEST) for part in self.family.natural(self.arguments(bound)))

    def factor(self, natural: tuple[Tensor, ...], block: Block = WHOLE, lead: int = 0) -> Tensor:
        """Log-density in the order of `names`, of the rows of `block`."""
        features, base = self.features(block)
        batch, rows, columns = self._layout()
        eta = self._stacked(natural, lead)  # (starts) + batch + rows + (F,)
        count = features.shape[len(batch)]
        columns_flat = features.reshape((*features.shape[: len(batch)], count, -1))
        product = eta.reshape(*eta.shape[: lead + len(batch)], -1, count) @ columns_flat
        if base is not None:
            product = product + base.reshape(*base.shape[: len(batch)], 1, -1)
        sizes = [self._size(n, block) for n in (*batch, *rows, *columns)]
        product = product.reshape((*product.shape[:lead], *sizes))
        return align(product, (*batch, *rows, *columns), self.names)

    def statistics(self, weights: Tensor, block: Block = WHOLE, lead: int = 0) -> Tensor:
        """Expected sufficient statistics `S = <W, T(x)>` of every cell: shape (starts) + batch + rows + (F,)."""
        features, _ = self.features(block)
        batch, rows, columns = self._layout()
        w = align(weights, self.names, (*batch, *rows, *columns))
        shape = w.shape
        w = w.reshape(*shape[: lead + len(batch)], prod(shape[lead + len(batch) : lead + len(batch) + len(rows)]), -1)
        product = w @ features.reshape(*features.shape[: len(batch) + 1], -1).mT
        return product.reshape((*shape[: lead + len(batch) + len(rows)], -1))

    def split(self, statistics: Tensor, lead: int = 0) -> tuple[Tensor, ...]:
        """Cut summed statistics into those of the family: shape (starts) + cells + events + event of the statistic."""
        batch, rows, _ = self._layout()
        folded = tuple(n for n in self.folded if n in self.cells)
        parts, at = [], 0
        dims = tuple(self.sizes[n] for n in folded) + self.event_shape
        each = prod(dims)
        for event in self._events():
            size = each * prod(event)
            part = statistics[..., at : at + size].reshape((*statistics.shape[:-1], *dims, *event))
            trailing = len(self.event_shape) + len(event)
            parts.append(align(part, (*batch, *rows, *folded), self.cells, trailing))
            at += size
        return tuple(parts)

    # -- features --

    def features(self, block: Block = WHOLE) -> tuple[Tensor, Tensor | None]:
        """`T(x)` as (batch) + (F,) + columns, and the base measure as (batch) + columns."""
        key = (block.start, block.length) if block.plate in self._plates_of_data() else (0, 0)
        if key in self.cache:
            return self.cache[key]
        made = self._features(block)
        if made[0].numel() * max(1, self._blocks(block)) <= CACHE:
            self.cache[key] = made
        return made

    def _features(self, block: Block) -> tuple[Tensor, Tensor | None]:
        batch, _, columns = self._layout()
        keep, folded = (*batch, *columns), self.folded
        every = keep + folded

        def cut(part: Named, trailing: int) -> Tensor:
            tensor = part.tensor
            if block.plate in part.names:
                tensor = tensor.narrow(part.names.index(block.plate), block.start, block.length)
            return align(tensor, part.names, every, trailing)

        rank = len(self.event_shape)
        value = cut(self.value, rank + self.family.event_dim)
        value = value if self.shift is None else value.double() - self.shift
        known = {
            key: cut(part, rank if key not in self.family.known_event_dim else self.family.known_event_dim[key])
            if part.names or key not in self.family.known_event_dim
            else part.tensor
            for key, part in self.known.items()
        }
        weight = None if self.weight is None else cut(self.weight, rank)
        batch_shape = [self._size(n, block) for n in every]
        parts = []
        for part in self.family.statistics(value, known):
            part = part.double()
            event = part.dim() - len(every) - rank
            if weight is not None:
                w = weight.reshape(weight.shape + (1,) * event)
                part = torch.where(w == 0, 0.0, part * w)
            part = part.expand((*batch_shape, *self.event_shape, *part.shape[len(every) + rank :]))
            drop = tuple(i + len(keep) for i, n in enumerate(folded) if n not in self.cells)
            part = part.sum(drop) if drop else part
            parts.append(part.reshape((*part.shape[: len(keep)], -1)))
        features = torch.cat(parts, -1).movedim(-1, len(batch)).contiguous()
        base = self.family.base(value, known)
        if base is not None:
            base = base.double()
            if weight is not None:
                base = torch.where(weight == 0, 0.0, base * weight)
            base = base.expand((*batch_shape, *self.event_shape))
            extra = tuple(range(len(keep), base.dim()))
            base = base.sum(extra) if extra else base
        return features, base

    # -- layout --

    def arguments(self, bound: Bound) -> dict[str, Tensor]:
        """Bind every role to the atoms, as the family expects them (logarithms for probabilities)."""
        args = {}
        for key, role in self.roles.items():
            domain = self.family.roles[key].domain
            if domain in ("unit", "simplex"):
                args[key] = self._log(role, bound.logs[0], bound, complement=False)
                if domain == "unit":
                    args[f"{key}_complement"] = self._log(role, bound.logs[1], bound, complement=True)
            else:
                atoms = bound.matrices if domain == "scale_tril" else bound.atoms
                args[key] = gather(role, atoms, bound.params, bound.lead).double()
                if self.shift is not None and key == self.family.location:
                    args[key] = args[key] - self.shift
        return args

    def _log(self, role: RoleMap, logs: Tensor, bound: Bound, *, complement: bool) -> Tensor:
        constant = role.constant
        if constant is not None:
            constant = safe_log(1 - constant.double() if complement else constant.double())
        coefficient, role = role.coefficient, replace(role, coefficient=None, constant=constant)
        log = gather(role, logs, bound.params, bound.lead)
        if coefficient is not None:
            log = log + torch.where(role.index < 0, 0.0, coefficient.log())
        return log.clamp(min=LOWEST)

    def _layout(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Kept dimensions: shared by cells and columns, of the cells alone, of the columns alone."""
        cells = [n for n in self.cells if n not in self.folded]
        columns = [n for n in self.columns if n not in self.folded]
        return (
            tuple(n for n in cells if n in columns),
            tuple(n for n in cells if n not in columns),
            tuple(n for n in columns if n not in cells),
        )

    def _stacked(self, natural: Sequence[Tensor], lead: int) -> Tensor:
        batch, rows, _ = self._layout()
        folded = tuple(n for n in self.folded if n in self.cells)
        parts = []
        for part, event in zip(natural, self._events(), strict=True):
            part = part.expand((*part.shape[:lead], *self.cell_shape, *self.event_shape, *event))
            trailing = len(self.event_shape) + len(event)
            part = align(part, self.cells, (*batch, *rows, *folded), trailing)
            parts.append(part.reshape((*part.shape[: lead + len(batch) + len(rows)], -1)))
        return torch.cat(parts, -1)

    def _events(self) -> list[tuple[int, ...]]:
        """Event shape of each statistic."""
        if "events" not in self.__dict__:
            rank, names = len(self.event_shape), len(self.value.names)
            tensor = self.value.tensor
            for _ in range(names):
                tensor = tensor[:1].squeeze(0)
            known = {k: p.tensor if not p.names else p.tensor[(0,) * len(p.names)] for k, p in self.known.items()}
            shapes = [tuple(s.shape[rank:]) for s in self.family.statistics(tensor, known)]
            object.__setattr__(self, "events", shapes)
        return self.__dict__["events"]

    def _size(self, name: str, block: Block) -> int:
        return block.length if name == block.plate else self.sizes[name]

    def _plates_of_data(self) -> set[str]:
        parts = [self.value, *self.known.values()] + ([self.weight] if self.weight else [])
        return {n for part in parts for n in part.names} | set(self.columns)

    def _blocks(self, block: Block) -> int:
        return 1 if block.plate is None or not block.length else -(-self.sizes[block.plate] // block.length)


def compile_term(
    reading: Reading,
    sizes: Mapping[str, int],
    above: frozenset[str],
    exponent: Named | None,
) -> Term:
    """Lay a reading out as matrices.

    Args:
        reading: a recognised site.
        sizes: of all latents and plates, in their order.
        above: plates of the latents on which the site depends; its other plates are folded.
        exponent: `poutine.scale` within the folded plates.
    """
    site, family, rank = reading.site, reading.family, reading.event_rank
    value = squeeze(site.value, site.dims, site.name, rank + family.event_dim)
    known = {
        key: squeeze(part, site.dims, site.name, family.known_event_dim.get(key, rank))
        for key, part in reading.known.items()
    }
    parts = [value, *known.values()]
    weight = _weight(reading, exponent, sizes)
    if weight is not None:
        parts.append(weight)
    folded = tuple(p for p in sizes if p in site.plates and p not in above) if site.role == "observed" else ()
    present = {n for part in parts for n in part.names}
    columns = tuple(n for n in sizes if n in present or n in folded)
    event_shape = tuple(torch.broadcast_shapes(*_event_shapes(reading, value, known)))
    cells = tuple(n for n in sizes if any(n in role.names for role in reading.roles.values()))
    cell_shape = tuple(sizes[n] for n in cells)
    roles = {}
    for key, role in reading.roles.items():
        tail = () if family.roles[key].domain == "scale_tril" else role.index.shape[role.index.dim() - family.roles[key].event_dim :]
        roles[key] = _spread(role, cells, (*cell_shape, *event_shape, *tail))
    shift = None
    if family.location is not None and site.role == "observed":
        shift = _centre(value, weight, rank, family.event_dim)
    return Term(
        site.name, family, site.role, frozenset(site.plates), roles, cells, cell_shape, event_shape, columns, folded,
        value, known, weight, shift, sizes, reading.parameters,
    )  # fmt: skip


def _event_shapes(reading: Reading, value: Named, known: Mapping[str, Named]) -> list[tuple[int, ...]]:
    rank, family = reading.event_rank, reading.family
    shape = value.tensor.shape[len(value.names) :]
    shapes = [tuple(shape[:rank])]
    for key, role in reading.roles.items():
        event = 0 if family.roles[key].domain == "scale_tril" else family.roles[key].event_dim
        shape = role.index.shape[len(role.names) :]
        shapes.append(tuple(shape[: len(shape) - event]))
    return shapes


def _spread(role: RoleMap, cells: tuple[str, ...], shape: tuple[int, ...]) -> RoleMap:
    """Broadcast a role to the cells (views, no memory)."""

    def spread(part: Tensor | None, extra: int = 0) -> Tensor | None:
        if part is None:
            return None
        trailing = part.dim() - len(role.names)
        part = align(part, role.names, cells, trailing)
        return part.expand((*shape, *part.shape[part.dim() - extra :])) if extra else part.expand(shape)

    index = spread(role.index)
    assert index is not None
    constant = role.constant
    if constant is not None and constant.dim() > role.index.dim():
        constant = spread(constant, constant.dim() - role.index.dim())
    else:
        constant = spread(constant)
    affine = role.affine
    if affine is not None:
        affine = replace(affine, offset=spread(affine.offset), design=spread(affine.design, 1))
    return RoleMap(cells, index, spread(role.coefficient), constant, affine)


def _weight(reading: Reading, exponent: Named | None, sizes: Mapping[str, int]) -> Named | None:
    """Mask and exponent of every row and event."""
    site, rank = reading.site, reading.event_rank
    weight = None
    masks: list[tuple[Tensor, int]] = []
    if site.mask is not None and site.role == "observed":
        masks.append((site.mask.reshape(site.mask.shape + (1,) * rank), rank))
    if reading.mask is not None:
        masks.append((reading.mask, rank))
    parts = [squeeze(mask.double(), site.dims, site.name, min(rank, mask.dim())) for mask, rank in masks]
    if exponent is not None:
        parts.append(Named(exponent.tensor.double().reshape(exponent.tensor.shape + (1,) * rank), exponent.names))
    for part in parts:
        if weight is None:
            weight = part
            continue
        names = tuple(n for n in sizes if n in weight.names or n in part.names)
        both = [align(p.tensor, p.names, names, p.tensor.dim() - len(p.names)) for p in (weight, part)]
        weight = Named(both[0] * both[1], names)
    return weight


def _centre(value: Named, weight: Named | None, rank: int, event_dim: int) -> Tensor | None:
    """Mean of every event over all rows, so that a common offset costs no digits."""
    tensor = value.tensor.double()
    rows = tuple(range(len(value.names)))
    if not rows:
        return None
    if weight is not None:
        w = weight.tensor.reshape(weight.tensor.shape + (1,) * event_dim)
        w = (align(w, weight.names, value.names, rank + event_dim) != 0) if set(weight.names) <= set(value.names) else None
        tensor = tensor if w is None else torch.where(w, tensor, torch.nan)
    return tensor.nanmean(rows).nan_to_num(0.0)

