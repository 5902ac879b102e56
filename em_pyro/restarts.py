"""Several starts: a batch of them in one more dimension of every tensor, the promising ones followed to their ends.

All starts take their first steps; those that are far below the best are then screened out. Where every M-step is a
closed form or a Newton ascent, and needs no sweep, the starts advance together: one matrix product serves them all. A
start leaves the batch for a loop of its own (`loop.run`) when something about it needs a closer look: it nearly stands
still, a scale collapses, or its objective is not finite. What a start does is the same in a batch as alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, prod

import torch
from torch import Tensor

from .ascent.adam import Moments
from .blocks import cut_along, recut
from .em_step import em_step
from .endings import DEGENERATE, scales
from .engine import Engine
from .loop import IMPOSSIBLE, Interrupted, Run, Settings, aitken, guard, run
from .plan import Plan
from .solvers import PriorUnbounded

Params = Mapping[str, Tensor]

SHORT = 20  # steps after which starts are compared
FEW, SHARE = 5, 4  # so many starts are always followed; of more, one in four
TOGETHER = 1 << 23  # bytes of what a batch holds at once: beyond the cache starts are faster alone
LEAST = 256  # rows of a block
NEAR = 100.0  # in units of the tolerance: a start that has no more to gain goes on alone


@dataclass(frozen=True)
class Paused:
    """A start on its way: where it is, the objective at every point before, and that here, if known; Adam's memory."""

    params: dict[str, Tensor] = field(repr=False)
    path: tuple[float, ...] = ()
    objective: float | None = None
    carried: Mapping[tuple[str, ...], Moments] = field(default_factory=dict, repr=False)

    def stopped(self, outcome: str) -> Run:
        """End here."""
        path = self.path if self.objective is None else (*self.path, self.objective)
        return Run(self.params, path, outcome, float("inf"))


def follow(engine: Engine, plan: Plan, points: Sequence[Params], settings: Settings, *, screen: bool) -> list[Run]:
    """Follow all starts to their ends, in the order given.

    Args:
        engine: the program.
        plan: how its parameters are maximised.
        points: starting values.
        settings: of every start.
        screen: compare the starts after their first steps, and let go of those that are far below the best.

    Raises:
        ObjectiveError: an objective fell, or is not finite at a start.
        Interrupted: with the best start so far.
    """
    on_way = {i: Paused({n: v.double() for n, v in point.items()}) for i, point in enumerate(points)}
    runs: dict[int, Run] = {}
    screen = screen and len(points) > FEW and settings.max_steps > SHORT
    try:
        if screen:
            on_way = _advance(engine, plan, on_way, replace(settings, max_steps=SHORT), runs)
            for i in _unpromising(on_way, len(points)):
                runs[i] = on_way.pop(i).stopped("screened out")
        if together(engine, plan, settings, len(on_way)) > 1:
            on_way = _advance(engine, plan, on_way, settings, runs)
        for i in sorted(on_way):
            runs[i] = _go_on(engine, plan, on_way[i], settings)
    except KeyboardInterrupt as stopped:
        last = [stopped.run] if isinstance(stopped, Interrupted) else []
        every = [*last, *runs.values(), *(p.stopped("interrupted") for p in on_way.values() if p.objective is not None)]
        if not every:
            raise
        best = max(every, key=lambda done: done.objective)
        raise Interrupted(replace(best, outcome="interrupted", converged=False)) from None
    return [runs[i] for i in range(len(points))]


def _go_on(engine: Engine, plan: Plan, start: Paused, settings: Settings) -> Run:
    return run(engine, plan, start.params, settings, start.path, start.carried)


def together(engine: Engine, plan: Plan, settings: Settings, starts: int) -> int:
    """How many starts may advance as one batch; one where a step is more than closed forms and Newton ascents."""
    closed = all(line.how in ("closed form", "Newton", "fixed") for line in plan.lines.values())
    own = engine.open or any(term.centred for term in engine.terms.values())
    if not closed or own or settings.callback is not None or settings.accelerate:
        return 1
    widest = 1
    for part in engine.parts:
        plate = cut_along(part)
        sizes = engine.sizes if plate is None else {**engine.sizes, plate: min(engine.sizes[plate], LEAST)}
        names = [n for unit in part.units for term in unit.parts for n in term.names]
        widest = max(widest, prod(sizes[n] for n in set(names)))
    return max(1, min(starts, TOGETHER // (8 * 4 * widest)))


def _advance(
    engine: Engine, plan: Plan, on_way: Mapping[int, Paused], settings: Settings, runs: dict[int, Run]
) -> dict[int, Paused]:
    """Take all starts up to `settings.max_steps`, as batches or one by one; what ends goes to `runs`."""
    size = together(engine, plan, settings, len(on_way))
    later: dict[int, Paused] = dict(on_way)
    order = sorted(on_way)
    for at in range(0, len(order) if size > 1 else 0, size):
        later |= march(engine, plan, {i: on_way[i] for i in order[at : at + size]}, settings)
    for i in [i for i in order if later[i].objective is None]:  # no batch could take it
        done = _go_on(engine, plan, later[i], settings)
        if done.outcome == "step limit":
            later[i] = Paused(done.params, done.path[:-1], done.objective, done.carried)
        else:
            runs[i] = done
            del later[i]
    return later


def march(engine: Engine, plan: Plan, on_way: Mapping[int, Paused], settings: Settings) -> dict[int, Paused]:
    """Advance a batch; every start is left where it needs a closer look, or after `settings.max_steps`."""
    wide = widened(engine, len(on_way))
    here = list(on_way)
    paths = {i: list(on_way[i].path) for i in here}
    batch = {name: torch.stack([on_way[i].params[name] for i in here]) for name in on_way[here[0]].params}
    paused: dict[int, Paused] = {}

    def pause(row: int, objective: float | None = None) -> None:
        paused[here[row]] = Paused({n: v[row] for n, v in batch.items()}, tuple(paths[here[row]]), objective)

    _, digits = scales(wide, batch, lead=1)
    near = [row for row, ratio in enumerate(digits.tolist()) if ratio >= 1]
    for row in set(range(len(here))) - set(near):
        pause(row)
    here, batch = [here[row] for row in near], {n: v[near] for n, v in batch.items()}
    try:
        while here:
            try:
                new, found = em_step(wide, plan, batch, lead=1)
            except PriorUnbounded:
                for row in range(len(here)):
                    pause(row)
                break
            objectives, *narrow = torch.stack((found.objective, *scales(wide, new, lead=1))).tolist()
            staying = []
            for row, (i, objective) in enumerate(zip(here, objectives, strict=True)):
                if _look_closer(objective, [part[row] for part in narrow], paths[i], settings):
                    pause(row, objective)
                    continue
                if paths[i]:
                    guard(paths[i][-1], objective, engine, len(paths[i]))
                paths[i].append(objective)
                staying.append(row)
            if settings.tick:
                settings.tick(len(staying))
            batch = new if len(staying) == len(here) else {n: v[staying] for n, v in new.items()}
            here = [here[row] for row in staying]
    except KeyboardInterrupt:
        seen = [row for row, i in enumerate(here) if paths[i]]
        if not seen:
            raise
        row = max(seen, key=lambda row: paths[here[row]][-1])
        pause(row)
        raise Interrupted(paused[here[row]].stopped("interrupted")) from None
    return paused


def _look_closer(objective: float, narrow: Sequence[float], path: Sequence[float], settings: Settings) -> bool:
    """Whether a start at this objective must go on alone."""
    if len(path) >= settings.max_steps or not isfinite(objective) or objective <= IMPOSSIBLE:
        return True
    if narrow[0] < DEGENERATE or narrow[1] < 1:
        return True
    if settings.tol == 0 or len(path) < 2:
        return False
    left, _ = aitken([*path[-2:], objective])
    return left <= NEAR * settings.tol * (1 + abs(objective))


def widened(engine: Engine, starts: int) -> Engine:
    """The same engine with fewer rows a block, so that a block of all starts stays in cache."""
    parts = []
    for part in engine.parts:
        plates = [plate for unit in part.units for term in unit.parts for plate in term.plates]
        rows = part.blocks[0].length or max((engine.sizes[plate] for plate in plates), default=1)
        parts.append(recut(part, engine.sizes, max(LEAST, rows // starts)))
    return replace(engine, parts=tuple(parts))


def _unpromising(on_way: Mapping[int, Paused], starts: int) -> list[int]:
    """The lower ones; start 0 is the user's own and is followed to its end."""
    kept = max(FEW, starts // SHARE)

    def level(i: int) -> float:  # what has no objective yet cannot be judged by it
        objective = on_way[i].objective
        return objective if objective is not None and isfinite(objective) else float("inf")

    return sorted(on_way, key=lambda i: (i != 0, -level(i)))[kept:]

