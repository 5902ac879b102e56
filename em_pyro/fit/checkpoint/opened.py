"""A checkpoint that is found is gone on from, one that is not there is begun."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ... import files
from ...program.named import Params, alike
from ...program.stated import Known
from ...program.store import values_now
from ..problem import Problem
from .journal import FORM, KIND, WHOSE, Journal
from .signature import check_densities, check_same, densities, signature


def opened(
    problem: Problem,
    path: str | os.PathLike[str] | None,
    every: int,
    options: Mapping[str, Any],
    planned: Callable[[Known], Problem] | None,
    points: Callable[[], Sequence[Params]],
) -> tuple[Problem, Journal]:
    """Return the journal of a fit, begun or gone on with; and the problem, as it was planned when it was begun.

    What a model draws by itself for its initial values is another thing in another process: the fit goes on with what
    it began with.

    Args:
        problem: the program and its plan.
        path: of the file; None for no file.
        every: so many EM steps it is written.
        options: of the `EM`, as far as they say what a fit does.
        planned: plans anew with the values of another process; None where there is no file.
        points: draws where all starts begin.

    Raises:
        DataError: the file is damaged, is another one, or is of other data.
        ParameterError: it is of other options.
        ModelError: it is of another model.
        OSError: it may not be read.
    """
    journal = Journal(path, every)
    if path is None:
        journal.points = [dict(point) for point in points()]
        return problem, journal
    now, initial = signature(problem, options), {n: p.initial for n, p in problem.program.parameters.items()}
    start = values_now(problem.program)
    if not Path(path).exists():
        head = {"of": now, "initial": initial, "start": start, "densities": densities(problem)}
        journal.begin(points(), head)
        return problem, journal
    found = files.read(path, KIND, FORM, WHOSE)
    try:
        check_same(path, found["head"]["of"], now)
        was = {key: _beside(found["head"][key], initial) for key in ("initial", "start")}
        if not (alike(was["initial"], initial) and alike(was["start"], start)):
            parameters = problem.program.parameters
            these = {name: replace(p, initial=was["initial"][name]) for name, p in parameters.items()}
            assert planned is not None
            problem = planned(Known(these, was["start"]))
        check_densities(path, problem.program, found["head"]["densities"], densities(problem))
    except (LookupError, TypeError, AttributeError) as error:
        raise files.damaged(path, WHOSE, error) from error
    journal.resume(found, problem.program.device)
    return problem, journal


def _beside(values: Params, others: Params) -> dict[str, Tensor]:
    """Return values on the devices of others."""
    return {name: values[name].to(other.device) for name, other in others.items()}
