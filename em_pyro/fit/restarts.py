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

from ..e_step.chunks import cut_along, recut
from ..e_step.engine import Engine
from ..errors import DataError, ObjectiveError
from ..m_step.ascent.adam import Moments
from ..m_step.plan import Plan
from ..m_step.pooling import PriorUnbounded
from ..program.named import Params
from .accelerated import Accelerated
from .endings import BAD, DEGENERATE, scales
from .loop import IMPOSSIBLE, Interrupted, Run, Settings, aitken, possible_start, run, slack_of
from .step import em_step

SHORT = 20  # steps after which starts are compared
FEW, SHARE = 5, 4  # so many starts are always followed; of more, one in four
TOGETHER = 1 << 23  # bytes of what a batch holds at once: beyond the cache starts are faster alone
LEAST = 256  # rows of a block
NEAR = 100.0  # in units of the tolerance: a start that has no more to gain goes on alone


@dataclass(frozen=True)
class Paused:
    """A start on its way: where it is, the objective before and, if known, here; and what it carries on."""

    params: dict[str, Tensor] = field(repr=False)
    path: tuple[float, ...] = ()
    objective: float | None = None
    carried: Mapping[tuple[str, ...], Moments] = field(default_factory=dict, repr=False)
    acceleration: Accelerated | None = None
    notes: tuple[str, ...] = ()
    switches: int = 0

    @staticmethod
    def after(done: Run) -> Paused:
        """A run that was stopped by the cap, to go on from there."""
        return Paused(
            done.params, done.path[:-1], done.objective, done.carried, done.acceleration, done.notes, done.switches
        )

    def stopped(self, outcome: str) -> Run:
        """End here."""
        path = self.path if self.objective is None else (*self.path, self.objective)
        return Run(
            self.params, path, outcome, float("inf"), self.notes, acceleration=self.acceleration, switches=self.switches
        )


def follow(engine: Engine, plan: Plan, points: Sequence[Params], settings: Settings, *, screen: bool) -> list[Run]:
    """Follow all starts to their ends, in the order given.

    Args:
        engine: the program.
        plan: how its parameters are maximised.
        points: starting values.
        settings: of every start.
        screen: compare the starts after their first steps, and let go of those that are far below the best, unless all
            that were kept end badly.

    Raises:
        DataError: an observation is impossible at every start.
        ObjectiveError: an objective fell, or is not finite at any start.
        Interrupted: with the best start so far.
    """
    on_way = {i: Paused({n: v.double() for n, v in point.items()}) for i, point in enumerate(points)}
    runs: dict[int, Run] = {}
    kept = len(points)
    try:
        if screen and len(points) > FEW and settings.max_steps > SHORT:
            _take_first_steps(engine, plan, on_way, replace(settings, max_steps=SHORT), runs)
            kept = max(FEW, len(points) // SHARE)
        order = _most_promising_first(on_way)
        ended_well = False
        while order and not ended_well:
            several, order = order[:kept], order[kept:]
            _finish(engine, plan, several, on_way, settings, runs)
            ended_well = any(done.outcome not in BAD for done in runs.values())
        runs |= {i: on_way[i].stopped("screened out") for i in order}
    except KeyboardInterrupt as stopped:
        last = [stopped.run] if isinstance(stopped, Interrupted) else []
        every = [*last, *runs.values(), *(p.stopped("interrupted") for p in on_way.values() if p.objective is not None)]
        if not every:
            raise
        best = max(every, key=lambda done: done.objective)
        raise Interrupted(replace(best, outcome="interrupted", converged=False)) from None
    return [runs[i] for i in range(len(points))]


def _take_first_steps(
    engine: Engine, plan: Plan, on_way: dict[int, Paused], settings: Settings, runs: dict[int, Run]
) -> None:
    """Take all starts up to `settings.max_steps`, as batches or one by one; what ends before goes to `runs`."""
    on_way |= _marched(engine, plan, on_way, settings)
    for i, start in list(on_way.items()):
        if start.objective is None or len(start.path) < settings.max_steps:  # no batch could take it so far
            done = _go_on(engine, plan, start, settings, several=len(on_way) > 1)
            if done.outcome == "step limit":
                on_way[i] = Paused.after(done)
            else:
                runs[i] = done
                del on_way[i]


def _finish(
    engine: Engine,
    plan: Plan,
    several: Sequence[int],
    on_way: dict[int, Paused],
    settings: Settings,
    runs: dict[int, Run],
) -> None:
    """Take some starts to their ends."""
    on_way |= _marched(engine, plan, {i: on_way[i] for i in several}, settings)
    for i in sorted(several):
        runs[i] = _go_on(engine, plan, on_way[i], settings, several=len(runs) + len(on_way) > 1)
        del on_way[i]


def _go_on(engine: Engine, plan: Plan, start: Paused, settings: Settings, *, several: bool) -> Run:
    """Follow one start by itself; of several, one from which no step is defined is an ending."""
    try:
        done = run(engine, plan, start.params, settings, start.path, start.carried, start.acceleration)
    except (DataError, ObjectiveError) as why:
        if start.path or not several or possible_start(engine, start.params):
            raise
        return Run(start.params, (float("-inf"),), "impossible start", float("inf"), (str(why),))
    return replace(done, notes=(*start.notes, *done.notes), switches=start.switches + done.switches)


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


def _marched(engine: Engine, plan: Plan, on_way: Mapping[int, Paused], settings: Settings) -> dict[int, Paused]:
    """The same starts, as far as batches take them."""
    size, order = together(engine, plan, settings, len(on_way)), sorted(on_way)
    found = dict(on_way)
    for at in range(0, len(order) if size > 1 else 0, size):
        found |= march(engine, plan, {i: on_way[i] for i in order[at : at + size]}, settings)
    return found


def march(engine: Engine, plan: Plan, on_way: Mapping[int, Paused], settings: Settings) -> dict[int, Paused]:
    """Advance a batch; every start is left where it needs a closer look, or after `settings.max_steps`."""
    wide, slack = widened(engine, len(on_way)), slack_of(engine)
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
                if _look_closer(objective, [part[row] for part in narrow], paths[i], settings, slack):
                    pause(row, objective)
                    continue
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


def _look_closer(
    objective: float, narrow: Sequence[float], path: Sequence[float], settings: Settings, slack: float
) -> bool:
    """Whether a start at this objective must go on alone."""
    if len(path) >= settings.max_steps or not IMPOSSIBLE < objective < -IMPOSSIBLE:
        return True
    if narrow[0] < DEGENERATE or narrow[1] < 1:
        return True
    if path and objective < path[-1] - slack * (1 + abs(path[-1])):  # the loop says what it means
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


def _most_promising_first(on_way: Mapping[int, Paused]) -> list[int]:
    """By objective; start 0 is the user's own and is always followed to its end."""

    def level(i: int) -> float:  # what has no objective yet cannot be judged by it
        objective = on_way[i].objective
        return objective if objective is not None and isfinite(objective) else float("inf")

    return sorted(on_way, key=lambda i: (i != 0, -level(i)))
