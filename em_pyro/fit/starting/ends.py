"""From starting values to the ends of all starts, by a plan of which nothing is left that the model refutes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import DataError, ObjectiveError
from ...program.named import Params, alike, batched
from ..endings import BAD
from ..loop import Settings
from ..notes import cut_off
from ..path import Path
from ..problem import Problem
from ..rows.everywhere import disagreements, measured
from . import restarts
from .runs import repeated
from .trial import tried

FAR = 700.0  # where an infinite logarithm is put if the model has no value at infinity: its exponential is still finite


def ends(problem: Problem, points: Sequence[Params], settings: Settings, *, screen: bool) -> tuple[Problem, list[Path]]:
    """Follow all different starts to their ends; withdraw from the plan what is refuted, and go on.

    Returns:
        The problem with what is left of its plan, and the ends of all starts, in order.

    Raises:
        PlanError: rows are to be given to states, and the program has no discrete latents for it.
        DataError: an observation is impossible at every start.
        ObjectiveError: an objective fell, or is not finite at any start.
        Interrupted: with the best start so far.
    """
    if settings.e_step != "soft":
        from ..assigned.climb import follow_assigned  # few fits give rows to states

        return problem, follow_assigned(problem, points, settings)
    return _ends(problem, points, settings, screen=screen)


def _ends(
    problem: Problem, points: Sequence[Params], settings: Settings, *, screen: bool
) -> tuple[Problem, list[Path]]:
    """Follow all different starts of EM to their ends."""
    repeats = repeated(points)
    every, points = len(points), [point for i, point in enumerate(points) if i not in repeats]
    few = f"{every} starts, only {len(points)} of them different: the others begin at the same values, and count once"
    notes = (*cut_off(problem.engine), *((few,) if len(points) <= min(2, every - 1) else ()))
    problem, refuted = _proven(problem, points)
    notes += refuted
    paths = restarts.follow(problem, points, settings, screen=screen)
    if all(path.outcome == "impossible start" for path in paths):
        tried(problem, points[0])  # raises
    while wrong := disagreements(problem, paths[best := ranked(paths)[0]].params):
        if not _finite(paths[best].params):
            paths[best] = _ended_at(paths[best], _brought_in(paths[best].params))
            continue
        problem, note = problem.corrected(wrong)
        notes = (*notes, note)
        screened = {i: path for i, path in enumerate(paths) if path.outcome == "screened out"}
        again = [path.params for i, path in enumerate(paths) if i not in screened]
        rest = iter(restarts.follow(problem, again, settings, screen=False))
        paths = [screened[i] if i in screened else next(rest) for i in range(len(paths))]
    here = paths[best].params
    if (there := with_a_value(problem, here)) is not here:
        paths[best] = _ended_at(paths[best], there)
    ended = iter(path._replace(notes=(*notes, *path.notes)) for path in paths)
    found: list[Path] = []
    for i in range(every):
        found.append(found[repeats[i]]._replace(repeats=repeats[i]) if i in repeats else next(ended))
    return problem, found


def _proven(problem: Problem, points: Sequence[Params]) -> tuple[Problem, tuple[str, ...]]:
    """Withdraw closed forms that a first step refutes, from the first start that can tell, and say so.

    The same start tells the same in every fit of a plan.
    """
    notes: tuple[str, ...] = ()
    for point in points:
        if any(alike(point, known) for known in problem.proven):
            break
        try:
            problem, more, certain = tried(problem, point)
        except (DataError, ObjectiveError):
            if len(points) == 1:
                raise
            continue  # the ending of this start
        notes += more
        if certain:
            problem.proven[:] = [{name: value.clone() for name, value in point.items()}]
            break
    return problem, notes


def ranked(paths: Sequence[Path]) -> list[int]:
    """Order starts, best first: by objective, endings that are no maximum last."""
    return sorted(range(len(paths)), key=lambda i: (paths[i].outcome in BAD, -paths[i].level))


def _finite(params: Params) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in params.values())


def with_a_value(problem: Problem, params: Params) -> Params:
    """Bring in what is infinite where the model itself, which has a limit there, gives no number."""
    if _finite(params):
        return params
    value = measured(problem, params)
    return params if value is None or value == value else _brought_in(params)


def _brought_in(params: Params) -> dict[str, Tensor]:
    """Put infinite values so far out that nothing depends on it: a model may have a limit there, and no value."""
    return {name: value.nan_to_num(posinf=FAR, neginf=-FAR) for name, value in params.items()}


def _ended_at(path: Path, params: Params) -> Path:
    here = batched(params)
    return path._replace(here=here, last=here, findings=None)
