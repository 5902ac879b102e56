"""The loop around one EM step: the monotone guard, the stopping rule, the saddle test, and honest endings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..e_step.engine import Engine, Expectation
from ..e_step.precision import around, displaced, moves_too_far, suited
from ..errors import DataError, ObjectiveError
from ..m_step.ascent.adam import Moments
from ..m_step.ascent.ascend import Carried
from ..m_step.maximise import gradient, maximise, unconstrained
from ..m_step.plan import Plan
from ..m_step.pooling import PriorUnbounded
from ..posterior.posterior import Posterior, posterior
from ..program.named import Params
from . import accelerated
from .accelerated import Accelerated
from .endings import DEGENERATE, bad_ending, collapsed, scales
from .saddle import leave_saddle
from .squarem import Squarem
from .step import em_step

SLACK = {torch.float64: 1e-10, torch.float32: 1e-6}  # rounding of the objective, relative to 1 + |objective|
IMPOSSIBLE = -1e29
LOST = 1e-14  # of the absolute terms of `Q`: what a fall of the objective may be by their rounding alone
AGAIN = 2.0  # how much more than enough room for all digits there must be for the fastest form to come back


@dataclass(frozen=True)
class State:
    """What a callback sees after every step."""

    step: int
    objective: float
    params: dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """Options of a run."""

    tol: float
    max_steps: int
    callback: Callable[[State], Any] | None = None
    tick: Callable[[int], Any] | None = None  # told how many steps were taken
    accelerate: bool = False


@dataclass(frozen=True)
class Run:
    """One start, followed to its end."""

    params: dict[str, Tensor] = field(repr=False)
    path: tuple[float, ...] = field(repr=False)
    outcome: str
    gap: float
    notes: tuple[str, ...] = ()
    converged: bool = False
    acceleration: Accelerated | None = None
    switches: int = 0  # between one centre for all cells and each around its own location
    carried: Mapping[tuple[str, ...], Moments] = field(default_factory=dict, repr=False)  # Adam's memory at `params`

    @property
    def num_steps(self) -> int:
        """EM steps taken, those of extrapolations that were given up included."""
        return len(self.path) - 1 if self.acceleration is None else self.acceleration.evaluations

    @property
    def objective(self) -> float:
        """Objective at `params`."""
        return self.path[-1]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with the run so far."""

    def __init__(self, run: Run) -> None:
        """Keep the run."""
        super().__init__("EM was interrupted")
        self.run = run


def run(
    engine: Engine,
    plan: Plan,
    start: Params,
    settings: Settings,
    before: Sequence[float] = (),
    remembered: Mapping[tuple[str, ...], Moments] | None = None,
    accelerated_so_far: Accelerated | None = None,
) -> Run:
    """Iterate from `start` until the stopping rule, the cap or a named ending.

    Args:
        engine: the program.
        plan: how its parameters are maximised.
        start: where to go on from.
        settings: options.
        before: the objective at every step that led to `start`, if this is not the first.
        remembered: what Adam remembers of those steps.
        accelerated_so_far: what acceleration has spent and saved on them.

    Raises:
        ObjectiveError: the objective fell beyond rounding, or is not finite at the start.
        DataError: an observation is impossible under every state at the start.
    """
    params, path = {name: value.double() for name, value in start.items()}, list(before)
    gap, calm, notes, saddles = float("inf"), 0, list[str](), 0
    fastest, switches = engine.lean, 0
    engine = suited(fastest, params)
    best, state = params, accelerated_so_far
    if settings.accelerate and state is None:
        state = Accelerated(Squarem(evaluations=len(path)))
    carried = dict(remembered or {})
    kept = dict(carried)

    def ended(outcome: str, *, converged: bool = False) -> Run:
        return Run(best, tuple(path), outcome, gap, tuple(notes), converged, state, switches, kept)

    try:
        while True:
            step, cycle = len(path) if state is None else state.evaluations, None
            kept = dict(carried)
            try:
                if state is None:
                    new, found = em_step(engine, plan, params, carried=carried)
                else:
                    cycle = accelerated.cycle(engine, plan, params, state, settings.max_steps - step)
                    new, found = cycle.new, cycle.found
            except PriorUnbounded as where:
                new, found = params, engine.expect(params)
                notes.append(str(where))
            except ObjectiveError:
                fault = "" if not path else collapsing(engine, plan, params)
                if not fault:
                    raise
                notes.append(fault)
                return ended("degenerate")
            looked_at = scales(engine, new) if engine is fastest else (*scales(engine, new), scales(fastest, new)[1])
            objective, narrowest, digits, *room = torch.stack((found.objective, *looked_at)).tolist()
            if new is not params and (not digits >= 1 or displaced(engine, params, new)):
                if not digits >= 1:  # a probability below zero by rounding has no logarithm
                    last, engine = engine, suited(engine, new)
                    switches += engine.terms is not last.terms
                carried = dict(kept)
                with suppress(PriorUnbounded):  # the step as it was is what the loop goes by
                    new, found = em_step(around(engine, new), plan, params, carried=carried)
                objective, narrowest, _ = torch.stack((found.objective, *scales(engine, new))).tolist()
            if not path:
                check_start(engine, params, objective)
            elif not _finite(objective):
                notes.append("the objective is no longer finite: one of the parameters runs to infinity")
                return ended("degenerate")
            elif path[-1] - objective > slack_of(engine) * (1 + abs(path[-1])):
                if path[-1] - objective > LOST * engine.magnitude(found, params):
                    guard(path[-1], objective, engine, step)
                notes.append("a density has lost its digits: a parameter runs to infinity, or a scale is too small")
                return ended("degenerate")
            if cycle and cycle.beside and _finite(float(cycle.beside[0].objective)):
                guard(objective, float(cycle.beside[0].objective), engine, step + 1)
            path.append(objective)
            best = params
            if settings.tick:
                settings.tick(1)
            if step and settings.callback and settings.callback(State(step, objective, dict(params))) is True:
                return ended("stopped")
            if new is params:
                return ended("prior unbounded")
            if step == settings.max_steps:
                ending = bad_ending(engine, plan, params, found)
                notes += ending[1:]
                return ended(ending[0] if ending else "step limit")
            if cycle is not None:
                state = cycle.state
            if narrowest < DEGENERATE or (engine.runs_model and collapsed(engine, plan, new)):
                notes.append(collapsed(engine, plan, new))
                return ended("degenerate")
            if settings.tol > 0:
                if cycle is None:
                    gap = estimated_gap(engine, plan, found, params, new, path, settings.tol)
                else:
                    gap, state = accelerated.estimated_gap(engine, plan, params, cycle, settings.tol)
                calm = calm + 1 if gap <= settings.tol * (1 + abs(objective)) else 0
                if calm >= 2:
                    ending = bad_ending(engine, plan, params, found)
                    if ending:
                        notes += ending[1:]
                        return ended(ending[0])
                    escaped = leave_saddle(engine, plan, params, found, gap, saddles)
                    if escaped is None or saddles >= 5:
                        return ended("converged", converged=True)
                    saddles, calm = saddles + 1, 0
                    notes.append(f"left a saddle after {step} steps")
                    new = escaped
            if room and room[0] > AGAIN:
                switches += engine.terms is not fastest.terms
                engine = fastest
            params = new
    except KeyboardInterrupt:
        if not path:
            raise
        raise Interrupted(ended("interrupted")) from None


def careful_step(engine: Engine, plan: Plan, params: Params, carried: Carried) -> tuple[dict[str, Tensor], Expectation]:
    """One step in the form that keeps its digits; taken again where it leads to where another form does."""
    engine, before = suited(engine.lean, params), dict(carried)
    new, found = em_step(engine, plan, params, carried=carried)
    if moves_too_far(engine, params, new):
        carried.clear()
        carried.update(before)
        new, found = em_step(around(suited(engine, new), new), plan, params, carried=carried)
    return new, found


def slack_of(engine: Engine) -> float:
    """Relative rounding of the objective, by the dtype of the program's parameters."""
    single = any(p.initial.dtype == torch.float32 for p in engine.program.parameters.values())
    return SLACK[torch.float32 if single and (engine.replayed or engine.inside) else torch.float64]


def guard(before: float, after: float, engine: Engine, step: int) -> None:
    """EM has a theorem: a fall beyond rounding is a fault.

    Raises:
        ObjectiveError: with the step and both values.
    """
    if after < before - slack_of(engine) * (1 + abs(before)):
        raise ObjectiveError(
            f"Step {step}: expected the objective not to fall, got {after:.12g} after {before:.12g}. Exact EM cannot "
            f"do that: does the model use randomness or change between calls?"
        )


def check_start(engine: Engine, params: Params, objective: float) -> None:
    """Refuse a start from which no EM step is defined.

    Raises:
        DataError: some row is impossible under every state.
        ObjectiveError: the objective is not finite for another reason.
    """
    if IMPOSSIBLE < objective < -IMPOSSIBLE:  # a location that overflows leaves a number beyond
        return
    if objective <= IMPOSSIBLE:
        law = posterior(engine, params)
        for plate in sorted(engine.program.plates, key=lambda p: -engine.program.plates[p]):
            try:
                rows = law.log_evidence_by(plate)
            except ValueError:
                continue
            bad = rows <= IMPOSSIBLE
            if bool(bad.any()):
                index = int(bad.nonzero()[0])
                sites = [n for n, f in engine.factors.items() if plate in f.plates and n not in engine.program.latents]
                observed = [n for n in sites if plate in engine.recognition.runs[0][n].plates] or [
                    n for n, s in engine.recognition.runs[0].items() if s.role == "observed" and plate in s.plates
                ]
                raise DataError(
                    f'Site "{(observed or ["?"])[0]}": expected every row to be possible under some state, got a row '
                    f'of plate "{plate}" that is impossible, at index {index}. Remove it, or widen the model.'
                )
        observed = [n for n, s in engine.recognition.runs[0].items() if s.role == "observed"]
        raise DataError(
            f'Site "{observed[0]}": expected data that is possible under the model, got an impossible observation '
            f"(log evidence {objective:.3g}). Check structural zeros and the start."
        )
    raise ObjectiveError(
        f"Start: expected a finite objective, got {objective}. Check the starting values "
        f"({', '.join(sorted(params))}) and the scale of the data."
    )


def possible_start(engine: Engine, params: Params) -> bool:
    """Whether an EM step is defined at `params`."""
    try:
        check_start(engine, params, float(suited(engine.lean, params).expect(params).objective))
    except (DataError, ObjectiveError):
        return False
    return True


def possible_posterior(engine: Engine, params: Params) -> Posterior:
    """The posterior at `params`.

    Raises:
        DataError: some row is impossible under every state, so that it has none.
    """
    law = posterior(engine, params)
    check_start(engine, {n: v.double() for n, v in params.items()}, law.log_evidence)
    return law


def collapsing(engine: Engine, plan: Plan, params: Params) -> str:
    """Say which scale the closed forms of the next step make collapse, under which torch finds no slope; else empty."""
    closed = {name: line for name, line in plan.lines.items() if line.how != "torch"}
    alone = replace(plan, lines=closed, swept=False, callables={})
    return collapsed(engine, plan, maximise(engine, alone, engine.expect(params), params))


def _finite(x: float) -> bool:
    return x == x and abs(x) != float("inf")


def estimated_gap(
    engine: Engine, plan: Plan, found: Expectation, params: Params, new: Params, path: list[float], tol: float
) -> float:
    """Remaining nats: the larger of Aitken's extrapolation and what the gradient promises.

    With gains `d_t` shrinking at rate `r`, what is left is `d r / (1 - r)`. The gradient's own estimate
    `g'(u_new - u) / (1 - r)` is computed once the first is small; an infinite coordinate (a boundary) counts nothing.
    """
    left, rate = aitken(path)
    if left > tol * (1 + abs(path[-1])):
        return left
    names = plan.free
    _, slopes = gradient(engine, found, params, names)
    promised = 0.0
    for name in names:
        move = unconstrained(engine, name, new[name]) - unconstrained(engine, name, params[name])
        move = torch.where(torch.isfinite(move), move, 0.0)
        promised += float((slopes[name] * move).sum())
    return max(left, abs(promised) / (1 - rate))


def aitken(path: Sequence[float]) -> tuple[float, float]:
    """What is left to gain by the last two gains of a path, and the rate at which gains shrink."""
    if len(path) < 3:
        return float("inf"), 0.9999
    last, before = path[-1] - path[-2], path[-2] - path[-3]
    rounding = 1e-15 * (1 + abs(path[-1]))
    rate = min(max(last / before, 0.0), 0.9999) if before > rounding else 0.5
    return max(last, 0.0) * rate / (1 - rate), rate
