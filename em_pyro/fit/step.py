"""The theorem, as one function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..e_step.expectation import Expectation
from ..m_step.ascent.ascend import Carried
from ..program.named import Batch
from .look import look
from .problem import Problem

HALVINGS = 20  # of a step of Newton's method: the share that is left is next to nothing
TOGETHER = 1 << 23  # bytes of what a batch holds at once: beyond the cache starts are faster alone


def em_step(problem: Problem, batch: Batch, memory: Carried | None = None) -> tuple[dict[str, Tensor], Expectation]:
    """Take one step of Expectation-Maximisation from every start of `batch` (starts are the first dimension).

    Where the sums have too few digits at the new parameters (a scale has shrunk, a location has moved far), the same
    posterior is summed once more around the new locations: the second pass of the two-pass formula for a variance.

    Args:
        problem: the program and its plan.
        batch: parameters theta, constrained.
        memory: what torch M-steps remember of those before: written to.

    Returns:
        The new parameters, NaN for a start from which there is no step; and what the E-step found at `batch`.
    """
    memory = {} if memory is None else memory
    before = dict(memory)
    new, found = em_pass(problem, batch, memory)
    blurred = look(problem, found, batch, new).blurred
    if any(blurred):
        memory.clear()
        memory.update(before)
        again, found = em_pass(problem, batch, memory, about=new)
        new = _chosen(blurred, again, new)
    return held_back(problem, batch, new, found), found


def em_pass(
    problem: Problem, batch: Batch, memory: Carried, about: Batch | None = None
) -> tuple[dict[str, Tensor], Expectation]:
    """Sum expected statistics once, around the locations at `batch` or at `about`, and maximise.

    With site factors `L_s(z_s; theta)` of the log-joint, and `log Z(theta)` their log-sum-product over the latents `z`:

        E-step.  W_s = d log Z / d L_s, the posterior of what site s depends on;  S_s = <W_s, T_s(x)>.
        M-step.  argmax_theta sum_s <S_s, eta_s(theta)> + log prior(theta).

    References: Dempster, Laird & Rubin (1977), section 2.
    """
    bound = problem.bind(batch)
    found = problem.expect(bound, None if about is None else problem.bind(about))
    found = found.with_prior(problem.log_prior(bound))
    return problem.maximise(found, batch, memory), found


def held_back(problem: Problem, batch: Batch, new: dict[str, Tensor], found: Expectation) -> dict[str, Tensor]:
    """Halve steps of Newton's method until the objective does not fall; other parameters stay at their maxima.

    The pass that tells is the next one, and is not taken again. With none of the steps left, `Q` has not fallen.
    """
    if not problem.plan.steps:
        return new
    floor, here = found.objective, dict(new)
    floor = floor - problem.slack * (1 + floor.abs())
    for halved in range(HALVINGS):
        if any(bool(here[name].isnan().any()) for name in problem.witness):  # no step; starts come here one by one
            break
        bound = problem.bind(here)
        height = problem.expect(bound).log_evidence + problem.log_prior(bound)
        fallen = (~(torch.isfinite(height) & (height >= floor))).tolist()
        if not any(fallen):
            break
        for step in problem.plan.steps:
            back = {n: batch[n] for n in step.parameters} if halved == HALVINGS - 1 else step.between(batch, here)
            here = here | _chosen(fallen, back, {n: here[n] for n in step.parameters})
    return here


def starts_at_once(problem: Problem) -> int:
    """Return how many starts may step as one batch; one where a step is more than closed forms and Newton."""
    engine = problem.engine
    if engine.open or any(line.how not in ("closed form", "Newton", "fixed") for line in problem.plan.lines.values()):
        return 1
    return max(1, TOGETHER // (8 * 4 * problem.widest))


def _chosen(which: Sequence[bool], these: Batch, others: Batch) -> dict[str, Tensor]:
    """Take some starts from `these`, the rest from `others`."""
    if all(which):
        return dict(these)
    rows = [row for row, chosen in enumerate(which) if chosen]
    index = torch.tensor(rows)
    return {n: value.index_copy(0, index.to(value.device), these[n][rows]) for n, value in others.items()}
