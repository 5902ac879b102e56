"""A checkpoint that is found is gone on from, one that is not there is begun."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ... import files
from ...errors import EMError
from ...program.named import Params, alike
from ...program.stated import Known
from ...program.store import values_now
from ..problem import Problem
from .journal import FORM, KIND, WHOSE, Journal
from .signature import check_densities, check_same, densities, of_all, signature


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
    it began with. Of several processes the first reads and writes the file, and tells the others what is in it; they
    are the ones that the fit had, each with its share.

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
    rows = problem.rows
    journal = Journal(path, every, writes=rows.holder == 0)
    if path is None:
        journal.points = [dict(point) for point in points()]
        return problem, journal
    heads = rows.gathered(_head(problem, options))
    now = of_all([head["of"] for head in heads])
    found = _read(path, problem)
    if found is None:
        head = {"of": now, **{key: [head[key] for head in heads] for key in ("initial", "start", "densities")}}
        journal.begin(rows.gathered(points())[0], head)
        return problem, journal
    try:
        check_same(path, found["head"]["of"], now)
        problem = _as_begun(problem, found["head"], heads, planned)
        others = rows.gathered(densities(problem))
        for one, other in zip(_each(found["head"]["densities"]), others, strict=True):
            check_densities(path, problem.program, one, other)
    except (LookupError, TypeError, AttributeError) as error:
        raise files.damaged(path, WHOSE, error) from error
    journal.resume(found, problem.program.device)
    return problem, journal


def _head(problem: Problem, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the fit of this process is of, and the values that its model has stated."""
    initial = {name: parameter.initial for name, parameter in problem.program.parameters.items()}
    of, start = signature(problem, options), values_now(problem.program)
    return {"of": of, "initial": initial, "start": start, "densities": densities(problem)}


def _as_begun(
    problem: Problem,
    was: Mapping[str, Any],
    heads: Sequence[Mapping[str, Any]],
    planned: Callable[[Known], Problem] | None,
) -> Problem:
    """Return the problem as it was planned when the fit was begun, by the values that its model had stated then."""
    here = {name: parameter.initial for name, parameter in problem.program.parameters.items()}
    known = {key: [_beside(one, here) for one in _each(was[key])] for key in ("initial", "start")}
    same = [alike(one, _beside(heads[k][key], here)) for key, ones in known.items() for k, one in enumerate(ones)]
    if all(same):
        return problem
    own = {key: ones[problem.rows.holder] for key, ones in known.items()}
    parameters = problem.program.parameters.items()
    these = {name: replace(parameter, initial=own["initial"][name]) for name, parameter in parameters}
    assert planned is not None
    return planned(Known(these, own["start"]))


def _read(path: str | os.PathLike[str], problem: Problem) -> Mapping[str, Any] | None:
    """Return what is in a file, None if there is none: what the first of those who hold rows finds.

    Raises:
        DataError: the file is damaged, or is another one.
        OSError: it may not be read.
    """
    found, error = None, None
    if problem.rows.holder == 0:
        try:
            found = files.read(path, KIND, FORM, WHOSE) if Path(path).exists() else None
        except (EMError, OSError) as raised:
            error = raised
    found, error = problem.rows.gathered((found, error))[0]
    if error is not None:
        raise error
    return found


def _each(head: Any) -> list[Any]:
    """Return what a file says of every process; of a lone one it may say it as it is."""
    return head if isinstance(head, list) else [head]


def _beside(values: Params, others: Params) -> dict[str, Tensor]:
    """Return values on the devices of others."""
    return {name: values[name].to(other.device) for name, other in others.items()}
