"""Classification EM and stochastic EM: one switch between the posterior and the statistics.

References:
    Celeux, G. and Govaert, G. (1992). A classification EM algorithm for clustering and two stochastic versions.
    Computational Statistics and Data Analysis 14, 315-332.
    Celeux, G. and Diebolt, J. (1985). The SEM algorithm: a probabilistic teacher algorithm derived from the EM
    algorithm for the mixture problem. Computational Statistics Quarterly 2, 73-82.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ...errors import ObjectiveError
from ...m_step.ascent.ascend import Carried
from ...posterior.possible import is_possible
from ...program.named import Batch, Params, only
from ..loop import Settings, told
from ..path import Interrupted, Path, start
from ..problem import Problem
from ..rows.everywhere import check_possible
from ..stopping import is_small
from .states import Everywhere, assigned_everywhere, check_assignable

BURN_IN = 0.5  # of the steps, before draws are averaged


def follow_assigned(problem: Problem, points: Sequence[Params], settings: Settings) -> list[Path]:
    """Follow every start to its end.

    Raises:
        PlanError: the program has no discrete latents that can be put into states.
        ObjectiveError: the classification log-likelihood fell, or an objective is not finite at a start.
        DataError: an observation is impossible under every state at a start.
        Interrupted: with the path so far.
    """
    problem = replace(problem.of_all_rows, expands=False)
    check_assignable(problem)
    ends = list[Path]()
    for i, point in enumerate(points):
        path = start(point)._replace(e_step=settings.e_step)
        if settings.e_step == "hard":
            ends.append(classify(problem, path, settings))
        else:
            ends.append(sample(problem, path, settings, generator(settings.seed, i, problem.rows.holder)))
    return ends


def generator(seed: int, start: int, holder: int) -> torch.Generator:
    """Return what draws the states of a start: others for each who holds rows."""
    return torch.Generator().manual_seed(2**40 * holder + 1_000_003 * seed + start)


def classify(problem: Problem, path: Path, settings: Settings) -> Path:
    """Iterate classification EM until no latent changes its state.

        C-step.  z = argmax p(z | x, theta), all latents together.
        M-step.  argmax_theta log p(x, z | theta) + log prior.

    Each raises the classification log-likelihood `log p(x, z | theta)`, which with equal weights and scales is that of
    k-means, up to constants.
    """
    memory = dict[Any, Any]()
    before: tuple[bytes, ...] = ()
    try:
        while True:
            states = assigned_everywhere(problem, path.here)
            objective = float(states.found.log_evidence) + float(problem.log_prior(problem.bind(path.here)))
            if why := _lost(problem, path, objective):
                return path.ended("degenerate", why)
            path = path.reached(objective)
            if told(path, settings):
                return path.ended("stopped")
            gain = objective - path.before[-1] if path.before else float("inf")
            if settings.tol > 0 and states.seals == before and is_small(gain, objective, settings.tol):
                return path.estimated(0.0, small=True).ended("settled", "; ".join(states.empty))
            new = _maximised(problem, states, path.here, memory)
            if len(path.before) >= settings.max_steps:
                return path.ended("step limit")
            if new is None:
                return path.ended("degenerate", "these states leave no M-step")
            path, before = path.moved(new, {}), states.seals
    except KeyboardInterrupt as stopped:
        raise _interrupted(stopped, path) from None


def sample(problem: Problem, path: Path, settings: Settings, draws: torch.Generator) -> Path:
    """Iterate stochastic EM `max_steps` times, and end at the average of the second half.

        S-step.  z drawn from p(z | x, theta), all latents together.
        M-step.  argmax_theta log p(x, z | theta) + log prior.

    The parameters are a Markov chain around a maximum, and do not converge; their average after burn-in comes close to
    it where there are many rows. A draw that leaves no step, or no finite objective, is made again from where it was
    made. The path has the objective of EM at every point visited, and at the average.
    """
    total, kept, again = dict[str, Tensor](), 0, 0
    try:
        path = path.reached(problem.objective(path.here))
        check_possible(problem, path.params, path.level)
        for step in range(1, settings.max_steps + 1):
            states = assigned_everywhere(problem, path.here, draws)
            new = _maximised(problem, states, path.here, {})
            level = float("nan") if new is None else problem.objective(new)
            if new is None or not is_possible(level):
                new, level, again = path.here, path.level, again + 1
            path = path.moved(new, {}).reached(level)
            if step > BURN_IN * settings.max_steps:
                total = {name: value + total.get(name, 0.0) for name, value in new.items()}
                kept += 1
            if told(path, settings):
                return path.ended("stopped")
    except KeyboardInterrupt as stopped:
        raise _interrupted(stopped, path) from None
    note = f"{again} draws of the latents left no M-step, and were made again" if again else ""
    if not kept:
        return path.ended("step limit", note)
    mean = {name: value / kept for name, value in total.items()}
    return path.moved(mean, {}).reached(problem.objective(mean)).ended("averaged", note)


def _maximised(problem: Problem, states: Everywhere, here: Batch, memory: Carried) -> Batch | None:
    """The M-step given states; None where there is none."""
    new = problem.maximise(states.found, here, memory)
    return new if all(bool(torch.isfinite(value).all()) for value in new.values()) else None


def _lost(problem: Problem, path: Path, objective: float) -> str:
    """Say why a path has no objective here; empty if it has one.

    Raises:
        ObjectiveError: it fell.
    """
    if not path.before:
        check_possible(problem, only(path.here), objective)
        return ""
    if not isfinite(objective):
        return "the objective is no longer finite: a state is down to too few rows for its scale"
    if objective < path.before[-1] - problem.slack * (1 + abs(path.before[-1])):
        raise ObjectiveError(
            f"EM: expected the classification log-likelihood to rise, got {objective:.12g} after "
            f"{path.before[-1]:.12g} at step {len(path.before)}. An M-step of your own, or a density that is not what "
            f"the plan says, may be why."
        )
    return ""


def _interrupted(stopped: KeyboardInterrupt, path: Path) -> KeyboardInterrupt:
    """The interruption with the path so far, if there is one."""
    return stopped if isinstance(stopped, Interrupted) or not path.trail else Interrupted(path)
