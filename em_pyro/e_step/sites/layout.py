"""Lay a recognised site out as a `SiteFactor`: cells, features, weights, centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ...families import Family, Role
from ...program.masks import seen_entries
from ...program.named import SLICE, Named, Sizes, align, broadcast, ordered, squeeze
from ...reading.bank import RoleMap
from ...reading.design.slopes import narrowed
from ...reading.reading import Reading, Recognition
from .covariates import linear_of
from .dimensions import Layout
from .forms import form_of
from .groups import by_group, grouped
from .product import InnerProduct
from .rows import by_row
from .site_data import SiteData
from .site_factor import SiteFactor

EXPOSURE = "exposure"
"""What `Family.exposed` calls the number that a rate is multiplied by."""


def laid_out(
    reading: Reading,
    sizes: Mapping[str, int],
    above: frozenset[str],
    exponent: Named | None,
    plate: str | None = None,
    recognition: Recognition | None = None,
) -> SiteFactor:
    """Lay a reading out as matrices, in the form that suits it.

    Args:
        reading: a recognised site.
        sizes: of all latents and plates, in their order.
        above: plates of the latents on which the site depends; its other plates are folded.
        exponent: `poutine.scale` within the folded plates.
        plate: whose rows may be split.
        recognition: with the parameters from which rows are looked up; without, every row has arguments of its own.
    """
    site, rank = reading.site, reading.event_rank
    family, maps, exposure = _exposed(reading)
    groups = None
    if recognition is not None and site.role == "observed" and family.solver != "rows":  # those keep every row
        groups = grouped(reading, maps, recognition, sizes)
    if groups is not None:
        maps, sizes = groups.roles, Sizes({**sizes, groups.name: groups.count})
    value = squeeze(site.value.detach(), site.dims, site.name, rank + family.event_dim)  # data that want a gradient
    known = {
        key: squeeze(part.detach(), site.dims, site.name, family.known_event_dim.get(key, rank))
        for key, part in reading.known.items()
    } | exposure
    parts = [value, *known.values()]
    weight = _weight(reading, exponent, sizes)
    if weight is not None:
        parts.append(weight)
    folded = ordered((p for p in site.plates if p not in above), sizes) if site.role == "observed" else ()
    present = {n for part in parts for n in part.names}
    columns = ordered((*present, *folded), sizes)
    event_shape = broadcast(*_event_shapes(reading, value))
    cells = ordered((n for role in maps.values() for n in role.names), sizes)
    cell_shape = tuple(sizes[n] for n in cells)
    roles = {
        key: _spread(role, cells, (*cell_shape, *event_shape, *_tail(role, family.roles[key])))
        for key, role in maps.items()
    }
    shift, reach = _centre(reading, family, value, weight)
    layout = _layout(cells, columns, folded)
    data = SiteData(family, site.role, layout, event_shape, folded, value, known, weight, shift, sizes)
    data = replace(data, agreed=reach, passing=reading.passing)
    if groups is not None:
        data = by_group(data, groups)
    factor = SiteFactor(
        site.name, family, site.role, frozenset(site.plates), roles, cells, cell_shape, data, InnerProduct(),
        reading.parameters,
    )  # fmt: skip
    if family.solver == "rows":
        return by_row(factor, plate)
    return linear_of(factor, reading.form) or replace(factor, form=form_of(factor))


def _exposed(reading: Reading) -> tuple[Family, Mapping[str, RoleMap], dict[str, Named]]:
    """Take what a rate is multiplied by as known, where it differs by row or is agreed to; elsewhere it stays in it."""
    family, role = reading.family.exposed, reading.roles.get("rate")
    asis = reading.family, reading.roles, dict[str, Named]()
    if family is None or role is None or role.constant is not None:
        return asis
    agreed = reading.form is not None and reading.form.exposed
    if role.coefficient is None:
        once = Named(torch.ones((1,) * reading.event_rank, dtype=torch.float64), ())
        return (family, reading.roles, {EXPOSURE: once}) if agreed else asis
    times = narrowed(role.coefficient)
    rows = [d for d, size in enumerate(times.shape[: len(role.names)]) if size > 1]
    names = tuple(role.names[d] for d in rows)
    if not (rows or agreed) or not set(names) <= set(reading.site.plates):
        return asis
    dropped = [d for d in range(len(role.names)) if d not in rows]
    exposure = Named(times.squeeze(dropped) if dropped else times, names)
    return family, {**reading.roles, "rate": replace(role, coefficient=None).compressed}, {EXPOSURE: exposure}


def _layout(cells: tuple[str, ...], columns: tuple[str, ...], folded: tuple[str, ...]) -> Layout:
    """Which dimensions are shared, of the cells alone, of the columns alone, and folded with cells that differ."""
    apart = [n for n in cells if n not in folded]
    rows = [n for n in columns if n not in folded]
    return Layout(
        tuple(n for n in apart if n in rows),
        tuple(n for n in apart if n not in rows),
        tuple(n for n in rows if n not in apart),
        tuple(n for n in folded if n in cells),
    )


def _event_shapes(reading: Reading, value: Named) -> list[tuple[int, ...]]:
    """Shapes of the reinterpreted events, as the value has them and every argument."""
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

        def thin(part: Tensor, slots: int) -> Tensor:
            """Put the dimensions in the order of the cells; what does not vary keeps size one."""
            part = align(part, role.names, cells, part.dim() - len(role.names))
            missing = len(shape) + slots - part.dim()  # events that the argument lacks, all that it lacks
            return part.reshape((*part.shape[: len(cells)], *(1,) * missing, *part.shape[len(cells) :]))

        affine = affine.changed(thin)
    return RoleMap(cells, index, spread(role.coefficient), constant, affine, role.rows).occurring(role.entries)


def _weight(reading: Reading, exponent: Named | None, sizes: Mapping[str, int]) -> Named | None:
    """Mask and exponent of every row and event; a mask alone stays one of bytes."""
    if exponent is None:
        return reading.seen
    events = (1,) * reading.event_rank
    weight = Named(exponent.tensor.detach().double().reshape(exponent.tensor.shape + events), exponent.names)
    if reading.seen is None:
        return weight
    names = ordered((*reading.seen.names, *weight.names), sizes)
    return Named(reading.seen.align(names) * weight.align(names), names)


def _tail(role: RoleMap, of: Role) -> tuple[int, ...]:
    """Dimensions of one argument; a matrix is one entry."""
    return () if of.domain == "scale_tril" else tuple(role.index.shape[role.index.dim() - of.event_dim :])


def _centre(
    reading: Reading, family: Family, value: Named, weight: Named | None
) -> tuple[Tensor | None, Tensor | None]:
    """What values are taken from, and the largest distance from there that was agreed upon."""
    if family.location is None or reading.site.role != "observed" or type(family).shifted is Family.shifted:
        return None, None
    agreed = reading.centre
    return (
        (_mean(value, weight, reading.event_rank, family.event_dim), None)
        if agreed is None
        else (agreed.shift, agreed.reach)
    )


def _mean(value: Named, weight: Named | None, rank: int, event_dim: int) -> Tensor | None:
    """Mean of every event over all rows, so that a common offset costs no digits."""
    rows, tensor = len(value.names), value.tensor
    if not rows:  # one value, a step of a loop say: it is its own mean
        return torch.where(torch.isfinite(tensor), tensor, 0.0).double()
    seen = seen_entries(value, weight, rank, event_dim)
    longest = max(range(rows), key=lambda axis: tensor.shape[axis])
    total: Tensor | float = 0.0
    count: Tensor | float = 0.0
    for start in range(0, tensor.shape[longest], SLICE):  # no copy of all data in float64
        size = min(SLICE, tensor.shape[longest] - start)
        part = tensor.narrow(longest, start, size).double()
        known = ~part.isnan() if seen is None else seen.narrow(longest, start, size) & ~part.isnan()
        total = total + torch.where(known, part, 0.0).sum(tuple(range(rows)))
        count = count + known.sum(tuple(range(rows)))
    return total / torch.as_tensor(count).clamp(min=1)


def names_of(reading: Reading) -> set[str]:
    """Return every name that a recognised site's factor may carry."""
    site, found = reading.site, set[str]()
    if reading.form is not None and reading.form.lines is not None:
        found |= set(reading.form.lines.names)
    for role in reading.roles.values():
        found |= set(role.names)
    rank = reading.event_rank + reading.family.event_dim
    found |= set(squeeze(site.value, site.dims, site.name, rank).names)
    found |= set(reading.seen.names if reading.seen is not None else ())
    for key, part in reading.known.items():
        event = reading.family.known_event_dim.get(key, reading.event_rank)
        found |= set(squeeze(part, site.dims, site.name, event).names)
    return found
