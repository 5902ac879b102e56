"""Merge rows that are the same: 100,000 sequences of ten tosses are eleven rows with counts.

Two rows of a plate are the same only if observed values, known arguments, masks, scales and parameter index maps (not
values: parameters of each row may start equal) agree at every site of the plate and of the plates nested in it; of a
site that the model itself computes, the densities at several random points. A count is a row's weight: it multiplies
the row's log-sum over its own latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import TypeGuard

import torch
from torch import Tensor

from ..program.named import SLICE, Named, squeeze
from ..program.program import Program
from ..program.site import Site
from ..records.frozen import frozen
from .bank import RoleMap
from .bound import LOWEST
from .reading import Recognition

ENOUGH = 64  # rows below which there is nothing to gain
PROBED = 2000  # rows that are looked at first
WORTH = 0.5  # distinct rows, as a share of all, up to which merging pays
POINTS = 3  # far apart, at which densities of the model's own are compared
SAME = {False: 1e-9, True: 1e-4}  # of sums of densities, relative: in double and in single precision
DENSITIES = 1 << 25  # of them, at all points, up to which they are

Tally = tuple[Tensor, Tensor]
"""One row of every kind, and the number of rows of its kind."""


@frozen
class Distinct:
    """The distinct rows of one plate."""

    plate: str
    rows: int
    first: Tensor = field(repr=False)  # one row of each kind
    counts: Tensor = field(repr=False)

    def pick(self, tensor: Tensor, axis: int) -> Tensor:
        """Return the first row of each kind, where the tensor has all rows on `axis`."""
        return tensor.index_select(axis, self.first) if tensor.shape[axis] == self.rows else tensor


def find(program: Program, recognition: Recognition) -> tuple[Distinct | None, str]:
    """Look for equal rows in the largest plate; return the distinct ones, or why none are merged (empty: too few)."""
    if not program.plates:
        return None, ""
    plate = max(program.plates, key=lambda p: program.plates[p])
    rows = program.plates[plate]
    if rows < ENOUGH:
        return None, ""
    sites = {n: s for n, s in recognition.runs[0].items() if plate in s.plates}
    if own := [n for n, s in sites.items() if s.role == "prior"]:
        return None, f'not merged: every row has a value of "{own[0]}" of its own'
    names = replayed(recognition, plate)
    if why := _not_compared(recognition, names):
        return None, why
    columns = _columns(program, recognition, {n: s for n, s in sites.items() if n not in names}, plate)
    columns += [part for name in names for run in recognition.runs[:POINTS] for part in _by_row(run[name], plate)]
    columns = columns or [torch.zeros(1, dtype=torch.long).expand(rows)]
    columns = [column.to(columns[0].device) for column in columns]
    stride, enough = max(1, rows // PROBED), WORTH * min(rows, PROBED)
    few, _ = _tally([c[::stride][:PROBED] for c in columns], most=enough)
    tally = _tally_of_all(columns, rows) if len(few) <= enough else None
    if tally is None:
        return None, "not merged: the rows differ"
    first, counts = tally
    return Distinct(plate, rows, first, counts), f'plate "{plate}": {len(first)} distinct rows of {rows:,}'


def _tally_of_all(columns: Sequence[Tensor], rows: int) -> Tally | None:
    """Tally the rows slice by slice, in memory for a slice and the distinct rows; None if these are too many."""
    tallies: list[Tally] = []
    for start in range(0, rows, SLICE):
        first, counts = _tally([c[start : start + SLICE] for c in columns])
        tallies.append((first + start, counts))
        waiting = sum(len(first) for first, _ in tallies[1:])
        if start + SLICE >= rows or waiting > SLICE + len(tallies[0][0]):
            where, weights = (torch.cat(parts) for parts in zip(*tallies, strict=True))
            first, counts = _tally([c.index_select(0, where) for c in columns], weights, most=WORTH * rows)
            tallies = [(where[first], counts)]
            if len(first) > WORTH * rows:
                return None
    return tallies[0]


def _tally(columns: Sequence[Tensor], weights: Tensor | None = None, most: float = float("inf")) -> Tally:
    """Return one row of every kind, the first, and the number of rows of that kind or the sum of their `weights`."""
    kinds = _kinds(columns, most)
    count, where = int(kinds.max()) + 1, torch.arange(len(kinds), device=kinds.device)
    first = torch.full_like(where[:count], len(kinds)).scatter_reduce_(0, kinds, where, reduce="amin")
    if weights is None:
        return first, torch.bincount(kinds, minlength=count).double()
    return first, weights.new_zeros(count).index_add_(0, kinds, weights)


def _kinds(columns: Sequence[Tensor], most: float) -> Tensor:
    """Number the rows, equal numbers for those that agree in every column; stop early at more than `most`."""
    kinds: Tensor | None = None
    for column in columns:
        if column.is_floating_point():
            column = column.nan_to_num(nan=torch.finfo(column.dtype).max)  # a masked nan is the same as another
        for part in column.reshape(len(column), -1).unbind(1):
            _, codes = torch.unique(part, return_inverse=True)
            if kinds is not None:
                _, codes = torch.unique(kinds * (int(codes.max()) + 1) + codes, return_inverse=True)
            kinds = codes
            if int(kinds.max()) + 1 > most:
                return kinds
    assert kinds is not None
    return kinds


def _columns(program: Program, recognition: Recognition, sites: Mapping[str, Site], plate: str) -> list[Tensor]:
    """Return everything that differs by row, the rows first."""
    rows, dim = program.plates[plate], program.plate_dims[plate]
    found = list[Tensor]()
    for name, site in sites.items():
        reading = recognition.readings[name]
        rank = reading.event_rank
        tensors = [(site.value, rank + reading.family.event_dim)]
        tensors += [(part, reading.family.known_event_dim.get(key, rank)) for key, part in reading.known.items()]
        for tensor, event in tensors:
            axis = tensor.dim() - min(event, tensor.dim()) + dim
            if axis >= 0 and tensor.shape[axis] == rows:
                found.append(tensor.detach().movedim(axis, 0))
        scale = None if not isinstance(site.scale, Tensor) else squeeze(site.scale, site.dims, name)
        for part in (reading.seen, scale):
            if part is not None and plate in part.names:
                found.append(part.tensor.movedim(part.names.index(plate), 0))
        for role in reading.roles.values():
            if plate in role.names:
                axis = role.names.index(plate)
                parts = [role.index, role.coefficient, role.constant]
                if role.affine is not None:
                    parts = [role.affine.offset, *(t for p in role.affine.pieces for t in (p.index, p.value))]
                found += [part.movedim(axis, 0) for part in parts if part is not None and part.shape[axis] == rows]
    return found


def replayed(recognition: Recognition, plate: str) -> list[str]:
    """Return the sites of a plate that the model itself computes."""
    return [n for n, s in recognition.runs[0].items() if plate in s.plates and n not in recognition.readings]


def _not_compared(recognition: Recognition, names: Sequence[str]) -> str:
    """Say why densities of the model's own are not compared; empty if they are."""
    if names and recognition.latents is not None:
        return f'not merged: site "{names[0]}" is replayed'
    entries = POINTS * sum(recognition.runs[0][name].log_prob().tensor.numel() for name in names)
    return f'not merged: site "{names[0]}" is replayed, and has {entries:,} densities' if entries > DENSITIES else ""


def _by_row(site: Site, plate: str) -> list[Tensor]:
    """What differs by row in a site that the model computes, the rows first."""
    parts = [site.log_prob(), *(squeeze(part, site.dims, site.name) for part in (site.scale, site.mask) if _is(part))]
    return [part.tensor.detach().movedim(part.names.index(plate), 0) for part in parts if plate in part.names]


def _is(part: object) -> TypeGuard[Tensor]:
    return isinstance(part, Tensor)


def fewer(program: Program, recognition: Recognition, distinct: Distinct) -> tuple[Program, Recognition] | None:
    """Keep the distinct rows only, each with its count as weight; None where the model cannot be run for them.

    The distributions of compiled sites keep all rows: from here on the readings stand for them, and values, masks,
    known arguments and index maps are those of the distinct rows. Others are those of a run for these rows.
    """
    plate, dim = distinct.plate, program.plate_dims[distinct.plate]
    shrunk, runs = replace(program, plates={**program.plates, plate: len(distinct.first)}), recognition.runs
    if replayed(recognition, plate):
        found = program.at(plate, distinct.first)
        if found is None:
            return None
        shrunk, runs = found, [found.run(values) for values in recognition.points[:POINTS]]
        names = [name for name in recognition.runs[0] if name not in recognition.readings]
        if not all(_same(a, b, names, distinct) for a, b in zip(recognition.runs, runs, strict=False)):
            return None
    counts = distinct.counts.reshape((-1,) + (1,) * (-dim - 1))

    def cut(tensor: Tensor, event: int) -> Tensor:
        axis = tensor.dim() - min(event, tensor.dim()) + dim
        return distinct.pick(tensor, axis) if axis >= 0 else tensor

    sites, readings = dict(recognition.runs[0]), dict(recognition.readings)
    for name, site in sites.items():
        if plate not in site.plates:
            continue
        if name not in readings:
            own = runs[0][name]
            scale = own.scale if isinstance(own.scale, Tensor) else torch.as_tensor(own.scale)
            sites[name] = replace(own, scale=scale * counts)
            continue
        reading = readings[name]
        family, rank = reading.family, reading.event_rank
        scale = cut(site.scale, 0) if isinstance(site.scale, Tensor) else torch.as_tensor(site.scale)
        mask = None if site.mask is None else cut(site.mask, 0)
        sites[name] = replace(site, value=cut(site.value, rank + family.event_dim), mask=mask, scale=scale * counts)
        readings[name] = replace(
            reading,
            site=sites[name],
            seen=None if reading.seen is None else cut_rows(reading.seen, distinct),
            known={key: cut(part, family.known_event_dim.get(key, rank)) for key, part in reading.known.items()},
            roles={key: _role(role, distinct) for key, role in reading.roles.items()},
        )
    points = recognition.points[: len(runs)]
    return shrunk, replace(recognition, readings=readings, runs=[sites, *runs[1:]], points=points)


def _same(whole: Mapping[str, Site], cut: Mapping[str, Site], names: Sequence[str], distinct: Distinct) -> bool:
    """Whether densities of the distinct rows are those of these rows among all, and add up, each times its count."""
    for name in names:
        every, few = whole[name].log_prob(), cut[name].log_prob()
        if every.names != few.names:
            return False
        a, b = (part.tensor.double().clamp(min=LOWEST) for part in (every, few))
        pairs = [(a, b)]
        if distinct.plate in every.names:
            axis = every.names.index(distinct.plate)
            pairs = [(a.index_select(axis, distinct.first), b), (a.sum(axis), b.movedim(axis, -1) @ distinct.counts)]
        rounding = SAME[few.tensor.dtype == torch.float32]
        if any(bool(((one - other).abs() > rounding * (1 + one.abs())).any()) for one, other in pairs):
            return False
    return True


def _role(role: RoleMap, distinct: Distinct) -> RoleMap:
    """Return an argument at the distinct rows alone."""
    if distinct.plate not in role.names:
        return role
    axis = role.names.index(distinct.plate)

    def cut(part: Tensor | None) -> Tensor | None:
        return None if part is None else distinct.pick(part, axis)

    affine = role.affine
    if affine is not None:
        affine = affine.changed(lambda part, _: distinct.pick(part, axis))
    coefficient, constant = cut(role.coefficient), cut(role.constant)
    return RoleMap(role.names, distinct.pick(role.index, axis), coefficient, constant, affine, role.rows)


def cut_rows(part: Named, distinct: Distinct) -> Named:
    """Return a named tensor of the distinct rows."""
    if distinct.plate not in part.names:
        return part
    return Named(distinct.pick(part.tensor, part.names.index(distinct.plate)), part.names)
