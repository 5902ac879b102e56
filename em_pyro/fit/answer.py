"""From starting values to the answer: certify closed forms, follow starts, measure the best on the user's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..e_step.confirm import disagreements, measured
from ..e_step.expectation import Expectation
from ..errors import DataError, ObjectiveError
from ..families.charts import domain_of
from ..posterior.possible import check_possible
from ..program.named import Batch, Params, batched, only
from .certificate import certify
from .endings import BAD, collapsed
from .look import look
from .loop import Settings
from .notes import cut_off, not_fitted
from .path import Path, start
from .problem import Problem
from .result import Fit, write_back
from .starting import restarts
from .starting.runs import SAME_MAXIMUM, Start, Starts, repeated
from .step import em_step

CERTIFIED = 1e-7  # of the gradient of Q after a closed form, relative to the terms that Q adds up
FAR = 700.0  # where an infinite logarithm is put if the model has no value at infinity: its exponential is still finite
DIGITS = 16 * torch.finfo(torch.float64).eps  # of a parameter, that a closed form may lose
CERTIFIED_ENDINGS = ("converged", "step limit")
MEASURED_AGAIN = 1e-8  # relative to 1 + |log evidence|: rounding between the loop and the model itself


def follow(
    problem: Problem, points: Sequence[Params], settings: Settings, *, screen: bool
) -> tuple[Problem, list[Path]]:
    """Follow all different starts to their ends; withdraw from the plan what the certificates refute, and go on.

    Returns:
        The problem with what is left of its plan, and the ends of all starts, in order.

    Raises:
        DataError: an observation is impossible at every start.
        ObjectiveError: an objective fell, or is not finite at any start.
        Interrupted: with the best start so far.
    """
    repeats = repeated(points)
    every, points = len(points), [point for i, point in enumerate(points) if i not in repeats]
    few = f"{every} starts, only {len(points)} of them different: the others begin at the same values, and count once"
    notes = (*cut_off(problem.engine), *((few,) if len(points) <= min(2, every - 1) else ()))
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
    while wrong := disagreements(problem.engine, paths[best := ranked(paths)[0]].params):
        if not _finite(paths[best].params):
            paths[best] = _brought_in(paths[best])
            continue
        problem, note = problem.corrected(wrong)
        notes = (*notes, note)
        screened = {i: path for i, path in enumerate(paths) if path.outcome == "screened out"}
        again = [path.params for i, path in enumerate(paths) if i not in screened]
        rest = iter(restarts.follow(problem, again, settings, screen=False))
        paths = [screened[i] if i in screened else next(rest) for i in range(len(paths))]
    paths[best] = _with_a_value(problem, paths[best])
    ended = iter(path._replace(notes=(*notes, *path.notes)) for path in paths)
    found: list[Path] = []
    for i in range(every):
        found.append(found[repeats[i]]._replace(repeats=repeats[i]) if i in repeats else next(ended))
    return problem, found


def certified(problem: Problem, point: Params) -> tuple[Problem, tuple[str, ...], bool]:
    """Take one M-step from `point`, torch parameters held, and require that `Q` has no slope at every closed form.

    Returns:
        What is left of the closed forms, why others were withdrawn, and whether this start could tell.
    """
    closed = [n for n, line in problem.plan.lines.items() if line.closed_form]
    here = start(point).here
    if not closed:
        check_possible(problem.engine, only(here), problem.objective(here))
        return problem, (), True
    try:
        new, found = em_step(replace(problem, plan=problem.plan.held), here)
    except (RuntimeError, ValueError):  # of torch: a matrix of nothing but NaN, where the data are impossible
        check_possible(problem.engine, only(here), problem.objective(here))
        raise
    seen = look(problem, found, here, new)
    check_possible(problem.engine, only(here), seen.objective[0])
    if not seen.stepped[0] or collapsed(problem, new):
        return problem, (), False  # the loop reports it as its ending
    slopes = problem.gradient(found, new, closed)
    size = 1 + problem.magnitude(found, new)
    wrong = [n for n in closed if not _small(_unit(problem, new, n) * slopes[n], CERTIFIED * size)]
    if wrong:
        left = _beyond_rounding(problem, found, new, slopes, wrong)
        wrong = [n for n in wrong if not _small(_unit(problem, new, n) * left[n], CERTIFIED * size)]
    if not wrong:
        return problem, (), True
    why = "its closed form left a gradient of Q that is not zero"
    without = problem.without(frozenset(wrong), frozenset(), why)
    return without, (f"closed forms of {wrong} withdrawn: {why}",), True


def _beyond_rounding(
    problem: Problem, found: Expectation, new: Batch, slopes: Mapping[str, Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """Return what is left of slopes without what the last digits of the parameters make of them."""
    nudged = {**new, **{name: new[name] * (1 + DIGITS) for name in names}}
    others = problem.gradient(found, nudged, names)
    return {name: (slopes[name].abs() - (others[name] - slopes[name]).abs()).clamp(min=0.0) for name in names}


def _unit(problem: Problem, batch: Batch, name: str) -> Tensor:
    """Return what the coordinates of a parameter are measured in, at most one: real ones have the units of the data."""
    value, domain = only(batch)[name].double(), domain_of(problem.program.parameters[name].constraint)
    if domain not in ("real", "lower_cholesky", "positive_definite") or not value.numel():
        return torch.ones((), dtype=torch.float64)
    size = value.abs().nan_to_num(0.0, posinf=1.0).amax().clamp(max=1.0)
    size = size.sqrt() if domain == "positive_definite" else size
    size = torch.where(size > 0, size, 1.0)
    return size if domain == "real" else torch.where(torch.eye(value.shape[-1], dtype=torch.bool), 1.0, size)


def answer(problem: Problem, paths: Sequence[Path], *, tol: float, measure: bool = True) -> Fit:
    """Rank the ends of all starts; look closer at the best, and measure it on the user's program, if `measure`."""
    top = paths[ranked(paths)[0]]
    level = top.level - SAME_MAXIMUM * (1 + abs(top.level))
    same = (path.level >= level and path.outcome == top.outcome and path.repeats is None for path in paths)
    reached = [i for i, found in enumerate(same) if found]
    best = paths[reached[0]]  # of equals the first, whose labels are the user's
    params = write_back(problem, best.params)
    bound = problem.bind(batched({name: value.double() for name, value in params.items()}))
    evidence, prior = (float(part) for part in (problem.expect(bound).log_evidence, problem.log_prior(bound)))
    best = best._replace(notes=(*not_fitted(problem.engine), *best.notes))
    if measure and best.outcome in CERTIFIED_ENDINGS:
        best = confirmed(problem, best, tol)
    if measure and all(p.initial.dtype == torch.float64 for p in problem.program.parameters.values()):
        again = measured(problem.engine, params)
        if again is not None and again == again:
            if abs(again - evidence) > MEASURED_AGAIN * (1 + abs(evidence)):
                both = f"{again:.9g} at the fitted values, the loop {evidence:.9g}"
                best = best.doubted(f"the model itself gives log-likelihood {both}")
            evidence = again
    ends = [best if i == reached[0] else path for i, path in enumerate(paths)]
    starts = tuple(Start(i, p.level, p.outcome, p.num_steps, p.repeats) for i, p in enumerate(ends))
    return Fit(
        fitted=params,
        log_likelihood=evidence,
        objective=evidence + prior,
        path=best.trail,
        num_steps=best.num_steps,
        outcome=best.outcome,
        converged=best.converged,
        gap=best.gap,
        starts=Starts(starts, reached[0], len(reached)),
        plan=replace(problem.plan, solvers=(), callables={}),  # what it says, without the data that solvers hold
        notes=best.notes,
        prepared=problem,
        acceleration=best.spent,
        switches=best.switches,
    )


def confirmed(problem: Problem, path: Path, tol: float) -> Path:
    """Look closer at the end of a path: note what is found, and doubt one whose slope is not that of a maximum."""
    seen = certify(problem, path.params, settled=path.converged)
    path = path._replace(notes=(*path.notes, *seen.notes))
    if path.converged and tol > 0 and not seen.confirms(path.level, tol):
        return path.doubted(f"the slope is not zero: it promises {seen.gain:.3g} nats to the next step")
    return path


def ranked(paths: Sequence[Path]) -> list[int]:
    """Order starts, best first: by objective, endings that are no maximum last."""
    return sorted(range(len(paths)), key=lambda i: (paths[i].outcome in BAD, -paths[i].level))


def _finite(params: Params) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in params.values())


def _with_a_value(problem: Problem, path: Path) -> Path:
    """Bring in what is infinite where the model itself, which has a limit there, gives no number."""
    if _finite(path.params):
        return path
    value = measured(problem.engine, path.params)
    return path if value is None or value == value else _brought_in(path)


def _brought_in(path: Path) -> Path:
    """Put infinite values so far out that nothing depends on it: a model may have a limit there, and no value."""
    here = batched({name: value.nan_to_num(posinf=FAR, neginf=-FAR) for name, value in path.params.items()})
    return path._replace(here=here, last=here)


def _small(slope: Tensor, bound: float) -> bool:
    return not slope.numel() or float(slope.abs().max()) <= bound
