"""Sites of one form, the steps of a loop, laid out together: in a long loop each by itself would take longest."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ....program.masks import seen
from ....program.site import Site
from ....reading.latents.bilinear import Bilinear, Latents, stacked
from ....reading.reading import Reading
from ..rows import Rows, layout_of, rows_of, weight_of
from .repeats import repeats_of, rows_below

FEW = 100  # entries of a known scale up to which sites are told apart by them


def laid_out(
    readings: Mapping[str, Reading], latents: Latents, run: Mapping[str, Site], states: Mapping[str, int]
) -> list[tuple[Rows, tuple[str, ...]]]:
    """Lay sites out; the rows of those of one form stand one below the other, with the names of all.

    Args:
        readings: of the sites, where their arguments come from.
        latents: that enter them.
        run: the sites as they are to be laid out, with their masks and row weights.
        states: discrete latents over which components are summed.
    """
    places, found = latents.places, list[tuple[Rows, tuple[str, ...]]]()
    weights = {name: _weight(reading, latents, states) for name, reading in readings.items()}
    kinds = {name: (weights[name] is None, _kind(reading)) for name, reading in readings.items()}
    for names, made in stacked({name: latents.sites[name] for name in readings}, kinds):
        first, one = readings[names[0]], latents.sites[names[0]]
        layout = layout_of(one, states, places, joint=first.family.event_dim == 1)
        repeats = rows_below([repeats_of(run[name], layout) for name in names], layout.sizes[1])
        if len(names) == 1:
            found.append((replace(rows_of(first, one, states, places), repeats=repeats), names))
            continue
        parts = [part for name in names if (part := weights[name]) is not None]
        layout = replace(layout, several=len(names) * layout.sizes[1])
        rows = rows_of(first, _thin(made), states, places)
        weight = torch.cat(parts) if parts else None
        found.append((replace(rows, layout=layout, weight=weight, repeats=repeats), names))
    return found


def _weight(reading: Reading, latents: Latents, states: Mapping[str, int]) -> Tensor | None:
    """One where a coordinate of a row is seen; None is everywhere."""
    if seen(reading.site) is None:
        return None
    joint = reading.family.event_dim == 1
    layout = layout_of(latents.sites[reading.site.name], states, latents.places, joint=joint)
    return weight_of(reading.site, layout, joint=joint)


def _kind(reading: Reading) -> Hashable:
    """What sites of one form have in common in their scales."""
    key = "scale_tril" if "scale_tril" in reading.roles else "scale"
    role = reading.roles[key]
    known = [None if part is None else _numbers(part) for part in (role.coefficient, role.constant)]
    return key, id(role.index), role.names, *known


def _numbers(part: Tensor) -> Hashable:
    return (part.shape, *part.reshape(-1).tolist()) if part.numel() <= FEW else id(part)


def _thin(made: Bilinear) -> Bilinear:
    """Keep one of what is the same in all sites, but for the latents: each takes its own, or a row of its own does."""
    slots = tuple(replace(s, slopes=tuple(None if p is None else _once(p) for p in s.slopes)) for s in made.slots)
    index, constants = tuple(map(_once, made.index)), tuple(map(_once, made.constants))
    return replace(made, names=("", *made.names), index=index, constants=constants, slots=slots)


def _once(part: Tensor) -> Tensor:
    return part[:1] if bool((part == part[:1]).all()) else part
