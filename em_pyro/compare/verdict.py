"""The level that a race is measured from: the best objective known, polished and tested as `fit` tests its answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import field, replace

import torch
from torch import Tensor

from ..errors import EMError
from ..fit.acceleration.when import WISHES
from ..fit.endings import BAD, bad_ending
from ..fit.loop import Settings, State, run
from ..fit.path import Path, start
from ..fit.problem import Problem
from ..program.named import batched
from ..records.frozen import frozen
from ..records.shown import Shown
from .lane import Lane

TRIED = 3  # lanes whose ends are polished
TOL = 1e-11
CLOSE = 1e-6  # nats by which an overshooting contender may have passed above the polished answer


@frozen
class Best(Shown):
    """The best objective known.

    Attributes:
        objective: log evidence plus log prior, in nats.
        found_by: the contender and start from whose end it was polished.
        gained: nats that polishing added to what that contender had reached.
        outcome: how the polishing ended, in the words of `Fit.outcome`.
        gap: estimated nats above it.
        gradient: largest entry of the gradient in unconstrained coordinates.
        notes: saddles left, and what else was found out.
        params: constrained values by name.
    """

    objective: float
    found_by: str
    gained: float
    outcome: str
    gap: float
    gradient: float
    notes: tuple[str, ...] = ()
    params: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def tested(self) -> bool:
        """Whether it passed the gradient and the saddle test."""
        return self.outcome == "converged"

    def __str__(self) -> str:
        """Say what it is and why it is believed."""
        if self.outcome == "none":
            return "No contender reached anything."
        gained = f"polishing added {self.gained:.1e} nats" if self.gained > 0 else "polishing added nothing"
        verdict = (
            "passed the gradient and the saddle test of fit"
            if self.tested
            else f'NOT tested as a maximum: polishing ended with "{self.outcome}"'
        )
        lines = [
            f"Best known objective {self.objective:.6f} ({self.found_by}; {gained}); {verdict}: "
            f"estimated gap {self.gap:.1e} nats, largest gradient {self.gradient:.1e}."
        ]
        return "\n".join([*lines, *self.notes])


def judged(problem: Problem, lanes: Sequence[Lane]) -> list[Lane]:
    """Give lanes whose end is no maximum (a collapsed scale, an empty state) that ending."""
    judged = []
    for lane in lanes:
        if lane.shares_objective and lane.points and lane.ending not in BAD:
            batch = batched(lane.params)
            bad = bad_ending(problem, batch, problem.expect(problem.bind(batch)))
            if bad:
                lane = replace(lane, ending=bad[0], message="; ".join(t for t in (lane.message, bad[1]) if t))
        judged.append(lane)
    return judged


def settle(here: Problem, lanes: Sequence[Lane], budget: float) -> Best:
    """Polish the ends of the best lanes by accelerated EM, and keep the highest."""
    able = [lane for lane in lanes if lane.shares_objective and lane.best > -torch.inf]
    sound = [lane for lane in able if lane.ending not in BAD] or able
    if not sound:
        return Best(-torch.inf, "nobody", 0.0, "none", torch.inf, torch.inf)
    sound.sort(key=lambda lane: -lane.best)
    top, began, best = sound[0].best, time.perf_counter(), None

    def over(state: State) -> bool:
        return time.perf_counter() - began >= budget

    for lane in sound[:TRIED]:
        try:
            done = run(here, start(lane.params), Settings(TOL, 100_000, over, acceleration=WISHES["quasi-newton"]))
        except EMError as error:
            best = best or Best(lane.best, _who(lane), 0.0, "error", torch.inf, torch.inf, (str(error),), lane.params)
            continue
        found = _tested(here, lane, done)
        if best is None or found.objective > best.objective or (found.tested and not best.tested):
            best = found
        if best.tested and best.objective >= top - CLOSE:
            break
    assert best is not None
    if best.objective < top - CLOSE:
        note = f"{_who(sound[0])} passed through {top:.6f}, which nothing led back to: measured from there."
        best = replace(best, objective=top, outcome="passed through", notes=(*best.notes, note))
    return best


def _tested(problem: Problem, lane: Lane, done: Path) -> Best:
    batch = batched(done.params)
    bound = problem.bind(batch)
    found = problem.expect(bound)
    slopes = problem.gradient(found, batch)
    steep = max((float(s.abs().max()) for s in slopes.values() if s.numel()), default=0.0)
    objective = max(done.level, float(found.log_evidence + problem.log_prior(bound)))
    gained = objective - lane.best
    return Best(objective, _who(lane), gained, done.outcome, done.gap, steep, done.notes, done.params)


def _who(lane: Lane) -> str:
    return f"{lane.contender}, start {lane.start}"
