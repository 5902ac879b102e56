"""The same plan on other rows: what was read of the program stays, and the data are exchanged.

An argument that no row enters is the same tensor on all rows. One run of the model at a point where the plan knows its
arguments tells whether that is so; then sites are laid out anew, and nothing is probed. Where rows enter arguments
(covariates, indices into a table) the program is read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ..errors import PlanError
from ..program.changes.same import first_difference
from ..program.masks import alive
from ..program.named import squeeze, unwrap
from ..program.site import Site
from ..program.unroll import unroll
from ..reading.reading import Centre, arguments
from .build import build
from .engine import Engine

Centres = Mapping[str, Centre]
"""By site, around what values are taken."""


def rebound(engine: Engine, args: tuple[Any, ...], kwargs: Mapping[str, Any], centres: Centres) -> Engine:
    """Return the engine of the same program on other arguments; no initialiser is run.

    Args:
        engine: of some rows, none of them merged.
        args: of the model.
        kwargs: likewise.
        centres: of sites of location families, agreed on with others who hold rows.

    Raises:
        ModelError: the model makes other statements for these arguments.
        PlanError: an argument or a prior depends on which rows are at hand, other than row by row.
    """
    recognition = engine.recognition
    program = replace(engine.program, view=None)
    there, run = program.run_on(args, kwargs, recognition.values)
    before = recognition.runs[0]
    priors = [{n: s for n, s in sites.items() if s.role == "prior"} for sites in (before, run)]
    if differs := first_difference(*priors):
        raise PlanError(f"{differs[0].upper()}{differs[1:]}: {_DEPENDS.format('prior')}")
    if recognition.latents is not None or not _same_arguments(engine, unroll(before), unroll(run)):
        return engine.on(args, kwargs)
    apart = unroll(run)
    readings = {
        name: replace(part.on(apart[name]), centre=centres.get(name), passing=True)
        for name, part in recognition.readings.items()
    }
    read = replace(recognition, readings=readings, runs=[run], points=recognition.points[:1])
    built = build(there, read, run, recognition.priors, alive(there, [run]), plate=engine.plate)
    parts = tuple(new.beside(old) for new, old in zip(built.parts, engine.parts, strict=False))
    parts += built.parts[len(parts) :]
    return replace(built, parts=parts, recording=engine.recording, unrecorded=engine.unrecorded)


def centred(engine: Engine, centres: Centres) -> Engine:
    """Return the engine of the same rows with values taken from other centres."""
    if engine.recognition.latents is not None:
        return engine
    recognition = engine.recognition
    readings = {n: replace(part, centre=centres.get(n), passing=True) for n, part in recognition.readings.items()}
    read = replace(recognition, readings=readings)
    program = replace(engine.program, view=None)
    built = build(program, read, read.runs[0], read.priors, engine.alive, plate=engine.plate)
    return replace(built, recording=engine.recording, unrecorded=engine.unrecorded, elsewhere=engine.elsewhere)


_DEPENDS = (
    "expected a {} that is the same whichever rows are at hand, got one that depends on them (on their mean, say). "
    "Compute it of all rows beforehand."
)


def _same_arguments(engine: Engine, before: Mapping[str, Site], now: Mapping[str, Site]) -> bool:
    """Whether all arguments at one point are what they were; False where some differ row by row.

    Raises:
        PlanError: one differs otherwise.
    """
    same = True
    for name, reading in engine.recognition.readings.items():
        if type(unwrap(before[name].fn).base) is not type(unwrap(now[name].fn).base):
            return False
        old, new = (arguments(reading.family, sites[name]) for sites in (before, now))
        for key, role in reading.family.roles.items():
            event = reading.event_rank + role.event_dim
            was, here = (squeeze(a[key].detach(), s[name].dims, name, event) for a, s in ((old, before), (new, now)))
            if engine.plate in (*was.names, *here.names):
                same = False
            elif was.names != here.names or not torch.equal(was.tensor, here.tensor):
                raise PlanError(f'Site "{name}": {_DEPENDS.format(key)}')
    for name in engine.moving:
        was, here = (sites[name].log_prob() for sites in (before, now))
        if engine.plate not in was.names and not torch.equal(was.tensor, here.tensor):
            raise PlanError(f'Site "{name}": {_DEPENDS.format("density")}')
    return same
