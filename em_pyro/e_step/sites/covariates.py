"""Which sites are linear in covariates: their location is affine, and differs by row through covariates alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from ...program.named import Named, align
from ...reading.bank import RoleMap
from ...reading.design.apart import apart
from ...reading.design.basis import among
from ...reading.predictor import Affine
from ...reading.reading import Agreed
from .dimensions import Layout
from .linear import Linear
from .site_factor import SiteFactor


def linear_of(factor: SiteFactor, form: Agreed | None) -> SiteFactor | None:
    """Return the same site by coefficients, if its location is affine and differs by row through covariates alone.

    Args:
        factor: the site.
        form: with the coefficients of all covariates, of which its rows may show fewer; with others it has its own.
    """
    agreed = None if form is None else form.lines
    family, data = factor.family.linear, factor.data
    present = {*data.layout.batch, *data.layout.columns, *data.folded}
    rows = [d for d, n in enumerate(factor.cells) if n in present]
    wanted = bool(rows) if form is None else agreed is not None
    found = _apart(factor, rows) if family is not None and wanted else None
    if family is None or found is None:
        return None
    affine, covariates = found[0].changed(lambda part, _: part.squeeze(tuple(rows))), found[1]
    names = tuple(factor.cells[d] for d in rows if covariates.shape[d] > 1)
    if covariates.numel() != prod(data.sizes[n] for n in names) * covariates.shape[-1]:
        return None  # they differ by event
    cells = tuple(n for n in factor.cells if n not in present)
    sizes = (*(data.sizes[n] for n in cells), *data.event_shape, covariates.shape[-1])
    loc = RoleMap(cells, torch.full((), -1).expand(sizes), affine=affine)
    if agreed is not None:
        loc, covariates = _moved(loc, covariates, agreed)
    cell_shape = tuple(data.sizes[n] for n in loc.names)
    scale = _over(factor.roles["scale"], rows, cells, loc.names, (*cell_shape, *data.event_shape))
    columns = tuple(n for n in data.sizes if n in present and n not in data.folded)
    shape = (*(data.sizes[n] for n in names), covariates.shape[-1])
    return replace(
        factor,
        family=family,
        roles={"loc": loc, "scale": scale},
        cells=loc.names,
        cell_shape=cell_shape,
        data=replace(data, layout=Layout((), loc.names, columns, ()), shift=None, cache={}),
        form=Linear(covariates=Named(covariates.reshape(shape), names)),
    )


def _over(
    role: RoleMap, rows: Sequence[int], have: tuple[str, ...], cells: tuple[str, ...], shape: tuple[int, ...]
) -> RoleMap:
    """A map without the dimensions of the rows, spread over cells that it may lack."""

    def spread(part: Tensor | None) -> Tensor | None:
        for d in sorted(rows, reverse=True):
            part = None if part is None else part.select(d, 0)
        return None if part is None else align(part, have, cells, part.dim() - len(have)).expand(shape)

    index = spread(role.index)
    assert index is not None
    return RoleMap(cells, index, spread(role.coefficient), spread(role.constant))


def _apart(factor: SiteFactor, rows: Sequence[int]) -> tuple[Affine, Tensor] | None:
    """Coefficients and covariates of the location, if that is affine and the scale is the same in all rows."""
    affine, scale = factor.roles["loc"].affine, factor.roles["scale"]
    if affine is None or affine.chart.name != "itself" or affine.coordinates or scale.affine is not None:
        return None
    if any(_varies(part, d) for part in _maps(scale) if part is not None for d in rows):
        return None
    return apart(affine, rows)


def _moved(own: RoleMap, covariates: Tensor, agreed: RoleMap) -> tuple[RoleMap, Tensor]:
    """Coefficients and covariates among the agreed ones, each one's rows side by side; else as they are."""
    made = among(own, agreed)
    if made is None:
        return own, covariates
    if len(made) == made.shape[1] and torch.equal(made, torch.eye(len(made)).to(made)):
        return agreed, covariates
    flat = made.mT @ covariates.movedim(-1, 0).reshape((len(made), -1))
    return agreed, flat.reshape((-1, *covariates.shape[:-1])).movedim(0, -1)


def _maps(role: RoleMap) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return role.index, role.coefficient, role.constant


def _varies(part: Tensor, d: int) -> bool:
    """Whether a tensor differs along a dimension."""
    return part.stride(d) != 0 and bool((part != part.narrow(d, 0, 1)).any())
