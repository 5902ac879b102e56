"""Several starts: all take their first steps, and the promising ones are followed to their ends.

Those that are far below the best after their first steps are screened out, unless all that were kept end badly. Starts
advance as batches where they can (`batches.py`), and end each in a loop of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf, isfinite

from ...errors import DataError, ObjectiveError
from ...program.named import Batch, Params, only
from ..endings import BAD
from ..loop import Settings, run
from ..path import Interrupted, Path, start
from ..problem import Problem
from ..rows.everywhere import check_possible
from .batches import advance

SHORT = 20  # steps after which starts are compared
FEW, SHARE = 5, 4  # so many starts are always followed; of more, one in four


def follow(problem: Problem, points: Sequence[Params], settings: Settings, *, screen: bool) -> list[Path]:
    """Follow all starts to their ends, in the order given.

    Args:
        problem: the program and its plan.
        points: starting values.
        settings: of every start.
        screen: compare the starts after their first steps, and let go of those that are far below the best, unless all
            that were kept end badly.

    Raises:
        DataError: an observation is impossible at every start.
        ObjectiveError: an objective fell, or is not finite at any start.
        Interrupted: with the best start so far.
    """
    on_way = {i: start(point) for i, point in enumerate(points)}
    if settings.first is not None:
        on_way = {i: settings.first(problem, path) for i, path in on_way.items()}
    ended: dict[int, Path] = {}
    kept = len(points)
    try:
        if screen and len(points) > FEW and settings.max_steps > SHORT:
            _take_first_steps(problem, on_way, replace(settings, max_steps=SHORT), ended)
            kept = max(FEW, len(points) // SHARE)
        order = _most_promising_first(on_way)
        ended_well = False
        while order and not ended_well:
            several, order = order[:kept], order[kept:]
            _finish(problem, several, on_way, settings, ended)
            ended_well = any(path.outcome not in BAD for path in ended.values())
        ended |= {i: on_way[i].ended("screened out") for i in order}
    except KeyboardInterrupt as stopped:
        last = [stopped.path] if isinstance(stopped, Interrupted) else []
        every = [*last, *ended.values(), *(path for path in on_way.values() if path.objective is not None)]
        if not every:
            raise
        best = max(every, key=lambda path: (path.outcome not in BAD, path.level))
        raise Interrupted(best, getattr(stopped, "cause", None)) from None
    return [ended[i] for i in range(len(points))]


def _take_first_steps(problem: Problem, on_way: dict[int, Path], settings: Settings, ended: dict[int, Path]) -> None:
    """Take all starts up to `settings.max_steps`, as batches or one by one; what ends before goes to `ended`."""
    on_way |= advance(problem, on_way, settings)
    for i, path in list(on_way.items()):
        if path.objective is None or len(path.before) < settings.max_steps:  # no batch could take it so far
            on_way[i] = _go_on(problem, path, settings, several=len(on_way) > 1)
            if on_way[i].outcome != "step limit":
                ended[i] = on_way.pop(i)


def _finish(
    problem: Problem, several: Sequence[int], on_way: dict[int, Path], settings: Settings, ended: dict[int, Path]
) -> None:
    """Take some starts to their ends."""
    on_way |= advance(problem, {i: on_way[i] for i in several}, settings)
    for i in sorted(several):
        ended[i] = _go_on(problem, on_way[i], settings, several=len(ended) + len(on_way) > 1)
        del on_way[i]


def _go_on(problem: Problem, path: Path, settings: Settings, *, several: bool) -> Path:
    """Follow one start by itself, unless the journal has its end."""
    return settings.journal.unit(problem, partial(_followed, problem, path, settings, several=several))


def _followed(problem: Problem, path: Path, settings: Settings, *, several: bool) -> Path:
    """Follow one start by itself; of several, one from which no step is defined is an ending."""
    try:
        return run(problem, path, settings)
    except (DataError, ObjectiveError) as why:
        if path.before or not several or _is_possible(problem, path.here):
            raise
        return path.reached(-inf).ended("impossible start", str(why))


def _is_possible(problem: Problem, here: Batch) -> bool:
    """Whether an EM step is defined at one start."""
    try:
        check_possible(problem, only(here), problem.objective(here))
    except (DataError, ObjectiveError):
        return False
    return True


def _most_promising_first(on_way: Mapping[int, Path]) -> list[int]:
    """By objective; start 0 is the user's own and is always followed to its end."""

    def level(i: int) -> float:  # what has no objective yet cannot be judged by it
        objective = on_way[i].objective
        return objective if objective is not None and isfinite(objective) else inf

    return sorted(on_way, key=lambda i: (i != 0, -level(i)))
