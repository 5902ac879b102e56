"""What was read of a few rows, carried over to all of a plate, or to other rows, those of the next batch.

Three runs with these tell whether it is the same: the degree of all residuals, and all arguments at two points. Where
it is not, or where covariates or indices differ from row to row, the program is read whole.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from .bilinear import Bilinear, Places, Slot
from .compared import Differs, check
from .degree import sites_of_latents
from .few_rows import FewRows
from .replays import Replays, thin


def carried_over(few: FewRows, whole: Program) -> Recognition | None:
    """Return what was read of few rows as it is of all rows, or of others; None if it is not that.

    Raises:
        ModelError: with those rows a site is not linear-Gaussian in the latents.
    """
    try:
        return _carried_over(few, whole)
    except Differs:
        return None


@torch.no_grad()
def _carried_over(few: FewRows, program: Program) -> Recognition:
    read, latents = few.read, few.latents
    run = program.run(read.values)
    shapes = {name: tuple(run[name].value.shape) for name in latents.places.shapes}
    places = replace(latents.places, shapes=shapes)
    if sites_of_latents(program, read.values, {name: run[name].value for name in shapes}) != {*latents.sites}:
        raise Differs
    whole = replace(few.replays, program=program, places=places)
    sites = _sites(few, whole, run)
    apart, standing = unroll(run), torch.cat([run[name].value.reshape(-1).double() for name in shapes])
    found = {n: _reading(few, program, part, apart[n], sites.get(n), standing) for n, part in read.readings.items()}
    check(few.plate, whole, sites, found, read.bank, standing, run)
    generator = torch.Generator().manual_seed(7)
    other = few.replays.far * torch.randn(places.count, generator=generator, dtype=torch.float64)
    there = replace(whole, params=read.points[-1])
    check(few.plate, there, sites, found, read.bank, other, program.run(there.params, places.values(other)))
    carried = replace(latents, places=places, sites=sites)
    return replace(read, readings=found, runs=[run], points=read.points[:1], latents=carried)


# ---- residuals -------------------------------------------------------------------------------------------------------


def _sites(few: FewRows, whole: Replays, run: Mapping[str, Site]) -> dict[str, Bilinear]:
    """Give the residuals of all sites all rows."""
    shapes = few.latents.places.shapes
    axes = {name: _axis(few.plate, run[name], few.latents.places.events[name]) for name in shapes}
    rows, parts = whole.program.plates[few.plate], whole.cells(run)
    entry, found = _Entries(few.latents.places, whole.places, axes, rows), {}
    for name, made in few.latents.sites.items():
        d = few.axis(made.names)
        slots = tuple(
            Slot(entry.carried(slot.which, d), tuple(_steady(s, d) for s in slot.slopes)) for slot in made.slots
        )
        constants, response = [_steady(part, d) for part in made.constants[:-1]], made.constants[-1]
        if d is not None and response.shape[d] > 1:  # what is observed, less a location that all rows have
            if name not in few.still:
                raise Differs
            response = parts[name][0] - _steady(thin(few.silent[name][1]), d)
        found[name] = replace(
            made,
            site=run[name],
            shape=made.shape if d is None else (*made.shape[:d], rows, *made.shape[d + 1 :]),
            index=tuple(_steady(part, d) for part in made.index),
            constants=(*constants, response),
            slots=tuple(slots),
        )
    return found


def _steady(part: Any, d: int | None) -> Any:
    """What all rows have in common."""
    if part is not None and d is not None and part.shape[d] > 1:
        raise Differs
    return part


@frozen
class _Entries:
    """Latent entries of a few rows, and those of all.

    Attributes:
        few: places of the former.
        whole: of the latter.
        axes: of every latent, along which dimension it has rows.
        rows: how many there are.
    """

    few: Places
    whole: Places
    axes: Mapping[str, int | None]
    rows: int

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
            at, axis = first - self.few.first[name], self.axes[name]
            if (axis is not None) != by_row:
                raise Differs
            if axis is not None:
                inner = torch.Size(shape[axis + 1 :]).numel()
                outer, row = at // (inner * shape[axis]), at // inner % shape[axis]
                if bool((row[mine] != 0).any()):
                    raise Differs
                at = outer * inner * self.rows + at % inner
                step, few_step = torch.where(mine, inner, step), torch.where(mine, inner, few_step)
            found = torch.where(mine, at + self.whole.first[name], found)
        if not by_row or d is None:
            return found
        if not torch.equal(first + few_step * _along(which, d, which.shape[d]), which):
            raise Differs
        return found + step * _along(which, d, self.rows)


def _axis(plate: str, site: Site, event: int) -> int | None:
    """Along which dimension of its value a site has the rows of a plate."""
    return next((dim + site.value.dim() - event for dim, name in site.dims.items() if name == plate), None)


def _along(part: Tensor, d: int, count: int) -> Tensor:
    """The number of every row, along their dimension."""
    return torch.arange(count).reshape([count if i == d else 1 for i in range(part.dim())])


# ---- readings --------------------------------------------------------------------------------------------------------


def _reading(
    few: FewRows, program: Program, reading: Reading, site: Site, made: Bilinear | None, standing: Tensor
) -> Reading:
    """Give the reading of a site all rows.

    Args:
        few: rows of which it is.
        program: with all rows.
        reading: of few.
        site: of all, in a run.
        made: its residual.
        standing: the latents of the run.
    """
    roles = {}
    for key, role in reading.roles.items():
        d = few.axis(role.names)
        if d is None or not _by_row(role, d):
            roles[key] = role
        elif role.affine is not None and made is not None and key == "loc":
            affine = _affine(few, role, role.affine, made, standing, d)
            roles[key] = replace(role, affine=affine, index=torch.full((), -1).expand(affine.shape))
        elif role.known and role.affine is None and role.coefficient is None:
            event = reading.event_rank + reading.family.roles[key].event_dim
            own = squeeze(arguments(reading.family, site)[key], site.dims, site.name, event)
            constant = own.align(role.names)
            shape = [program.plates[few.plate] if i == d else size for i, size in enumerate(role.index.shape)]
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


def _affine(few: FewRows, role: RoleMap, affine: Affine, made: Bilinear, standing: Tensor, d: int) -> Affine:
    """The location as a predictor, where the latents are those of the run."""
    left = [i for i, name in enumerate(made.names) if name not in role.names]
    covariates = made.values(standing)[:-1]
    pieces = [
        Piece(_without(index, left).unsqueeze(-1), _without(x, left).unsqueeze(-1))
        for x, index in zip(covariates, made.index, strict=True)
    ]
    offset = affine.offset
    if offset.shape[d] > 1:  # latents with known slopes
        known = thin(few.silent[made.site.name][1])
        silent = replace(made, constants=(*made.constants[:-1], -known))
        offset = _without(-silent.values(standing)[-1], left)
    return Affine(made.entries, offset, tuple(pieces), affine.chart)


def _without(part: Tensor, dims: list[int]) -> Tensor:
    """Drop dimensions of size one."""
    if any(part.shape[i] > 1 for i in dims):
        raise Differs
    return part.squeeze(dims) if dims else part
