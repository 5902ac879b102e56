"""Contenders on our own engine: EM, plain or accelerated, and L-BFGS on the same E-step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..e_step.confirm import disagreements
from ..e_step.engine import Engine
from ..e_step.expectation import Expectation
from ..em import EM
from ..errors import EMError
from ..fit.acceleration.points import unflatten
from ..fit.acceleration.when import wished
from ..fit.loop import Settings, State, run
from ..fit.path import start as begin
from ..fit.problem import Expect, Problem, prepare
from ..fit.starting.trial import tried
from ..options import planning
from ..program.coordinates import joined
from ..program.named import Params, batched
from ..records.frozen import frozen
from .contenders import Contender
from .lane import Clock, Lane, Point

CEILING = 40.0  # of unconstrained coordinates: a boundary, for an optimiser that needs finite numbers
ROUNDING = 1e-12  # a gain that is none, relative to 1 + |objective|


@dataclass
class Tally:
    """E-steps and gradients so far."""

    e_steps: int = 0
    gradients: int = 0


@frozen
class Counted(Engine):
    """An engine that counts how often `Q` is evaluated with its gradient, in M-steps of torch too."""

    tally: Tally = field(default_factory=Tally)

    def q(self, *args: Any, **kwargs: Any) -> Tensor:
        """Evaluate `Q`."""
        self.tally.gradients += 1
        return super().q(*args, **kwargs)

    def q_of(self, *args: Any, **kwargs: Any) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """Evaluate part of `Q`, as often as the result is called."""
        part = super().q_of(*args, **kwargs)

        def q(values: Mapping[str, Tensor]) -> Tensor:
            self.tally.gradients += 1
            return part(values)

        return q


def counted(problem: Problem, tally: Tally) -> Problem:
    """Return the same problem, with everything that is asked of its engine counted."""

    def total(expect: Expect) -> Expect:
        def counting(bound: Any, about: Any = None) -> Expectation:
            tally.e_steps += 1
            return expect(bound, about)

        return counting

    parts = {name: getattr(problem.engine, name) for name in Engine.__dataclass_fields__}
    return replace(problem, engine=Counted(**parts, tally=tally), total=total)


@frozen
class Ours:
    """EM as one contender runs it.

    Attributes:
        em: its options.
        race: the program that all contenders run.
    """

    em: EM
    race: Problem

    @cached_property
    def problem(self) -> Problem:
        """The program, planned as this contender wishes; laid out when its first lane begins."""
        em, program = self.em, self.race.program
        return prepare(em.model, program.args, program.kwargs, em.m_step, **planning(em))


def run_em(ours: Ours, name: str, index: int, start: dict[str, Tensor], clock: Clock) -> Lane:
    """Run EM as `EM.fit` does, the trial of closed forms and all, and note every point that the loop passes."""
    began, em = time.perf_counter(), ours.em
    plain, notes, _ = tried(ours.problem, start)
    tally = Tally()
    mine = counted(plain, tally)
    setup = time.perf_counter() - began
    before = time.perf_counter()
    mine.objective(batched(start))
    first = time.perf_counter() - before
    ticks: list[tuple[float, int, int]] = []
    steps: list[int] = [0]

    def tick(_: int) -> None:
        ticks.append((clock.now, tally.e_steps, tally.gradients))

    def note(state: State) -> bool:
        steps.append(state.step)
        return bool(clock.spent())

    settings = Settings(em.tol, min(em.max_steps, clock.max_steps), note, tick, wished(mine, em.acceleration))
    clock.start()
    tally.e_steps = tally.gradients = 0
    done = run(mine, begin(start), settings)
    while wrong := disagreements(plain.engine, done.params):
        # A plan that the model refutes ran to no avail: its time is charged, its points are not counted.
        plain, why = plain.corrected(wrong)
        mine = counted(plain, tally)
        ticks[:], steps[:], notes = [], [0], (*notes, why)
        done = run(mine, begin(start), settings)
    # The parameters of point i were there when step i - 1 had ended; its objective came with step i.
    arrived = [(0.0, 0, 0), *ticks]
    points = tuple(
        Point(step, seconds, objective, e_steps, gradients)
        for step, (seconds, e_steps, gradients), objective in zip(steps, arrived, done.trail, strict=False)
    )
    ending = (clock.spent() or "time") if done.outcome == "stopped" else done.outcome
    message = "; ".join((*notes, *done.notes))
    return Lane(name, index, points, setup, first, ending, message, done.params)


class _Over(Exception):
    """The budget is spent."""


def run_lbfgs(problem: Problem, name: str, who: Contender, index: int, start: dict[str, Tensor], clock: Clock) -> Lane:
    """Ascend the objective directly; every evaluation is a step, and what counts is the best so far."""
    before = time.perf_counter()
    _evaluate(problem, start)
    first = time.perf_counter() - before
    points: list[Point] = []
    origin = problem.coordinates.vector(start)
    origin = torch.where(torch.isfinite(origin), origin, origin.sign().nan_to_num() * CEILING)
    vector = origin.clone().requires_grad_()
    best, best_at, arrived, scale = -torch.inf, dict(start), 0.0, 1.0
    known: tuple[Tensor, float, Tensor] | None = None

    def loss() -> float:
        nonlocal best, best_at, arrived, known, scale
        if known is not None and torch.equal(known[0], vector.detach()):
            vector.grad = known[2].clone()  # torch asks again at the point where its line search ended
            return known[1]
        if clock.spent(len(points)):
            raise _Over
        try:
            params = unflatten(problem.coordinates, vector.detach(), [start])
            objective, slope = _evaluate(problem, params)
        except (EMError, ValueError, RuntimeError):
            objective, slope = -torch.inf, torch.zeros_like(origin)
        objective = objective if objective == objective and objective < torch.inf else -torch.inf
        if not points:
            scale = 1.0 + abs(objective)
        if objective > best:
            best, best_at = objective, params
        n = len(points)
        points.append(Point(n, arrived, best, n, n))
        arrived = clock.now
        value, vector.grad = -objective / scale, -slope / scale
        if objective == best:
            known = vector.detach().clone(), value, vector.grad.clone()
        return value

    ending = "converged"
    clock.start()
    try:
        while True:
            reached = best
            options = {"history_size": who.options["history_size"], "line_search_fn": "strong_wolfe"}
            torch.optim.LBFGS([vector], max_iter=10_000, tolerance_grad=0, tolerance_change=0, **options).step(loss)
            if not best > reached + ROUNDING * (1 + abs(best)):
                break
    except _Over:
        ending = clock.spent(len(points))
    return Lane(name, index, tuple(points), 0.0, first, ending, "", best_at)


def _evaluate(problem: Problem, params: Params) -> tuple[float, Tensor]:
    """The objective and its gradient in unconstrained space: that of `Q` at the parameters of the E-step."""
    here = batched(params)
    bound = problem.bind(here)
    found = problem.expect(bound)
    slope = joined(problem.gradient(found, here)).nan_to_num(0.0)
    return float(found.log_evidence + problem.log_prior(bound)), slope
