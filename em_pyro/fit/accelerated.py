"""EM accelerated by SQUAREM: the glue between one EM step and `squarem.py`, which knows a map and no EM.

All free parameters move together as one vector in unconstrained space, where an extrapolation cannot leave a
constraint. The map is the EM step of the plan, whatever its M-steps are, and the objective is the one that the E-step
finds on its way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import transform_to

from ..e_step.engine import Engine, Expectation
from ..errors import EMError
from ..m_step.maximise import constrained, gradient, unconstrained
from ..m_step.plan import Plan
from ..m_step.pooling import PriorUnbounded
from ..program.named import Params
from .squarem import Squarem, extrapolate, squarem
from .step import em_step

RECENT = 5  # cycles whose slowest rate is believed: an extrapolation hides the slow direction for a cycle or two
SLOWEST = 0.9999


@dataclass(frozen=True)
class Accelerated:
    """What acceleration has spent and saved.

    Attributes:
        squarem: counts, and the bound on the next extrapolation.
        reach: how many plain steps, to first order, the same way would have taken.
        seconds: time spent in EM steps, those that were given up included.
        rates: by how much a plain step shrank the gain, for the last few cycles.
    """

    squarem: Squarem = Squarem()
    reach: float = 0.0
    seconds: float = 0.0
    rates: tuple[float, ...] = field(default=(), repr=False)

    @property
    def evaluations(self) -> int:
        """EM steps taken, those that were given up included."""
        return self.squarem.evaluations

    @property
    def cycles(self) -> int:
        """Cycles of two plain steps, an extrapolation and a step from there."""
        return self.squarem.cycles

    @property
    def rejected(self) -> int:
        """Extrapolations that were given up, because the objective was lower there."""
        return self.squarem.rejected

    @property
    def seconds_per_step(self) -> float:
        """Cost of one EM step."""
        return self.seconds / max(1, self.evaluations)

    def __str__(self) -> str:
        """Say it in one line."""
        each = f"{1e3 * self.seconds_per_step:.2g} ms each"
        return f"{self.squarem}, {each}; as far as about {self.reach:.0f} plain steps"


@dataclass(frozen=True)
class Cycle:
    """One accelerated move away from a point.

    Attributes:
        new: the point that it leads to.
        found: the E-step at the point that was given.
        plain: the plain EM step from there.
        beside: the E-step at `plain`, and the plain step from there; None where the second step was not taken.
        points: that point, and what one plain step and two lead to, in unconstrained space.
        state: what has been spent by now.
    """

    new: dict[str, Tensor] = field(repr=False)
    found: Expectation
    plain: dict[str, Tensor] = field(repr=False)
    beside: tuple[Expectation, dict[str, Tensor]] | None = field(repr=False)
    points: tuple[Tensor, ...] = field(repr=False)
    state: Accelerated


def cycle(engine: Engine, plan: Plan, params: Params, state: Accelerated, budget: int) -> Cycle:
    """Take one SQUAREM cycle from `params`, or one plain step where fewer than three EM steps are left in `budget`.

    Raises:
        PriorUnbounded: no EM step is defined at `params`.
    """
    began = time.perf_counter()
    seen: list[tuple[Tensor, dict[str, Tensor]]] = [(flatten(engine, plan, params), dict(params))]
    steps: list[tuple[Expectation, dict[str, Tensor]]] = []

    def step(x: Tensor) -> tuple[Tensor, float]:
        known = next((values for point, values in seen if point is x), None)
        trial = known is None
        try:
            here = unflatten(engine, plan, x, [values for _, values in seen]) if known is None else known
            new, found = em_step(engine, plan, here)
        except (PriorUnbounded, RuntimeError) as error:
            if trial:
                raise ValueError("no EM step is defined at the extrapolation") from error
            raise
        steps.append((found, new))
        seen.append((flatten(engine, plan, new), new))
        return seen[-1][0], float(found.objective)

    counts = state.squarem
    if budget < 3:
        step(seen[0][0])
        image, after = seen[1][0], replace(counts, evaluations=counts.evaluations + 1)
    else:
        try:
            image, _, after = squarem(step, seen[0][0], counts)
        except (PriorUnbounded, EMError, RuntimeError):
            if not steps:
                raise
            # The plain step led to where no second one is defined: go there, and let the loop say so.
            image, after = seen[1][0], replace(counts, cycles=counts.cycles + 1, evaluations=counts.evaluations + 2)
    length = 1.0
    if after.extrapolated > counts.extrapolated:
        length = extrapolate(*(point for point, _ in seen[:3]), step_max=counts.step_max)[1]
    moved = {1: 1.0, 2: 2.0}.get(len(steps), 2.0 if after.rejected > counts.rejected else 2.0 * length + 1.0)
    new = next(values for point, values in seen if point is image)
    spent = replace(
        state, squarem=after, reach=state.reach + moved, seconds=state.seconds + time.perf_counter() - began
    )
    points = tuple(point for point, _ in seen[:3])
    return Cycle(new, steps[0][0], steps[0][1], steps[1] if len(steps) > 1 else None, points, spent)


def estimated_gap(engine: Engine, plan: Plan, params: Params, done: Cycle, tol: float) -> tuple[float, Accelerated]:
    """Remaining nats, from the plain EM steps within a cycle.

    With gradient `g` of the objective and plain step `r`, a plain step gains about `g'r` near the top, and the gains of
    successive ones shrink at `rate = g1'r1 / g'r`; what is left is `g'r / (1 - rate)`. The slowest rate of the last few
    cycles counts. Far from the top the gain itself is taken, and its rate from the lengths of the steps.

    Returns:
        The gap, and the state with the rate noted.
    """
    moves = [_difference(*pair) for pair in pairwise(done.points)]
    if not bool((moves[0] != 0).any()):
        return 0.0, done.state
    if done.beside is None:
        return float("inf"), done.state
    beside, _ = done.beside
    objective, gain = float(done.found.objective), float(beside.objective - done.found.objective)
    if gain > tol * (1 + abs(objective)):
        first, second = (float(move.square().sum()) for move in moves)
        rate = min(second / first, SLOWEST)
        return gain * rate / (1 - rate), done.state
    promised = []
    for found, here, move in zip((done.found, beside), (params, done.plain), moves, strict=True):
        slopes = gradient(engine, found, here, plan.free)[1]
        promised.append(abs(float(torch.cat([slopes[name].reshape(-1) for name in plan.free]) @ move)))
    rate = min(promised[1] / promised[0], SLOWEST) if promised[0] > 0 else 0.0
    rates = (*done.state.rates, rate)[-RECENT:]
    left = max(promised[0], gain, 0.0) / (1 - max(rates))
    return left, replace(done.state, rates=rates)


def flatten(engine: Engine, plan: Plan, params: Params) -> Tensor:
    """All free parameters as one vector in unconstrained space, shape `(D,)`."""
    points = [unconstrained(engine, name, params[name]).reshape(-1) for name in plan.free]
    return torch.cat(points) if points else torch.zeros(0, dtype=torch.float64)


def unflatten(engine: Engine, plan: Plan, vector: Tensor, seen: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The parameters at a point.

    Entries that no step of the cycle has moved keep their value: where a transform cannot represent a boundary (a
    probability of zero), the way there and back would leave it.
    """
    first, *others = seen
    params, at = dict(first), 0
    for name in plan.free:
        shape = transform_to(engine.program.parameters[name].constraint).inverse_shape(first[name].shape)
        size = shape.numel()
        value = constrained(engine, name, vector[at : at + size].reshape(shape))
        if others and engine.program.parameters[name].constraint.event_dim == 0:
            fixed = torch.stack([first[name] == other[name] for other in others]).all(0)
            value = torch.where(fixed, first[name], value)
        params[name], at = value, at + size
    return params


def _difference(old: Tensor, new: Tensor) -> Tensor:
    """What an EM step moved in unconstrained space; an infinite coordinate (a boundary) counts nothing."""
    move = new - old
    return torch.where(torch.isfinite(move), move, 0.0)
