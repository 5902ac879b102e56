"""Closed forms on trial: one M-step, after which the gradient of `Q` has to be zero at every one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from ...families.charts import domain_of
from ...program.named import Batch, Params, only
from ..endings import collapsed
from ..look import look
from ..path import start
from ..problem import Problem
from ..rows.everywhere import check_possible
from ..step import em_step

STATIONARY = 1e-7  # of the gradient of Q after a closed form, relative to the terms that Q adds up
DIGITS = 16 * torch.finfo(torch.float64).eps  # of a parameter, that a closed form may lose


def tried(problem: Problem, point: Params) -> tuple[Problem, tuple[str, ...], bool]:
    """Take one M-step from `point`, torch parameters held, and require that `Q` has no slope at every closed form.

    Returns:
        What is left of the closed forms, why others were withdrawn, and whether this start could tell.
    """
    closed = [n for n, line in problem.plan.lines.items() if line.closed_form]
    here = start(point).here
    if not closed:
        check_possible(problem, only(here), problem.objective(here))
        return problem, (), True
    try:
        new, found = em_step(_on_trial(problem), here)
    except (RuntimeError, ValueError):  # of torch: a matrix of nothing but NaN, where the data are impossible
        check_possible(problem, only(here), problem.objective(here))
        raise
    seen = look(problem, found, here, new)
    check_possible(problem, only(here), seen.objective[0])
    if not seen.stepped[0] or collapsed(problem, new):
        return problem, (), False  # the loop reports it as its ending
    slopes = problem.gradient(found, new, closed)
    size = 1 + problem.magnitude(found, new)
    wrong = [n for n in closed if not _small(_unit(problem, new, n) * slopes[n], STATIONARY * size)]
    if wrong:
        left = _beyond_rounding(problem, found, new, slopes, wrong)
        wrong = [n for n in wrong if not _small(_unit(problem, new, n) * left[n], STATIONARY * size)]
    if not wrong:
        return problem, (), True
    why = "its closed form left a gradient of Q that is not zero"
    without = problem.without(frozenset(wrong), frozenset(), why)
    return without, (f"closed forms of {wrong} withdrawn: {why}",), True


def _on_trial(problem: Problem) -> Problem:
    """The same by plain steps, with torch parameters held."""
    held = replace(problem, plan=problem.plan.held, expands=False)
    held.__dict__["scales"] = problem.scales  # of the same data: their spread is found once
    return held


def _beyond_rounding(
    problem: Problem, found: Expectation, new: Batch, slopes: Mapping[str, Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """Return what is left of slopes without what the last digits of the parameters make of them."""
    nudged = {**new, **{name: new[name] * (1 + DIGITS) for name in names}}
    others = problem.gradient(found, nudged, names)
    return {name: (slopes[name].abs() - (others[name] - slopes[name]).abs()).clamp(min=0.0) for name in names}


def _unit(problem: Problem, batch: Batch, name: str) -> Tensor:
    """Return what the coordinates of a parameter are measured in, at most one: real ones have the units of the data."""
    value, domain = batch[name].squeeze(0).double(), domain_of(problem.program.parameters[name].constraint)
    if domain not in ("real", "lower_cholesky", "positive_definite") or not value.numel():
        return torch.ones((), dtype=torch.float64)
    sizes = value.abs().nan_to_num(0.0, posinf=1.0)
    size = sizes.amax() if domain == "real" else sizes.amax(-1, keepdim=True)  # rows of a root have units of their own
    if domain == "positive_definite":
        size = sizes.diagonal(dim1=-2, dim2=-1).sqrt().unsqueeze(-1)
    size = torch.where(size > 0, size.clamp(max=1.0), 1.0)
    return size if domain == "real" else torch.where(torch.eye(value.shape[-1], dtype=torch.bool), 1.0, size)


def _small(slope: Tensor, bound: float) -> bool:
    return not slope.numel() or float(slope.abs().max()) <= bound
