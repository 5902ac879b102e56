"""Readings of sites whose arguments the model computes in every step: these stand for parameters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pyro.distributions as dist
import torch

from ...errors import ModelError
from ...families import family_for
from ...families.charts import CHARTS
from ...program.masks import seen
from ...program.named import unwrap
from ...program.site import Site
from ..bank import Bank, RoleMap, Segment
from ..reading import Reading, Recognition, Refusal
from .computed import Computed, argument, location, scale_of
from .replays import names_of


def scale_name(site: Site) -> str:
    """The name of the argument that is a scale."""
    return "scale" if type(unwrap(site.fn).base).__name__ == "Normal" else "scale_tril"


def unread(recognition: Recognition, sites: Collection[str]) -> Recognition:
    """Return the same with refusals of the sites that cannot be taken apart into parameters as they are."""
    why = {n: _why(recognition.readings[n], recognition.bank) for n in recognition.readings if n in sites}
    found = {n: Refusal(text, recognition.reaches.get(n, frozenset())) for n, text in why.items() if text}
    readings = {n: reading for n, reading in recognition.readings.items() if n not in found}
    return replace(recognition, readings=readings, refusals={**recognition.refusals, **found})


def _why(reading: Reading, bank: Bank) -> str:
    """Why a site cannot be taken apart; empty if it can."""
    loc, key = reading.roles["loc"], "scale" if "scale" in reading.roles else "scale_tril"
    scale, curved = reading.roles[key], '"loc" has a function of a parameter'
    if loc.affine is not None and (loc.affine.coordinates or loc.affine.chart.name != "itself"):
        return curved
    if loc.affine is None and any(s.chart.name != "itself" for s in bank.touched(loc, "real")):
        return curved
    if scale.affine is not None:
        return '"scale" is a function of several parameters'
    known = scale.constant is not None and bool((scale.index < 0).any())
    if key == "scale_tril" and known and scale.constant is not None:
        every = scale.constant.expand((*scale.index.shape, *scale.constant.shape[-2:]))[scale.index < 0]
        if bool((every != every[:1]).any()):
            return '"scale_tril" is known, and differs'
    return ""


def with_computed(recognition: Recognition, made: Computed) -> Recognition:
    """Return the same with readings of these sites; why they were refused is still there, so that torch climbs.

    Raises:
        ModelError: weights of a module enter, which are no values of a run.
    """
    bank, readings = recognition.bank, dict(recognition.readings)
    entries, matrices = list(bank.entries), list(bank.matrices)
    for name, (key, dims) in made.scales.items():
        site, reach = recognition.runs[0][name], recognition.reaches.get(name, frozenset())
        for parameter in reach:
            if made.program.parameters[parameter].kind == "module":
                raise ModelError(
                    f'Site "{name}": expected a location and a scale that are computed from pyro.param, got weights of '
                    f'a module ("{parameter}"). Declare them by pyro.param.'
                )
        part = argument(site, key)
        shape = [1 if d in dims else n for d, n in enumerate(part.tensor.shape)]
        joint = key == "scale_tril"
        cells = shape[:-2] if joint else shape
        segments, size = matrices if joint else entries, int(torch.tensor(cells).prod()) if cells else 1
        offset = next((s.offset for s in segments if s.parameter == scale_of(made.of(name))), None)
        if offset is None:
            offset = max((s.offset + s.size for s in segments), default=0)
            segments.append(Segment(scale_of(name), CHARTS[0], False, offset, size))  # noqa: FBT003
        index = (offset + torch.arange(size)).reshape(cells)
        kept = [d for d in range(len(part.names)) if d not in dims]
        names = tuple(part.names[d] for d in kept)
        index = index.reshape([index.shape[d] for d in kept] + list(index.shape[len(part.names) :]))
        scale = RoleMap(names, index, rows=shape[-1] if joint else None)
        readings[name] = _reading(site, key, scale, reach)
    computed = replace(bank, computed=made, unrecorded=made.why, scaling=made.scaling)
    at = replace(computed, entries=tuple(entries), matrices=tuple(matrices))
    ordered = {name: readings[name] for name in recognition.runs[0] if name in readings}
    return replace(recognition, bank=at, readings={**readings, **ordered})


def _reading(site: Site, key: str, scale: RoleMap, reach: frozenset[str]) -> Reading:
    """What is compiled: the location stands as it is at one point, the latents have the rest."""
    inner = unwrap(site.fn)
    loc = location(site).detach()
    names: Sequence[str] = names_of(site)
    fixed = RoleMap(tuple(names), torch.full((), -1).expand(loc.shape), constant=loc)
    roles = {"loc": fixed, key: scale}
    family = family_for(dist.Normal if key == "scale" else dist.MultivariateNormal)
    return Reading(site, family, inner.event_rank, seen(site), roles, {}, reach)
