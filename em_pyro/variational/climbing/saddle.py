"""The saddle test of laws: components with equal laws pass the stopping rule, and from beside them the bound climbs on.

As in EM, a disturbance is measured in nats: it costs the bound `size^2` for every row of data. Of laws that is exact:
at the end of a climb `q` maximises the bound for the posterior of the latents, and at another law the bound is lower by
its divergence from `q`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...fit.problem import Problem
from ...fit.saddle import CAP, LARGE, REST, SMALL, STAYING, STEPS, may_pass, observed_rows
from ...program.devices import seeded
from ..conjugate import Conjugate
from ..laws import AtLaws, bound_to
from .step import level, step


def leave_saddle(
    problem: Problem, laws: tuple[Conjugate, ...], here: AtLaws, bound: float, gap: float, seed: int
) -> AtLaws | None:
    """Disturb all laws and step on: return where that leads if higher, else None.

    There is a small disturbance, and where the laws neither climb from it nor come back a large one, both ways.

    Args:
        problem: of the E-step.
        laws: conjugate priors of all parameters.
        here: where the steps have settled.
        bound: its level.
        gap: the gain still to be expected without a disturbance.
        seed: of the disturbance.
    """
    margin, rows = max(10 * abs(gap), 1e-9 * (1 + abs(bound))), observed_rows(problem)
    for size in (SMALL, LARGE, -LARGE):
        moved = disturbed(here, size, rows, seed)
        higher, trail = _climb(problem, laws, moved, bound, margin)
        if higher is not None:
            return higher
        if size == SMALL and not _stays(problem, laws, here, trail):
            return None
    return None


def disturbed(here: AtLaws, size: float, rows: float, seed: int) -> AtLaws:
    """Move every hyperparameter at random, so far that the bound falls by about `size^2` a row; a sign is its way."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        noise = seeded(torch.randn, like.shape, generator=generator, dtype=torch.float64)
        return math.copysign(1.0, size) * noise.to(like)

    held = [(each, each.disturbed(law, size**2 * rows, draw)) for each, law in here.held]
    return bound_to(held, here.bank)


def _climb(
    problem: Problem, laws: tuple[Conjugate, ...], moved: AtLaws, bound: float, margin: float
) -> tuple[AtLaws | None, list[AtLaws]]:
    """Step on from disturbed laws while the gains grow, or shrink so slowly that they would pass the old bound.

    Returns:
        Where the bound has passed the old one, else None; and the laws on the way.
    """
    now, trail, path = moved, [moved], list[float]()
    for count in range(CAP):
        new, found = step(problem, laws, now, now.held)
        path.append(level(found, now))
        if not math.isfinite(path[-1]):
            break
        if path[-1] > bound + margin:
            return now, trail
        now = new
        trail.append(now)
        if count >= STEPS and not may_pass(path, bound, margin):
            break
    return None, trail


def _stays(problem: Problem, laws: tuple[Conjugate, ...], here: AtLaws, trail: Sequence[AtLaws]) -> bool:
    """Whether some law stays where it was put, neither climbing nor coming back: the second half of the way.

    Steps may still be on their way, by no more than the tolerance: what seems to stay is looked at beside where they
    lead without a disturbance.
    """
    if len(trail) < STEPS or not any(_staying(trail, [here] * len(trail))):
        return False
    calm = [here]
    while len(calm) < len(trail):
        calm.append(step(problem, laws, calm[-1], calm[-1].held)[0])
    return any(_staying(trail, calm))


def _staying(trail: Sequence[AtLaws], calm: Sequence[AtLaws]) -> list[bool]:
    """Of every law, whether it stays as far from a calm way as it was put from it, by the root of the divergence."""
    found = []
    for index, (each, _) in enumerate(trail[0].held):
        first, middle, last = (
            max(0.0, float(each.divergence(trail[k].held[index][1], calm[k].held[index][1]))) ** 0.5
            for k in (0, STEPS // 2, -1)
        )
        found.append(last > STAYING * middle and last > REST * first and math.isfinite(first))
    return found
