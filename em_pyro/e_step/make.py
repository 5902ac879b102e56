"""From a recognised program to the engine that runs it: equal rows merged, replayed sites recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..errors import PlanError
from ..program.masks import alive
from ..program.program import Program
from ..reading.distinct import cut_rows, fewer, find
from ..reading.reading import Recognition
from ..reading.recognise import recognise
from .build import build
from .engine import Engine

PROBES = 3  # random points, far apart, at which a recording must be the model


def engine_of(
    program: Program, recognition: Recognition, *, merge: bool = True, refuted: str = "", plate: str | None = None
) -> tuple[Engine, str]:
    """Build the engine, of the distinct rows where that pays, and say which.

    Args:
        program: the model with its arguments.
        recognition: what its sites are.
        merge: whether equal rows may become one, with a weight.
        refuted: why nothing is to be recorded, if a recording was found not to be the model.
        plate: whose rows may be split; None is the largest.
    """
    living = alive(program, recognition.runs)
    whole = build(program, recognition, recognition.runs[0], recognition.priors, living, plate=plate)
    elsewhere = partial(_elsewhere, program, recognition, merge, refuted, whole.plate)
    whole = replace(_recorded(whole, refuted), elsewhere=elsewhere)
    if not merge:
        return whole, "not merged: as you asked"
    distinct, note = find(program, recognition) if not whole.inner else (None, "")
    if distinct is None:
        return whole, note
    merged = fewer(program, recognition, distinct)
    if merged is None:
        return whole, "not merged: the model cannot be run for some of its rows"
    shrunk, read = merged
    living = {name: cut_rows(part, distinct) for name, part in living.items()}
    engine = build(shrunk, read, read.runs[0], recognition.priors, living, plate=whole.plate)
    own = _recorded(engine, refuted) if engine.moving else whole
    return replace(
        engine, unmerged=whole, recording=own.recording, unrecorded=own.unrecorded, elsewhere=elsewhere
    ), note


def _recorded(engine: Engine, refuted: str) -> Engine:
    """The same with the sites that are not compiled recorded as a graph, where that can be done."""
    if not engine.runs_model or refuted:
        return replace(engine, unrecorded=refuted)
    from ..recording.record import Untraceable  # most programs are recognised
    from ..recording.recorded import recorded

    points, runs = engine.recognition.points[:PROBES], engine.recognition.runs[:PROBES]
    if engine.program.view is not None:
        runs = [engine.program.view(dict(run)) for run in runs]
    try:
        recording = recorded(engine.program, engine.moving, engine.open_priors, points, runs)
    except Untraceable as reason:
        return replace(engine, unrecorded=str(reason))
    return replace(engine, recording=recording)


def _elsewhere(
    program: Program,
    recognition: Recognition,
    merge: bool,  # noqa: FBT001
    refuted: str,
    plate: str | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Engine:
    """The engine of the same program on other arguments.

    Raises:
        PlanError: a site is read in another way there.
    """
    there = program.on(args, kwargs)
    with torch.enable_grad():  # by gradients it is seen what reaches what; a step takes none
        read = recognise(there)
    for name in program.upstream:
        before, after = recognition.readings.get(name), read.readings.get(name)
        if (before is None) != (after is None) or (before and after and before.family is not after.family):
            was, now = ("as " + type(r.family).__name__ if r else "by running the model" for r in (before, after))
            raise PlanError(
                f'Site "{name}": expected it to be computed {was}, as where the plan was made, got one that is '
                f"computed {now}. Plan anew for these arguments."
            )
    return engine_of(there, read, merge=merge, refuted=refuted, plate=plate)[0]
