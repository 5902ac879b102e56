"""The bar that `progress` shows: steps, the objective, and an estimate of what is left."""

from __future__ import annotations

import time
from collections import deque
from math import ceil, isfinite, log
from typing import NamedTuple

from .stopping import SLOWEST, aitken

KEPT = 20  # points, over which the time of a step is averaged


class Seen(NamedTuple):
    """A point that a start has reached: its step, its objective and when."""

    step: int
    objective: float
    at: float


class Bar:
    """A progress bar of tqdm's.

    Behind the steps it has the objective, the nats that are to go by the gains of the last steps, and, by the rate at
    which these shrink, how many steps that are, and how long. Of several starts it is those of the one on its way.
    """

    def __init__(self, starts: int, tol: float, max_steps: int) -> None:
        """Show an empty bar; `tol` and `max_steps` say when a start ends."""
        from tqdm import tqdm

        line = "{desc}: {n_fmt} steps{postfix}"  # short enough for 80 columns
        self._bar = tqdm(desc=f"EM, {starts} start{'s' * (starts > 1)}", bar_format=line)
        self._tol, self._most, self._seen = tol, max_steps, deque[Seen](maxlen=KEPT)

    def update(self, steps: int) -> None:
        """Count steps."""
        self._bar.update(steps)

    def reached(self, step: int, objective: float) -> None:
        """Note where a start is, after so many of its steps; fewer than before are those of another start."""
        if self._seen and step <= self._seen[-1].step:
            self._seen.clear()
        self._seen.append(Seen(step, objective, time.perf_counter()))
        self._bar.set_postfix_str(said(tuple(self._seen), self._tol, self._most), refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def said(seen: tuple[Seen, ...], tol: float, most: int) -> str:
    """Say the objective, the nats to go, and in how many steps and seconds, as far as the points tell."""
    here = seen[-1]
    text = f"objective {here.objective:.6g}" if abs(here.objective) < 1 else f"objective {here.objective:.4f}"
    left, rate = aitken([point.objective for point in seen[-3:]])
    points = points_left(left, rate, tol * (1 + abs(here.objective))) if tol > 0 else float("inf")
    per_point = (here.step - seen[0].step) / (len(seen) - 1) if len(seen) > 1 else 1.0
    capped = (most - here.step) / per_point
    if isfinite(left) and rate > 0:
        text += f"; to go {left:.0e} nats"
    points = min(points, capped) if tol == 0 or isfinite(points) else points
    if not isfinite(points) or len(seen) < 3:
        return text
    seconds = points * (here.at - seen[0].at) / (len(seen) - 1)
    return f"{text}, ~{ceil(points * per_point)} steps, {_interval(seconds)}"


def points_left(left: float, rate: float, enough: float) -> float:
    """Return after how many more points no more than `enough` is left, where what is left shrinks at a rate.

    What is left after `k` points is `left r^k`. Infinite where the gains do not shrink.
    """
    if left <= enough:
        return 0.0
    if not isfinite(left) or not 0 < rate < SLOWEST:
        return float("inf")
    return log(enough / left) / log(rate)


def _interval(seconds: float) -> str:
    from tqdm import tqdm

    return f"{seconds:.{int(seconds < 10)}f} s" if seconds < 60 else str(tqdm.format_interval(seconds))
