"""What is looked at row by row, or run by the model itself: asked of all who hold rows, and put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...e_step import confirm
from ...errors import EMError
from ...posterior import possible
from ...posterior.posterior import posterior
from ...program.named import Params
from ..problem import Problem


def watched(problem: Problem, bar: Any) -> tuple[Problem, Callable[[int], Any] | None]:
    """Tell a bar of what is read of the rows; and return what it is to be told of steps, if these are counted."""
    if bar is None:
        return problem, None
    rows, tick = problem.rows.watched(bar.update)
    return replace(problem, rows=rows), tick


def check_possible(problem: Problem, params: Params, objective: float) -> None:
    """Refuse `params` from which no EM step is defined, by the `objective` there; see `posterior.possible`.

    Raises:
        DataError: some row is impossible under every state.
        ObjectiveError: the objective is not finite for another reason.
    """
    if possible.is_possible(objective):
        return
    errors = [error for error in problem.rows.gathered(_impossible(problem, params, objective)) if error is not None]
    raise errors[0]


def _impossible(problem: Problem, params: Params, objective: float) -> EMError | None:
    """Return the error of the first part that has an impossible row; of a lone part, whatever its error is."""
    last: EMError | None = None
    for k, engine in enumerate(problem.rows.parts(problem.engine)):
        here = objective
        if not problem.rows.whole:
            here = posterior(engine, params).log_evidence
        try:
            possible.check_possible(engine, params, here)
        except EMError as error:
            if problem.rows.whole:
                return error
            last = type(error)(f"Batch {k}: {error}")
            if here <= possible.IMPOSSIBLE:
                return last
    return last


def disagreements(problem: Problem, params: Params) -> list[str]:
    """List the sites at which the user's program at `params` is not what the loop ran, for any of the rows."""
    found = dict[str, None]()
    for engine in problem.rows.parts(problem.engine):
        found |= dict.fromkeys(confirm.disagreements(engine, params))
    return list(dict.fromkeys(name for names in problem.rows.gathered(list(found)) for name in names))


def measured(problem: Problem, params: Params) -> float | None:
    """Return the log evidence of all rows by the model's own `log_prob`; None where that is not affordable."""
    total: float | None = 0.0
    for engine in problem.rows.parts(problem.engine):
        part = confirm.measured(engine, params)
        if part is None:
            total = None
            break
        total = None if total is None else total + part
    every = problem.rows.gathered(total)
    return None if any(part is None for part in every) else sum(part for part in every if part is not None)
