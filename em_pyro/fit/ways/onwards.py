"""Ways higher that go on: EM had not settled, or a disturbance has gone but a part of a way."""

from __future__ import annotations

import math

from ...program.named import Batch, batched, only
from ..look import look
from ..problem import Problem
from ..saddle import STEPS, margin
from ..scales import DEGENERATE
from ..step import em_step

DOUBLED, WORTH = 10, 1e-8  # times that a way higher is doubled; and what that must bring, relative to 1 + |objective|


def on_its_way(problem: Problem, here: Batch, objective: float, gap: float) -> Batch | None:
    """Step on from where EM has seemed to settle: return where it is as much higher as beside a saddle, else None.

    Then it had not settled: where an M-step goes a part of the way, gains shrink more slowly than the last two tell.
    """
    for _ in range(STEPS):
        new, found = em_step(problem, here)
        seen = look(problem, found, here, new)
        if not seen.stepped[0] or seen.narrowest[0] < DEGENERATE or not math.isfinite(seen.objective[0]):
            return None
        if seen.objective[0] > objective + margin(gap, objective):
            return here
        here = new
    return None


def further(problem: Problem, here: Batch, higher: Batch) -> Batch:
    """Go on the same way, in unconstrained coordinates, as long as that is worth it: twice as far every time.

    A way to a boundary has no end, and every disturbance goes but a part of it.

    Args:
        problem: the program.
        here: where EM has settled, one start.
        higher: where a disturbance has led.
    """
    coordinates = problem.coordinates
    begin, end = (coordinates.finite(only(batch)) for batch in (here, higher))
    best, level = higher, _sound_height(problem, higher)
    for k in range(1, DOUBLED + 1):
        point = batched(coordinates.params(begin + 2.0**k * (end - begin), only(higher)))
        height = _sound_height(problem, point)
        if not height > level + WORTH * (1 + abs(level)):
            break
        best, level = point, height
    return best


def _sound_height(problem: Problem, here: Batch) -> float:
    """Return the objective; minus infinity where there is none, or a scale has collapsed."""
    try:
        bound = problem.bind(here)
        if any(bool((part < DEGENERATE).any()) for part in problem.scales.narrowest(bound)):
            return -math.inf
        if problem.scales.shrunk(only(here)):  # a scale beside Gaussian latents, far below what it was at first
            return -math.inf
        return problem.objective(here)
    except (RuntimeError, ValueError):  # of the model: it has no density there
        if not problem.engine.open:
            raise
        return -math.inf
