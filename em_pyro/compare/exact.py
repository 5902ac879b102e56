"""Contenders on our own engine: EM, plain or accelerated, and L-BFGS on the same E-step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..e_step.confirm import disagreements
from ..e_step.engine import Engine, Expectation
from ..em import EM
from ..errors import EMError
from ..fit.accelerated import flatten, unflatten
from ..fit.loop import Settings, State, run
from ..fit.problem import Prepared
from ..m_step.maximise import gradient
from ..m_step.plan import Plan
from .contenders import Contender
from .lane import Clock, Lane, Point

CEILING = 40.0  # of unconstrained coordinates: a boundary, for an optimiser that needs finite numbers
ROUNDING = 1e-12  # a gain that is none, relative to 1 + |objective|


@dataclass
class Tally:
    """E-steps and gradients so far."""

    e_steps: int = 0
    gradients: int = 0


@dataclass(frozen=True)
class Counted(Engine):
    """An engine that counts what is asked of it."""

    tally: Tally = field(default_factory=Tally)

    def expect(self, params: Mapping[str, Tensor], lead: int = 0) -> Expectation:
        """Run one E-step."""
        self.tally.e_steps += 1
        return super().expect(params, lead)

    def q(self, params: Mapping[str, Tensor], found: Expectation, lead: int = 0) -> Tensor:
        """Evaluate `Q` with its gradient."""
        self.tally.gradients += 1
        return super().q(params, found, lead)

    def q_of(
        self, free: Sequence[str], found: Expectation, params: Mapping[str, Tensor]
    ) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """Evaluate part of `Q` with its gradient, as often as the result is called."""
        part = super().q_of(free, found, params)

        def q(values: Mapping[str, Tensor]) -> Tensor:
            self.tally.gradients += 1
            return part(values)

        return q


def counted(here: Prepared) -> tuple[Prepared, Tally]:
    """The same program on an engine that counts."""
    tally = Tally()
    parts = {name: getattr(here.engine, name) for name in Engine.__dataclass_fields__}
    return replace(here, engine=Counted(**parts, tally=tally)), tally


def run_em(em: EM, here: Prepared, name: str, index: int, start: dict[str, Tensor], clock: Clock) -> Lane:
    """Run EM as `EM.fit` does, certificates and all, and note every point that the loop passes."""
    began = time.perf_counter()
    mine, notes, _ = em._certified(em._prepare(here.program.args, here.program.kwargs), start)
    mine, tally = counted(mine)
    setup = time.perf_counter() - began
    before = time.perf_counter()
    mine.engine.expect(start)
    first = time.perf_counter() - before
    ticks: list[tuple[float, int, int]] = []
    steps: list[int] = [0]

    def tick(_: int) -> None:
        ticks.append((clock.now, tally.e_steps, tally.gradients))

    def note(state: State) -> bool:
        steps.append(state.step)
        return bool(clock.spent())

    settings = Settings(em.tol, min(em.max_steps, clock.max_steps), note, tick, em.acceleration is not None)
    clock.start()
    tally.e_steps = tally.gradients = 0
    done = run(mine.engine, mine.plan, start, settings)
    while wrong := disagreements(mine.engine, done.params):
        # A plan that the model refutes ran to no avail: its time is charged, its points are not counted.
        mine, why = mine.corrected(wrong)
        mine, fresh = counted(mine)
        fresh.e_steps, fresh.gradients, tally = tally.e_steps, tally.gradients, fresh
        ticks, steps, notes = [], [0], (*notes, why)
        done = run(mine.engine, mine.plan, start, settings)
    # The parameters of point i were there when step i - 1 had ended; its objective came with step i.
    arrived = [(0.0, 0, 0), *ticks]
    points = tuple(
        Point(step, seconds, objective, e_steps, gradients)
        for step, (seconds, e_steps, gradients), objective in zip(steps, arrived, done.path, strict=False)
    )
    ending = (clock.spent() or "time") if done.outcome == "stopped" else done.outcome
    message = "; ".join((*notes, *done.notes))
    return Lane(name, index, points, setup, first, ending, message, dict(done.params))


class _Over(Exception):
    """The budget is spent."""


def run_lbfgs(here: Prepared, name: str, who: Contender, index: int, start: dict[str, Tensor], clock: Clock) -> Lane:
    """Ascend the objective directly; every evaluation is a step, and what counts is the best so far."""
    before = time.perf_counter()
    engine, plan = here.engine, here.plan
    _evaluate(engine, plan, start)
    first = time.perf_counter() - before
    points: list[Point] = []
    origin = flatten(engine, plan, start)
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
            params = unflatten(engine, plan, vector.detach(), [dict(start)])
            objective, slope = _evaluate(engine, plan, params)
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


def _evaluate(engine: Engine, plan: Plan, params: Mapping[str, Tensor]) -> tuple[float, Tensor]:
    """The objective and its gradient in unconstrained space: that of `Q` at the parameters of the E-step."""
    found = engine.expect(params)
    slopes = gradient(engine, found, params, plan.free)[1]
    return float(found.objective), torch.cat([slopes[name].reshape(-1) for name in plan.free]).nan_to_num(0.0)
