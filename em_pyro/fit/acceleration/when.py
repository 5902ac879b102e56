"""When an accelerated fit begins to move by other than plain steps: the table behind `EM(acceleration=...)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import log
from typing import NamedTuple

from ..path import Acceleration, Path
from ..problem import Problem
from ..stopping import SLOWEST, aitken, near
from .accelerated import Accelerated
from .quasi_newton import QuasiNewton
from .squarem import Squarem

MANY = 100  # plain steps still to be taken, from which on other moves pay
FEWER = 5  # the same where normal latents are integrated: what is left there is mostly slow
SETTLED = 5  # successive rates that must all say so
SEEN = SETTLED + 2  # objectives that they follow from
LEVEL = 0.999  # rates of gains that do not shrink
PATIENCE = 40  # plain steps of these: small known scales make ridges, on which EM creeps far from the maximum


class Wish(NamedTuple):
    """An acceleration that was asked for.

    Attributes:
        due: whether it begins, by the objectives of the plain steps so far and the tolerance.
        begun: the acceleration, on a path that has taken these steps.
    """

    due: Callable[[Sequence[float], float], bool]
    begun: Callable[[Path], Acceleration]

    def at(self, path: Path, tol: float) -> Path:
        """Begin on a path, if it has not and is due."""
        return path.charged(self.begun(path)) if path.spent is None and self.due(path.before, tol) else path


def never(trail: Sequence[float], tol: float) -> bool:
    """Take plain steps for ever."""
    return False


def always(trail: Sequence[float], tol: float) -> bool:
    """Begin with the first step."""
    return True


def slow(trail: Sequence[float], tol: float, many: int = MANY, patience: int | None = None) -> bool:
    """Begin when the rate has settled, and says that more than so many plain steps are left to the tolerance.

    Gains that shrink at a rate `r` from `d` have `d r^n / (1 - r)` left after `n` steps. What is left must be near: a
    rate on a plateau says nothing of what comes after it. With `patience`, that many steps are enough of one,
    also where gains do not shrink at all.
    """
    if tol <= 0 or len(trail) < SEEN:
        return False
    gains = [after - before for before, after in pairwise(trail[-SEEN:])]
    rates = [later / gain if gain > 0 else 0.0 for gain, later in pairwise(gains)]
    rate, small = min(min(rates), SLOWEST), tol * (1 + abs(trail[-1]))
    left = gains[-1] * rate / (1 - rate)
    if patience is not None and len(trail) >= patience and min(rates) >= LEVEL:
        return gains[-1] > small
    far = left > near(trail[-1]) and (patience is None or len(trail) < patience)
    if far or not (0 < rate <= max(rates) < 1 and small < left):
        return False
    return log(small * (1 - rate) / gains[-1]) / log(rate) > many


def _squared(path: Path) -> Acceleration:
    return Accelerated(Squarem(evaluations=len(path.before)))


def _quasi_newton(path: Path) -> Acceleration:
    steps = len(path.before)
    if steps < SEEN:
        return QuasiNewton(evaluations=steps, began=steps)
    return QuasiNewton(evaluations=steps, began=steps, plain=0, gain=1 / (1 - aitken(path.before[-3:])[1]))


PLAIN = Wish(never, _squared)

WISHES: Mapping[str | None, Wish] = {
    None: PLAIN,
    "squarem": Wish(always, _squared),
    "quasi-newton": Wish(always, _quasi_newton),
    "auto": Wish(slow, _quasi_newton),
}


def wished(problem: Problem, acceleration: str | None) -> Wish:
    """Return what was asked for; where "auto" cannot trust a rate, or a gradient costs runs of the model, plain steps.

    A callable and some steps of Adam are no maximum of `Q`: what they do next does not follow from where they are. Some
    steps of Newton are none either, but keep the rate of EM.
    """
    inexact = problem.plan.callables or not all(climb.steady for climb in problem.plan.climbs)
    if acceleration == "auto" and (inexact or problem.engine.runs_model):
        return PLAIN
    if acceleration == "auto" and problem.engine.recognition.latents is not None:
        return Wish(partial(slow, many=FEWER, patience=PATIENCE), _quasi_newton)
    return WISHES[acceleration]
