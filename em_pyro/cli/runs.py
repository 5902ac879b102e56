"""Solve a problem of the command line, print what came out, and save it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
from torch import Tensor

from .. import EM, Fit, Plan
from ..records.frozen import frozen
from .problems import Params, Problem

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@frozen
class Run:
    """A problem solved: what was planned, what came out, and the parameters at every step, the start included.

    Where several starts were tried, `history` holds the answer alone.
    """

    plan: Plan
    fit: Fit
    history: tuple[Params, ...]


def solve(problem: Problem, *, starts: int | Mapping[str, Tensor] = 1, **options: Any) -> Run:
    """Plan and fit, in a param store of its own; `options` go to `EM`."""
    history: list[Params] = []

    def note(state: Any) -> None:
        history.append({name: value.detach().clone() for name, value in state.params.items()})

    with pyro.get_param_store().scope():
        em = EM(problem.model, starts=starts, callback=note, **options)
        plan = em.plan(*problem.args)
        note(em)
        if isinstance(starts, Mapping):
            history[0] = {**history[0], **starts}
        fit = em.fit(*problem.args)
    return Run(plan, fit, (fit.params,) if isinstance(starts, int) and starts > 1 else tuple(history))


def picture(path: Path, draw: Callable[[Axes], Axes]) -> None:
    """Draw into a figure of its own and save it; no window is opened and no backend chosen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    draw(figure.add_subplot())
    figure.savefig(path, dpi=150)


def answer(problem: Problem, fit: Fit) -> dict[str, Any]:
    """Return the parameters, the log-likelihood, how the fit ended, and each row's most likely component and its id."""
    found: dict[str, Any] = {
        "problem": problem.title,
        "params": {name: value.tolist() for name, value in fit.params.items()},
        "log_likelihood": fit.log_likelihood,
        "converged": fit.converged,
        "outcome": str(fit.outcome),
        "steps": fit.num_steps,
        "gap": fit.gap,
        "assignments": fit.posterior.marginal(problem.latent).argmax(-1).tolist(),
    }
    if problem.ids is not None:
        found["ids"] = list(problem.ids)
    return found
