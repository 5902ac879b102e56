"""From a recognised program to the engine that runs it: equal rows merged, replayed sites recorded."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from ..errors import PlanError
from ..program.masks import alive
from ..program.program import Program
from ..reading.distinct import cut_rows, fewer, find
from ..reading.reading import Recognition
from ..reading.recognise import recognise
from ..records.frozen import frozen
from .build import build
from .engine import Engine

if TYPE_CHECKING:
    from ..reading.latents.few_rows import FewRows

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
    elsewhere = _Elsewhere(program, recognition, merge, refuted, whole.plate)
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


@frozen
class _Elsewhere:
    """The same program, read in the same way, on other arguments.

    Attributes:
        program: where the plan was made.
        recognition: what its sites are there.
        merge: whether equal rows may become one, with a weight.
        refuted: why nothing is to be recorded, if a recording was found not to be the model.
        plate: whose rows may be split.
    """

    program: Program
    recognition: Recognition
    merge: bool
    refuted: str
    plate: str | None

    def __call__(self, there: Program) -> Engine:
        """Return the engine of the program on other arguments.

        Raises:
            PlanError: a site is read in another way there.
        """
        read = None
        if self._few is not None:
            from ..reading.latents.carried import carried_over  # most programs have no continuous latents

            read = carried_over(self._few, there)
        if read is None:
            with torch.enable_grad():  # by gradients it is seen what reaches what; a step takes none
                read = recognise(there)
        for name in self.program.upstream:
            before, after = self.recognition.readings.get(name), read.readings.get(name)
            if (before is None) != (after is None) or (before and after and before.family is not after.family):
                was, now = ("as " + type(r.family).__name__ if r else "by running the model" for r in (before, after))
                raise PlanError(
                    f'Site "{name}": expected it to be computed {was}, as where the plan was made, got one that is '
                    f"computed {now}. Plan anew for these arguments."
                )
        return engine_of(there, read, merge=self.merge, refuted=self.refuted, plate=self.plate)[0]

    @cached_property
    def _few(self) -> FewRows | None:
        """What a few rows show of continuous latents, read once for all that is asked; None where there are none."""
        if self.recognition.latents is None or self.plate is None:
            return None
        from ..reading.latents.few_rows import few_rows

        return few_rows(self.program, self.plate, recognise)
