"""Part of the way to the maximum of `Q`: a few trials in every M-step, by a curvature carried from one to the next.

An E-step at better parameters is worth more than the last digits of a maximum that it moves again: any rise of `Q` is a
step of generalised EM, and one step of Newton keeps the rate of EM near its end. So a climb ends when what is left is
a small part of what it has gained. Between two M-steps the Hessian changes little. It is corrected by what the
gradient has done, and computed anew only where that is not enough, and no more often than it pays for itself.

References:
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977), section 2 (generalised EM).
    Lange, K. (1995). A gradient algorithm locally equivalent to the EM algorithm. JRSS B 57, 425-437.
    Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, sections 6.2 and 7.2.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...records.frozen import frozen
from .hill import Hill, Point
from .newton import LITTLE, corrected, done, higher, newton_direction, promises_nothing, units
from .pattern import Pattern

TRIALS = 3  # steps in one M-step
ENOUGH = 0.1  # of what a climb has gained: what it may leave
POOR = 0.5  # of what it has gained: so much left, the curvature is not that of this place
KEPT = 10  # pairs that a limited memory holds
FIRST = 0.1  # length of the first step without any memory


@frozen
class Curvature:
    """What Newton's method remembers between M-steps.

    Attributes:
        hessian: of `Q`, corrected since it was computed, shape `(D, D)`.
        least: units of the coordinates where the fit began, `(D,)`.
        age: evaluations of `Q` since then.
    """

    method: ClassVar[str] = "Newton"
    hessian: Tensor = field(repr=False)
    least: Tensor = field(repr=False)
    age: int = 0

    @classmethod
    def at(cls, hill: Hill, hessian: Tensor, before: Curvature | None) -> Curvature:
        """A Hessian just computed; the first one says the units."""
        return cls(hessian, units(hill, hessian) if before is None else before.least)

    def units(self, hill: Hill) -> Tensor:
        """Return the units of the coordinates here."""
        return units(hill, self.hessian, self.least)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return len(self.hessian)

    def after(self, point: Point, found: Point, promised: float) -> Curvature | None:
        """The same once a step has shown how the gradient changes; None if little of what was promised has come.

        Then it is that of other weights: a state has more rows by now than it had.
        """
        if found[1] - point[1] < LITTLE * promised:
            return None
        hessian = corrected(self.hessian, found[0] - point[0], found[2] - point[2])
        return replace(self, hessian=hessian, age=self.age + 1)


@frozen
class Pairs:
    """What a limited memory remembers between M-steps: recent steps, and how the gradient changed along them.

    Attributes:
        steps: the last one last, shape `(at most KEPT, D)`.
        changes: of the gradient, likewise.
    """

    method: ClassVar[str] = "L-BFGS"
    steps: Tensor = field(repr=False)
    changes: Tensor = field(repr=False)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.steps.shape[-1]

    def direction(self, slope: Tensor) -> Tensor:
        """Two-loop recursion on minus `Q`: the direction that the memory takes for Newton's."""
        if not len(self.steps):
            return FIRST * slope / slope.norm().clamp(min=1e-300)
        along = -(self.steps * self.changes).sum(-1)
        q, shares = slope, list[Tensor]()
        for s, y, sy in zip(self.steps.flip(0), -self.changes.flip(0), along.flip(0), strict=True):
            shares.append(s @ q / sy)
            q = q - shares[-1] * y
        q = q * along[-1] / self.changes[-1].square().sum()
        for s, y, sy, share in zip(self.steps, -self.changes, along, reversed(shares), strict=True):
            q = q + s * (share - y @ q / sy)
        return q

    def with_pair(self, step: Tensor, change: Tensor) -> Pairs:
        """The same with one more pair, unless `Q` is convex along it."""
        if -float(step @ change) <= 1e-10 * float(step.abs() @ change.abs()):
            return self
        return Pairs(torch.cat([self.steps, step[None]])[-KEPT:], torch.cat([self.changes, change[None]])[-KEPT:])


def by_curvature(
    hill: Hill, point: Point, known: Curvature | None, pattern: Pattern | None
) -> tuple[Point, Curvature | None, Pattern | None]:
    """Climb a part of the way by Newton's method, with a Hessian from M-steps before where there is one.

    Args:
        hill: what is climbed.
        point: where to begin.
        known: what is remembered; None computes the Hessian.
        pattern: of the zeros of the Hessian, as far as it is known.

    Returns:
        The point reached (the same if nothing ascends), what to remember, and the pattern.

    Raises:
        OnlyOnce: torch cannot differentiate `Q` twice.
    """
    climb, fresh = _Climb(hill, point[1]), False
    begun = known
    for trial in range(TRIALS):
        small = done(hill, point[1], point[2], begun=trial > 0)
        if small and not bool(point[2].any()):
            break
        if known is None:
            hessian, pattern = hill.curvature(point[0], pattern)
            known, fresh = Curvature.at(hill, hessian, begun), True
            begun = known
        direction = newton_direction(point[2], known.hessian)
        if direction is None:
            return point, None, pattern
        left = float(direction @ point[2]) / 2
        if climb.enough(left) or small and promises_nothing(hill, point[1], 2 * left):
            break
        dear = pattern is None or known.age < pattern.width
        if trial and not fresh and not dear and left > POOR * climb.gained:
            known = None
            continue
        found = higher(hill, point, direction, known.units(hill))
        if found is None:
            if fresh:
                break
            known = None
            continue
        known = known.after(point, found, 2 * left * (not fresh))
        point, climb = found, climb.risen(found[1], left)
    return point, known, pattern


def by_memory(hill: Hill, point: Point, known: Pairs | None, trials: int | None = None) -> tuple[Point, Pairs]:
    """Climb a part of the way by L-BFGS, with a memory of M-steps before where there is one.

    Args:
        hill: what is climbed.
        point: where to begin.
        known: what is remembered.
        trials: steps at most, however little they gain; None is a few, while they gain.

    Returns:
        The point reached (the same if nothing ascends), and what to remember.
    """
    none = point[0].new_zeros((0, len(point[0])))
    known, climb = known or Pairs(none, none), _Climb(hill, point[1])
    for trial in range(trials or TRIALS):
        if done(hill, point[1], point[2], begun=trial > 0):
            break
        direction = known.direction(point[2])
        left = float(direction @ point[2]) / 2
        found = higher(hill, point, direction) if left > 0 else None
        if found is None:
            if not len(known.steps):
                break
            known = Pairs(none, none)
            continue
        gain = found[1] - point[1]
        known = known.with_pair(found[0] - point[0], found[2] - point[2])
        point, climb = found, climb.risen(found[1], left)
        if trials is None and climb.enough(gain):
            break
    return point, known


@frozen
class _Climb:
    """What a climb has gained: by `Q` itself where it can tell, else as the gradient had promised."""

    hill: Hill
    begun: float
    gained: float = 0.0

    def enough(self, left: float) -> bool:
        """Whether so much is a small part of what has been gained."""
        return left <= ENOUGH * self.gained

    def risen(self, value: float, promised: float) -> _Climb:
        """The same after a step to `value`."""
        told = value - self.begun
        seen = told > 1e3 * self.hill.precision * (1.0 + abs(value))
        return replace(self, gained=told if seen else max(self.gained, promised))
