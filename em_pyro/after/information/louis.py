"""Observed information without differences.

    I_obs = I_com - sum_i c_i Cov(s_i(z) | x_i)

is the information in complete data less what is lost with the states: one pass over the rows (`e_step/second/`). It is
exact wherever the parameters are, at a maximum or not, in the coordinates in which they are asked for.

References: Louis (1982); Oakes (1999).
"""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from ...e_step.second.directions import Directions
from ...e_step.shares import Collect
from ...errors import PlanError
from ...fit.problem import Problem
from ...fit.verdict.around import Around
from ...fit.verdict.ground import Ground, around_of
from ...program.named import Params, batched
from ...records.frozen import frozen


@frozen
class SecondOrder:
    """Information at one point along `r` directions, all `(r, r)`.

    Attributes:
        observed: minus the second derivative of log evidence plus log prior.
        complete: minus that of `Q`: information in complete data.
        squares: sum over rows of the outer products of their scores (OPG), of which the prior is no part; None where
            rows that no latent tells apart are summed before they are looked at.
    """

    observed: Tensor = field(repr=False)
    complete: Tensor = field(repr=False)
    squares: Tensor | None = field(repr=False)


def most_rows(problem: Problem) -> int:
    """Return how many rows the plate with most of them has, wherever they are."""
    engine = problem.engine.full
    sizes = (n * (problem.rows.times if plate == engine.plate else 1) for plate, n in engine.program.plates.items())
    return round(max(sizes, default=1))


def unserved(problem: Problem) -> str:
    """Say why second-order sums are not collected for a program; empty if they are.

    Where nothing is latent, they are all that is known of a direction, and do not say how many of their digits a
    function of the model's own has left: differences of slopes do.
    """
    if problem.engine.recognition.tabled and not problem.program.latents:
        return "its arguments are computed by the model itself, and nothing is latent"
    try:
        _ = problem.engine.states
    except PlanError as why:
        return str(why)
    return ""


def second_order(
    problem: Problem, params: Params, *, around: Around | None = None, basis: Tensor | None = None
) -> SecondOrder | None:
    """Return the observed information by Louis' formula, in one pass over the rows.

    Rows must be independent given the parameters, each with states of its own that are summed out one by one, and
    families must compute their densities: `unserved` says what else there is.

    Args:
        problem: the program.
        params: where; it need not be a maximum.
        around: coordinates around there; by default those of all parameters that move, by logarithms and logits.
        basis: directions in these, `(D, r)`; by default all.

    Returns:
        None if `unserved` gives a reason, there are more such sums than memory should hold, or torch has no second
        derivative of `Q`: then take differences of scores.
    """
    around = around_of(problem, params) if around is None else around
    basis = torch.eye(around.size, dtype=torch.float64) if basis is None else basis
    bound = problem.bind(batched(around.params))
    try:
        found = problem.expect(bound, collect=Collect(along=Directions(around.batch, basis)))
    except PlanError:
        return None
    complete = Ground(problem, around).curvature_of_q(found)
    if complete is None or found.second is None:
        return None
    complete = basis.mT @ complete @ basis
    return SecondOrder(complete - found.second.missing, complete, found.second.squares)
