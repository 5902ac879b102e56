"""From starting values to the answer: certify closed forms, follow starts, measure the best on the user's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..e_step.confirm import disagreements, measured
from ..errors import DataError, ObjectiveError
from ..posterior.possible import check_possible
from ..program.named import Params, batched, only
from .endings import BAD, collapsed
from .look import look
from .loop import Settings
from .path import Path, start
from .problem import Problem
from .result import Fit, Start, Starts, write_back
from .starting import restarts
from .step import em_step

CERTIFIED = 1e-7  # of the gradient of Q after a closed form, relative to the terms that Q adds up
SAME_MAXIMUM = 1e-6  # relative to 1 + |objective|: starts that end so close together have found the same
MEASURED_AGAIN = 1e-8  # relative to 1 + |log evidence|: rounding between the loop and the model itself


def follow(
    problem: Problem, points: Sequence[Params], settings: Settings, *, screen: bool
) -> tuple[Problem, list[Path]]:
    """Follow all starts to their ends; withdraw from the plan what the certificates refute, and go on.

    Returns:
        The problem with what is left of its plan, and the ends of all starts, in order.

    Raises:
        DataError: an observation is impossible at every start.
        ObjectiveError: an objective fell, or is not finite at any start.
        Interrupted: with the best start so far.
    """
    notes: tuple[str, ...] = ()
    for point in points:
        try:
            problem, more, certain = certified(problem, point)
        except (DataError, ObjectiveError):
            if len(points) == 1:
                raise
            continue  # the ending of this start
        notes += more
        if certain:
            break
    paths = restarts.follow(problem, points, settings, screen=screen)
    if all(path.outcome == "impossible start" for path in paths):
        certified(problem, points[0])  # raises
    while wrong := disagreements(problem.engine, paths[ranked(paths)[0]].params):
        problem, note = problem.corrected(wrong)
        notes = (*notes, note)
        screened = {i: path for i, path in enumerate(paths) if path.outcome == "screened out"}
        again = [path.params for i, path in enumerate(paths) if i not in screened]
        rest = iter(restarts.follow(problem, again, settings, screen=False))
        paths = [screened[i] if i in screened else next(rest) for i in range(len(paths))]
    return problem, [path._replace(notes=(*notes, *path.notes)) for path in paths]


def certified(problem: Problem, point: Params) -> tuple[Problem, tuple[str, ...], bool]:
    """Take one M-step from `point` and require that the gradient of `Q` is zero at every closed form.

    Returns:
        What is left of the closed forms, why others were withdrawn, and whether this start could tell.
    """
    closed = [n for n, line in problem.plan.lines.items() if line.closed_form]
    here = start(point).here
    if not closed:
        check_possible(problem.engine, only(here), problem.objective(here))
        return problem, (), True
    try:
        new, found = em_step(problem, here)
    except (RuntimeError, ValueError):  # of torch: a matrix of nothing but NaN, where the data are impossible
        check_possible(problem.engine, only(here), problem.objective(here))
        raise
    seen = look(problem, found, here, new)
    check_possible(problem.engine, only(here), seen.objective[0])
    if not seen.stepped[0] or collapsed(problem, new):
        return problem, (), False  # the loop reports it as its ending
    slopes = problem.gradient(found, new, closed)
    size = 1 + problem.magnitude(found, new)
    wrong = [n for n in closed if not _small(slopes[n], CERTIFIED * size)]
    if not wrong:
        return problem, (), True
    why = "its closed form left a gradient of Q that is not zero"
    left = problem.without(frozenset(wrong), frozenset(), why)
    return left, (f"closed forms of {wrong} withdrawn: {why}",), True


def answer(problem: Problem, paths: Sequence[Path], *, measure: bool = True) -> Fit:
    """Rank the ends of all starts, and measure the best again on the user's program unless `measure` is false."""
    top = paths[ranked(paths)[0]]
    level = top.level - SAME_MAXIMUM * (1 + abs(top.level))
    reached = [i for i, path in enumerate(paths) if path.level >= level and path.outcome == top.outcome]
    best = paths[reached[0]]  # of equals the first, whose labels are the user's
    params = write_back(problem, best.params)
    bound = problem.bind(batched({name: value.double() for name, value in params.items()}))
    evidence, prior = (float(part) for part in (problem.expect(bound).log_evidence, problem.log_prior(bound)))
    notes = best.notes
    if measure and all(p.initial.dtype == torch.float64 for p in problem.program.parameters.values()):
        again = measured(problem.engine, params)
        if again is not None and again == again:
            if abs(again - evidence) > MEASURED_AGAIN * (1 + abs(evidence)):
                both = f"{again:.9g} at the fitted values, the loop {evidence:.9g}"
                notes = (*notes, f"the model itself gives log-likelihood {both}")
            evidence = again
    starts = tuple(Start(i, path.level, path.outcome, path.num_steps) for i, path in enumerate(paths))
    return Fit(
        params=params,
        log_likelihood=evidence,
        objective=evidence + prior,
        path=best.trail,
        num_steps=best.num_steps,
        outcome=best.outcome,
        converged=best.converged,
        gap=best.gap,
        starts=Starts(starts, reached[0], len(reached)),
        plan=replace(problem.plan, solvers=(), callables={}),  # what it says, without the data that solvers hold
        notes=notes,
        prepared=problem,
        acceleration=best.spent,
        switches=best.switches,
    )


def ranked(paths: Sequence[Path]) -> list[int]:
    """Order starts, best first: by objective, endings that are no maximum last."""
    return sorted(range(len(paths)), key=lambda i: (paths[i].outcome in BAD, -paths[i].level))


def _small(slope: Tensor, bound: float) -> bool:
    return not slope.numel() or float(slope.abs().max()) <= bound
