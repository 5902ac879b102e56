"""Starts that advance together: a batch of them is one more dimension, and one matrix product serves them all.

Where every M-step is a closed form or a Newton ascent, and needs no sweep, starts advance as a batch. A start leaves it
for a loop of its own (`loop.run`) when something about it needs a closer look: it nearly stands still, a scale
collapses, it has no step, or its objective is not finite. What a start does is the same in a batch as alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isfinite

import torch

from ...posterior.possible import is_possible
from ...program.named import Batch
from ..acceleration.when import SEEN
from ..look import look
from ..loop import Settings
from ..path import Interrupted, Path
from ..problem import Problem
from ..scales import DEGENERATE
from ..step import em_step, starts_at_once
from ..stopping import aitken, is_small

NEAR = 100.0  # in units of the tolerance: a start that has no more to gain goes on alone


def advance(problem: Problem, on_way: Mapping[int, Path], settings: Settings) -> dict[int, Path]:
    """Take starts as far as batches take them."""
    size, order = together(problem, settings, len(on_way)), sorted(on_way)
    found = dict(on_way)
    for at in range(0, len(order) if size > 1 else 0, size):
        several = {i: on_way[i] for i in order[at : at + size]}
        found |= settings.journal.unit(problem, partial(march, problem, several, settings))
    return found


def together(problem: Problem, settings: Settings, starts: int) -> int:
    """Return how many starts may advance as one batch; one where a step is more than closed forms and Newton."""
    if settings.callback is not None or settings.acceleration.due((), settings.tol):
        return 1
    return min(starts, starts_at_once(problem))


def march(problem: Problem, on_way: Mapping[int, Path], settings: Settings) -> dict[int, Path]:
    """Advance a batch; every start is left where it needs a closer look, or after `settings.max_steps`.

    Raises:
        Interrupted: with the best start so far.
    """
    left: dict[int, Path] = {}
    here = list(on_way)
    trails = {i: list(on_way[i].before) for i in here}
    batch: Batch = {n: torch.cat([on_way[i].here[n] for i in here]) for n in on_way[here[0]].here}
    journal, steps = settings.journal, 0
    if (begun := journal.begun(problem)) is not None:
        batch, left, here, trails, steps = begun

    def leave(row: int, objective: float | None = None) -> None:
        level = objective if objective is not None and isfinite(objective) else None
        point = {n: v[row : row + 1] for n, v in batch.items()}
        path = on_way[here[row]]
        left[here[row]] = path._replace(here=point, before=tuple(trails[here[row]]), objective=level, last=None)

    try:
        while here:
            journal.at(problem, batch, steps, (batch, left, here, trails, steps), lasting=False)
            steps += 1
            new, found = em_step(problem, batch)
            seen = look(problem, found, batch, new)
            staying = []
            for row, (i, objective) in enumerate(zip(here, seen.objective, strict=True)):
                sound = seen.stepped[row] and seen.narrowest[row] >= DEGENERATE and is_possible(objective)
                if not sound or _look_closer(objective, trails[i], settings, problem.slack):
                    leave(row, objective)
                    continue
                trails[i].append(objective)
                staying.append(row)
            _tell(settings, steps, [trails[here[row]][-1] for row in staying])
            batch = new if len(staying) == len(here) else {n: v[staying] for n, v in new.items()}
            here = [here[row] for row in staying]
    except KeyboardInterrupt as stopped:
        seen_rows = [row for row, i in enumerate(here) if trails[i]]
        if not seen_rows:
            raise
        row = max(seen_rows, key=lambda row: trails[here[row]][-1])
        leave(row)
        raise Interrupted(left[here[row]], getattr(stopped, "cause", None)) from None
    return left


def _tell(settings: Settings, steps: int, levels: list[float]) -> None:
    """Tell whoever watches how many starts have made a step, and how high the best of them is."""
    if settings.reached and levels:
        settings.reached(steps, max(levels))
    if settings.tick:
        settings.tick(len(levels))


def _look_closer(objective: float, trail: list[float], settings: Settings, slack: float) -> bool:
    """Whether a start at this objective must go on alone."""
    if len(trail) >= settings.max_steps:
        return True
    if trail and objective < trail[-1] - slack * (1 + abs(trail[-1])):  # the loop says what it means
        return True
    if settings.tol == 0 or len(trail) < 2:
        return False
    left, _ = aitken([*trail[-2:], objective])
    near = is_small(left, objective, NEAR * settings.tol)
    return near or settings.acceleration.due((*trail[1 - SEEN :], objective), settings.tol)
