"""Adam on `Q` for networks: a bounded number of steps in an M-step, its moments carried from one to the next."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

import torch
from torch import Tensor

from ...records.frozen import frozen
from .hill import Hill, Point

STEPS = 5  # in one M-step
RATE, FASTEST = 0.01, 0.1
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8
HALVINGS = 30


@frozen
class Moments:
    """What Adam remembers between M-steps.

    Attributes:
        count: steps taken.
        first: running mean of the gradient, shape `(D,)`.
        second: running mean of its square, shape `(D,)`.
        rate: length of a step.
    """

    method: ClassVar[str] = "Adam"
    count: int = 0
    first: Tensor = field(default_factory=lambda: torch.zeros(()), repr=False)
    second: Tensor = field(default_factory=lambda: torch.zeros(()), repr=False)
    rate: float = RATE

    @property
    def size(self) -> int:
        """Number of coordinates; one before the first step."""
        return self.first.numel()


def adam(hill: Hill, point: Point, scale: float, moments: Moments) -> tuple[Point, Moments]:
    """Take some steps from a point and go to the highest point passed; where none is higher, backtrack.

    Where `Q` fell at the end, the rate is halved for the next time. Where it fell at all points, the move to the last
    is halved until `Q` rises; if it never does, the moments have lost their meaning: they are dropped, and the slope at
    the outset, each entry by its recent size, is followed as far as `Q` rises.

    Returns:
        The point reached (the same if nothing ascends), and what to remember.

    References: Kingma & Ba (2015), algorithm 1.
    """
    start, begun, steep = point
    best, at, slope = point, start, steep
    for _ in range(STEPS):
        moments, step = _next(moments, slope / scale)
        at = at + step
        value, slope = hill.trial(at)
        if value == -torch.inf:
            break
        if value > best[1]:
            best = at, value, slope
    if best is not point:
        rate = moments.rate * (1.1 if best[0] is at else 0.5)
        return best, Moments(moments.count, moments.first, moments.second, min(rate, FASTEST))
    slower = Moments(moments.count, moments.first, moments.second, moments.rate / 2)
    found = _higher(hill, start, at - start, begun)
    if found is not None:
        return found, slower
    typical = (moments.second / (1 - SECOND**moments.count)).sqrt() + TINY
    found = _higher(hill, start, moments.rate * (steep / scale) / typical, begun)
    return (point if found is None else found), Moments(rate=max(slower.rate, 1e-6))


def _next(moments: Moments, slope: Tensor) -> tuple[Moments, Tensor]:
    count = moments.count + 1
    first = FIRST * moments.first + (1 - FIRST) * slope
    second = SECOND * moments.second + (1 - SECOND) * slope.square()
    step = moments.rate * (first / (1 - FIRST**count)) / ((second / (1 - SECOND**count)).sqrt() + TINY)
    return Moments(count, first, second, moments.rate), step


def _higher(hill: Hill, start: Tensor, move: Tensor, begun: float) -> Point | None:
    """Halve a move until `Q` is higher at its end than at its beginning; None if it never is."""
    if not bool(torch.isfinite(move).all()):
        return None
    for k in range(HALVINGS):
        trial = start + move / 2**k
        if hill.value(trial) > begun:
            return trial, *hill.trial(trial)
    return None
