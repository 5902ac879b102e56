"""A program of many rows read by a few of them, and what was read carried over to all.

Rows of a plate that are treated one by one differ in their data and in whose latents they take. What a few of them show
is then what all show, and three runs with all rows tell whether it is: the degree of all residuals, and all arguments
at two points. Where it is not, or where covariates or indices differ from row to row, the program is read whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...program.named import squeeze
from ...program.program import Program
from ...program.site import Site
from ...program.unroll import unroll
from ...records.frozen import frozen
from ..bank import RoleMap
from ..predictor import Affine, Piece
from ..reading import Reading, Recognition, arguments
from .bilinear import Bilinear, Latents, Places, Slot
from .compared import Differs, check
from .degree import sites_of_latents
from .replays import Parts, Replays, thin

MANY = 2_000  # rows of the largest plate from which few are read
FEW = 40  # of them


@frozen
class FewRows:
    """A program and the same with few rows of its largest plate."""

    whole: Program
    few: Program
    plate: str

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.whole.plates[self.plate]

    def axis(self, names: Sequence[str]) -> int | None:
        """Where the rows lie among named dimensions."""
        return names.index(self.plate) if self.plate in names else None


def few_rows(program: Program) -> FewRows | None:
    """Return the program on a few rows, if it has many and its arguments can be cut."""
    if program.by_row or max(program.plates.values(), default=0) < MANY:
        return None
    plate = max(program.plates, key=lambda p: program.plates[p])
    rows = torch.linspace(0, program.plates[plate] - 1, FEW, dtype=torch.float64).long()
    few = program.at(plate, rows)
    return None if few is None else FewRows(program, few, plate)


def carried_over(rows: FewRows, read: Recognition) -> Recognition | None:
    """Return what was read of a few rows as it is of all; None if it is not that, or cannot be told.

    Raises:
        ModelError: with all rows a site is not linear-Gaussian in the latents.
    """
    if read.latents is None or read.cut or not read.refusals.keys() <= read.latents.sites.keys():
        return None
    if read.bank.computed is not None:  # by the program on a few rows
        return None
    try:
        return _carried_over(rows, read, read.latents)
    except Differs:
        return None


@torch.no_grad()
def _carried_over(rows: FewRows, read: Recognition, latents: Latents) -> Recognition:
    program = rows.whole
    run = program.run(read.values)
    shapes = {name: tuple(run[name].value.shape) for name in latents.places.shapes}
    places = replace(latents.places, shapes=shapes)
    if sites_of_latents(program, read.values, {name: run[name].value for name in shapes}) != {*latents.sites}:
        raise Differs
    deltas = frozenset(latents.sites.keys() - read.readings.keys())
    names = tuple(name for name in latents.sites if name in read.readings)
    whole = Replays(program, read.values, places, names, deltas)
    few = replace(whole, program=rows.few, places=latents.places)
    parts, standing = whole.cells(run), torch.cat([run[name].value.reshape(-1).double() for name in shapes])
    sites = _sites(rows, latents, run, parts, (whole, few))
    apart = unroll(run)
    found = {n: _reading(rows, part, apart[n], sites.get(n), parts, standing) for n, part in read.readings.items()}
    check(rows.plate, whole, sites, found, read.bank, standing, run)
    generator = torch.Generator().manual_seed(7)
    other = few.far * torch.randn(places.count, generator=generator, dtype=torch.float64)
    there = replace(whole, params=read.points[-1])
    check(rows.plate, there, sites, found, read.bank, other, program.run(there.params, places.values(other)))
    carried = replace(latents, places=places, sites=sites)
    return replace(read, readings=found, runs=[run], points=read.points[:1], latents=carried)


# ---- residuals -------------------------------------------------------------------------------------------------------


def _sites(
    rows: FewRows, latents: Latents, run: Mapping[str, Site], parts: Parts, replays: Sequence[Replays]
) -> dict[str, Bilinear]:
    """Give the residuals of all sites all rows."""
    whole, few = (each.places for each in replays)
    entry = _Entries(rows, few, whole, {name: run[name].plates for name in few.shapes})
    zero, one = (torch.full((few.count,), value, dtype=torch.float64) for value in (0.0, 1.0))
    none = {name: torch.zeros_like(rows.whole.parameters[name].initial) for name in _entered(latents)}
    base, moved = replays[1].run(zero, none), replays[1].run(one, none)
    found = {}
    for name, made in latents.sites.items():
        d = rows.axis(made.names)
        slots = tuple(
            Slot(entry.carried(slot.which, d), tuple(_steady(s, d) for s in slot.slopes)) for slot in made.slots
        )
        constants, response = [_steady(part, d) for part in made.constants[:-1]], made.constants[-1]
        if d is not None and response.shape[d] > 1:  # what is observed, less a location that all rows have
            location = thin(base[name][1])
            if location.shape[d] > 1 or not torch.equal(base[name][0], moved[name][0]):
                raise Differs
            response = parts[name][0] - location
        shape = made.shape if d is None else (*made.shape[:d], rows.rows, *made.shape[d + 1 :])
        found[name] = replace(
            made,
            site=run[name],
            shape=shape,
            index=tuple(_steady(part, d) for part in made.index),
            constants=(*constants, response),
            slots=tuple(slots),
        )
    return found


def _entered(latents: Latents) -> set[str]:
    """Parameters of locations."""
    return {name for made in latents.sites.values() for name, _ in made.entries}


def _steady(part: Any, d: int | None) -> Any:
    """What all rows have in common."""
    if part is not None and d is not None and part.shape[d] > 1:
        raise Differs
    return part


@frozen
class _Entries:
    """Latent entries of a few rows, and those of all."""

    rows: FewRows
    few: Places
    whole: Places
    plates: Mapping[str, tuple[str, ...]]

    def carried(self, which: Tensor, d: int | None) -> Tensor:
        """Which entry every cell takes: where the latent has a row for each row of the cells, that one.

        Args:
            which: of cells with a few rows.
            d: along which dimension rows lie.
        """
        by_row = d is not None and which.shape[d] > 1
        first = which.narrow(d, 0, 1) if by_row and d is not None else which
        found, step = torch.full_like(first, -1), torch.zeros_like(first)
        few_step = torch.zeros_like(first)
        for name, shape in self.few.shapes.items():
            mine = (first >= self.few.first[name]) & (first < self.few.first[name] + max(1, torch.Size(shape).numel()))
            if not bool(mine.any()):
                continue
            at, own = first - self.few.first[name], self.rows.plate in self.plates[name]
            if own != by_row:
                raise Differs
            if own:
                axis = next(a for a, (n, m) in enumerate(zip(shape, self.whole.shapes[name], strict=True)) if n != m)
                inner = torch.Size(shape[axis + 1 :]).numel()
                outer, row = at // (inner * shape[axis]), at // inner % shape[axis]
                if bool((row[mine] != 0).any()):
                    raise Differs
                at = outer * inner * self.rows.rows + at % inner
                step, few_step = torch.where(mine, inner, step), torch.where(mine, inner, few_step)
            found = torch.where(mine, at + self.whole.first[name], found)
        if not by_row or d is None:
            return found
        if not torch.equal(first + few_step * _along(which, d, which.shape[d]), which):
            raise Differs
        return found + step * _along(which, d, self.rows.rows)


def _along(part: Tensor, d: int, count: int) -> Tensor:
    """The number of every row, along their dimension."""
    return torch.arange(count).reshape([count if i == d else 1 for i in range(part.dim())])


# ---- readings --------------------------------------------------------------------------------------------------------


def _reading(
    rows: FewRows, reading: Reading, site: Site, made: Bilinear | None, parts: Parts, standing: Tensor
) -> Reading:
    """Give the reading of a site all rows."""
    roles = {}
    for key, role in reading.roles.items():
        d = rows.axis(role.names)
        if d is None or not _by_row(role, d):
            roles[key] = role
        elif role.affine is not None and made is not None and key == "loc":
            affine = _affine(role, role.affine, made, parts, standing, d)
            roles[key] = replace(role, affine=affine, index=torch.full((), -1).expand(affine.shape))
        elif role.known and role.affine is None and role.coefficient is None:
            event = reading.event_rank + reading.family.roles[key].event_dim
            known = squeeze(arguments(reading.family, site)[key], site.dims, site.name, event)
            constant = known.align(role.names)
            shape = [rows.rows if i == d else size for i, size in enumerate(role.index.shape)]
            roles[key] = replace(role, constant=constant, index=torch.full((), -1).expand(shape))
        else:
            raise Differs
    return replace(reading.on(site), roles=roles)


def _by_row(role: RoleMap, d: int) -> bool:
    """Whether an argument has a number for each row."""
    parts = [role.index, role.coefficient, role.constant]
    if role.affine is not None:
        parts += [role.affine.offset, *(part for piece in role.affine.pieces for part in (piece.index, piece.value))]
    return any(part is not None and part.shape[d] > 1 for part in parts)


def _affine(role: RoleMap, affine: Affine, made: Bilinear, parts: Parts, standing: Tensor, d: int) -> Affine:
    """The location as a predictor, where the latents are those of the run."""
    left = [i for i, name in enumerate(made.names) if name not in role.names]
    *covariates, response = made.values(standing)
    pieces = [
        Piece(_without(index, left).unsqueeze(-1), _without(x, left).unsqueeze(-1))
        for x, index in zip(covariates, made.index, strict=True)
    ]
    offset = affine.offset
    if offset.shape[d] > 1:  # latents with known slopes
        offset = _without(parts[made.site.name][0] - response, left)
    return Affine(made.entries, offset, tuple(pieces), affine.chart)


def _without(part: Tensor, dims: list[int]) -> Tensor:
    """Drop dimensions of size one."""
    if any(part.shape[i] > 1 for i in dims):
        raise Differs
    return part.squeeze(dims) if dims else part
