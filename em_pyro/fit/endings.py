"""How a fit may end, and the endings that are no maximum: a scale that collapses, a state that empties."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, isnan
from typing import Any

from torch import Tensor

from ..e_step.expectation import Expectation
from ..errors import ObjectiveError
from ..families.charts import domain_of
from ..m_step.ascent.ascend import has_run_off
from ..m_step.pooling import PriorUnbounded
from ..posterior.possible import is_possible
from ..program.named import Batch, only
from .empty import drawn_seldom, emptied, kept_inside
from .look import Look, look
from .path import Move, Path
from .problem import Problem
from .rows.everywhere import check_possible
from .scales import DEGENERATE, TORN
from .verdict.digits import has_lost_digits
from .verdict.spreads import collapsing, near_zero

SELDOM = 20  # steps between looks at what only a run of the model tells
LOST = 1e-14  # of the absolute terms of `Q`: what a fall of the objective may be by their rounding alone
FAINT = 1e-8  # of the objective: what it may fall by, and go on, where its own last digits are as large

NO_LAW = (
    "the next step leads to a scale or a shape that no law has, as below zero: declare its parameter with a constraint "
    "(constraints.positive)"
)

FAR = (
    "the objective is rounded by more than a step gains: covariates or values lie far from zero beside their spread; "
    "subtract their mean"
)

Ending = tuple[str, str]
"""An outcome, and a note that says where, or nothing."""

OUTCOMES = {
    "converged": "The estimated remaining gain is below tol, and a small disturbance led nowhere higher.",
    "unconfirmed": "The steps had settled, or digits ran short, and a closer look confirms no maximum: the notes say "
    "why.",
    "settled": "No latent changes its most probable state: a maximum of the classification likelihood among its "
    "neighbours; other starts may lead higher.",
    "averaged": "The parameters are the average of the draws of the second half, which do not converge: more steps or "
    'e_step="soft" come closer to a maximum.',
    "step limit": "max_steps was reached before the objective settled: raise max_steps.",
    "stopped": "The callback returned True.",
    "degenerate": "The likelihood has no maximum there: a scale collapsed, or a parameter ran off, as the notes say.",
    "empty state": "A state has lost all its rows: use fewer states or other starts.",
    "prior unbounded": "The prior's density is unbounded at the boundary to which the update would go: take "
    'prior_density="unconstrained", a shape of at least 1, or other starts.',
    "impossible start": "Some row is impossible there, or the objective is not finite: use other starts.",
    "screened out": "Others were higher after the first steps; screen=False follows every start to its end.",
    "interrupted": "The fit was interrupted; these are the best values so far.",
}

BAD = ("degenerate", "empty state", "prior unbounded", "impossible start", "screened out")
"""Endings that are no maximum."""


# ---- endings of a step ----


def lost(problem: Problem, path: Path, move: Move, seen: Look) -> Ending | None:
    """End a path that has no objective at `path.here`, or one that fell; the point is not reached.

    Raises:
        DataError: an observation is impossible under every state at the start.
        ObjectiveError: the objective is not finite at the start, or fell beyond rounding; or the M-step failed.
    """
    objective = seen.objective[0]
    if not seen.stepped[0]:
        why = problem.fault(move.found, path.here)
        if isinstance(why, ObjectiveError):
            where = _collapsing(problem, move.found, path.here) if path.before else ""
            if not where and path.before and has_run_off(why):
                where = str(why)
            if not where:
                raise why
            return "degenerate", where
    if not path.before:
        check_possible(problem, only(path.here), objective)
        return None
    before = path.before[-1]
    if not isfinite(objective):
        singular = _singular(problem, path.here) if isnan(objective) else None
        return singular or ("degenerate", "the objective is no longer finite: one of the parameters runs to infinity")
    fallen = _fallen(problem, (before, objective), path.here, move.found, path.step)
    if fallen is None and move.beside is not None:
        beside = float(move.beside[1].objective)
        fallen = _fallen(problem, (objective, beside), *move.beside, path.step + 1) if isfinite(beside) else None
    return fallen


def _fallen(problem: Problem, told: tuple[float, float], here: Batch, found: Expectation, step: int) -> Ending | None:
    """End a path whose objective fell, as told before and at `here`, because it has lost its digits there.

    Raises:
        ObjectiveError: it fell by more than the rounding of its terms, and nothing has collapsed.
    """
    before, objective = told
    if before - objective <= problem.slack * (1 + abs(before)):
        return None
    where = collapsed(problem, here) or problem.scales.collinear(problem.bind(here), TORN)
    if not where:
        fall = before - objective
        rounded = has_lost_digits(problem, here, fall)
        if fall > LOST * problem.magnitude(found, here) and not rounded:
            guard(problem, before, objective, step)
        where = problem.scales.collinear(problem.bind(here))
        if rounded and not where and problem.scales.predicted and not problem.scales.spreads:
            return None if fall <= FAINT * (1 + abs(before)) else ("unconfirmed", FAR)
    if where:
        return "degenerate", where
    lost = "a density has lost its digits: a parameter runs to infinity, or a scale is too small"
    return _singular(problem, here) or ("degenerate", lost)


def _singular(problem: Problem, here: Batch) -> Ending | None:
    """End a path where scales that Gaussian latents have are so small that digits run short, and nothing has collapsed.

    A maximum at such a boundary looks like that from a little before it, and so may a likelihood without bound.
    """
    which = near_zero(problem, here)
    if not which:
        return None
    return "unconfirmed", (
        f"a density has lost its digits beside {which}, next to zero: a maximum at that boundary cannot be told from a "
        f"likelihood without bound there; use fewer latents, known scales or a prior"
    )


def check_step(problem: Problem, move: Move, here: Batch, before: float | None) -> None:
    """Raise where a single step from `here` leads nowhere, or began lower than the last one, which led there.

    Raises:
        DataError: a row is impossible at `here`.
        ObjectiveError: there is no step, or the objective fell from `before`.
    """
    seen = look(problem, move.found, here, move.new)
    objective, end = seen.objective[0], "Step from other values, or use EM.fit, which says how it ended."
    why = None if seen.stepped[0] else problem.fault(move.found, here)
    if isinstance(why, PriorUnbounded):
        raise ObjectiveError(f"EM.step: expected an interior update, but {why}. Take that, or a shape of at least 1.")
    if why is not None:
        raise why
    if before is not None and not is_possible(objective):
        got = f"got {objective} after {before:.6g}: a parameter runs to infinity"
        raise ObjectiveError(f"EM.step: expected a finite objective, {got}. {end}")
    check_possible(problem, only(here), objective)
    gone = [name for name, value in move.new.items() if _gone(value, problem.program.parameters[name].constraint)]
    if gone:
        where = collapsed(problem, here) or "a parameter has run to a boundary"
        raise ObjectiveError(f"EM.step: expected new values of {gone}, got none: {where}. {end}")
    if seen.narrowest[0] < DEGENERATE and (where := collapsed(problem, move.new, move.found)):
        after = problem.objective(move.new)
        if not after >= objective - problem.slack * (1 + abs(objective)):
            fall = f"expected the objective not to fall, got {after:.6g} after {objective:.6g}"
            raise ObjectiveError(f"EM.step: {fall}: {where}. {end}")
    if before is not None:
        guard(problem, before, objective, 1, problem.rounding)


def _gone(value: Tensor, constraint: Any) -> bool:
    """Whether a step has led to no value; or to infinity, where that is not the end of the real line."""
    return bool((value.isnan() if domain_of(constraint) == "real" else ~value.isfinite()).any())


def guard(problem: Problem, before: float, after: float, step: int, slack: float | None = None) -> None:
    """EM has a theorem: refuse a fall beyond rounding (`slack`, if not the problem's), which is a fault.

    Raises:
        ObjectiveError: with the step and both values.
    """
    if after < before - (problem.slack if slack is None else slack) * (1 + abs(before)):
        changed = problem.change(*problem.program.passed, run=True)
        why = f"Meanwhile {changed} has changed: leave it as it is while EM is at work."
        if not changed:
            why = "The model is as it was, so an M-step is at fault: try m_step with torch for its parameters."
        raise ObjectiveError(
            f"Step {step}: expected the objective not to fall, got {after:.12g} after {before:.12g}. {why}"
        )


def stuck(problem: Problem, path: Path, move: Move, seen: Look) -> Ending | None:
    """End a path from whose point there is no step."""
    if seen.stepped[0]:
        return None
    why = problem.fault(move.found, path.here)
    if isinstance(why, PriorUnbounded):
        return "prior unbounded", str(why)
    where = problem.scales.collapsed(problem.bind(move.new))
    return "degenerate", where or "no EM step is defined: one of the parameters has run to a boundary"


def capped(problem: Problem, path: Path, move: Move, max_steps: int) -> Ending | None:
    """End a path that has taken all its steps."""
    if path.step < max_steps:
        return None
    return bad_ending(problem, path.here, move.found) or ("step limit", "")


def degenerate(problem: Problem, path: Path, move: Move, seen: Look) -> Ending | None:
    """End a path that leads to where a scale has collapsed; those of replayed sites are looked at now and then."""
    seldom = problem.engine.runs_model or (path.step and path.step % SELDOM == 0)
    scales = problem.scales
    if seldom or seen.narrowest[0] < DEGENERATE or (scales.spreads and scales.shrunk(only(move.new))):
        where = collapsed(problem, move.new, move.found)
        if where or seen.narrowest[0] < DEGENERATE:
            return "degenerate", where or NO_LAW
    return None


def bad_ending(problem: Problem, here: Batch, found: Expectation) -> Ending | None:
    """Say whether a scale has collapsed at `here`, or a state is empty."""
    where = collapsed(problem, here, found)
    if where:
        return "degenerate", where
    empty = emptied(problem, found)
    if not empty:
        return None
    hint = drawn_seldom(problem)
    return "empty state", empty + kept_inside(problem, only(here)) + (f"; {hint}" if hint else "")


def collapsed(problem: Problem, batch: Batch, found: Expectation | None = None) -> str:
    """Say which scale of one start has shrunk to nothing beside the spread of its site; empty if none has."""
    scales, bound = problem.scales, problem.bind(batch)
    return scales.collapsed(bound, found) or scales.replay_collapsed(only(batch)) or collapsing(problem, batch)


def _collapsing(problem: Problem, found: Expectation, here: Batch) -> str:
    """Say which scale the closed forms of the next step make collapse, under which torch finds no slope; else empty."""
    closed = {name: line for name, line in problem.plan.lines.items() if line.how != "torch"}
    alone = replace(problem.plan, lines=closed, swept=(), callables={}, climbs=())
    return collapsed(problem, replace(problem, plan=alone).maximise(found, here, {}))
