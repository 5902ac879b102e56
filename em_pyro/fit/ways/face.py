"""The face of a scale of zero: where a column is explained by factors to the end, EM moves their loadings no more.

Given a latent, all that is observed with a scale of zero is known, and least squares return the coefficients that were
there. The likelihood itself is smooth beside such a face. Newton's method climbs it with the scales lifted, to where
that is hardly seen, at first a little and then less; they are put back, and what is not higher there is not taken.

References: Joreskog (1967), section 4, on improper solutions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from ...program.named import Batch, batched, only
from ..problem import Problem
from ..verdict.around import Around
from ..verdict.ground import Ground, around_of, evaluated
from ..verdict.spreads import LITTLE, at_zero, growing, ways_up

MANY, DEAR = 200, 10_000_000  # coordinates, and entries of factors of one Hessian, up to which it is climbed
SEEN = (1e-2, 1e-4, 1e-6)  # nats that lifted scales may cost
STEP, ROUNDS = 1e-4, 4  # of differences of slopes, relative to the largest entry; and Hessians at one lift
FLAT = 1e-7  # relative curvature that is none
HALVED = tuple(0.5**k for k in range(8))  # parts of Newton's step
DOWN = 4  # tenths, at most, to which the scales are taken there
PART = 0.1  # of what is worth while: steps that gain less are the last


def top_of_face(problem: Problem, here: Batch, found: Expectation, worth: float) -> Batch | None:
    """Return the top of the face of scales that are zero, if that is higher; None where none are.

    Args:
        problem: the program.
        here: where EM has settled, one start.
        found: the E-step there.
        worth: nats, of a gain for which it is left.
    """
    around = around_of(problem, only(here))
    dear = around.size > MANY or 2 * around.size * evaluated(problem) > DEAR
    if not problem.scales.spreads or dear or problem.engine.open or not problem.rows.whole:
        return None
    ground, level = Ground(problem, around), float(found.objective)
    zero = at_zero(ground, level, closely=True)
    if not zero or len(zero) == around.size:
        return None
    those = growing(around, zero)
    best, highest = around, level
    for up in _lifts(ground, those):
        top = _climbed(Ground(problem, best.at(up)), those == 0, PART * worth)
        back = None if top is None else top.at(-up)
        if back is None or back.entries != around.entries or not (height := _height(Ground(problem, back))) > highest:
            continue
        gained, best, highest = height - highest, back, height
        if gained < worth:
            break
    if not highest > level + worth:
        return None
    alone = growing(around, [one for one in zero if around.domains[one[0]] == "positive"])  # roots have fewer digits
    down = -LITTLE * torch.arange(DOWN, dtype=torch.float64).unsqueeze(-1) * alone
    lowest = int(Ground(problem, best).heights(down).argmax())
    return batched(best.at(down[lowest]).params)


def _lifts(ground: Ground, those: Tensor) -> Iterator[Tensor]:
    """Ways up for scales, the longest first, that cost so little each."""
    ways, lost = ways_up(ground, those)
    last = -1
    for seen in SEEN:
        over = (lost > seen).nonzero().flatten()
        k = int(over[0]) - 1 if len(over) else len(ways) - 1
        if k != last:
            yield ways[k]
        last = k


def _climbed(ground: Ground, free: Tensor, least: float) -> Around | None:
    """Take Newton's steps along free coordinates while they gain something.

    None where there are no slopes, or where a number has reached its bound to the last digit: it has no coordinate.
    """
    level, moved = _height(ground), False
    for _ in range(ROUNDS):
        if ground.around.size != len(free):
            return None
        step = _newton(ground, free)
        if step is None:
            break
        heights = ground.heights(torch.tensor(HALVED, dtype=torch.float64).unsqueeze(-1) * step)
        most = int(heights.argmax())
        gain = float(heights[most]) - level
        if not gain > 0:
            break
        ground, level, moved = Ground(ground.problem, ground.around.at(HALVED[most] * step)), float(heights[most]), True
        if gain < least:
            break
    return ground.around if moved else None


def _newton(ground: Ground, free: Tensor) -> Tensor | None:
    """Newton's step by differences of slopes, along nothing that is flat; upwards where the objective is convex."""
    around, units = ground.around, _units(ground.around)
    each = torch.diag(units)[free]
    slopes = ground.slopes(torch.cat([torch.zeros((1, around.size), dtype=torch.float64), each, -each]))[:, free]
    if not bool(torch.isfinite(slopes).all()):
        return None
    slope, before, after = slopes.split([1, len(each), len(each)])
    bent = (after - before) / (2 * units[free].unsqueeze(-1))
    information = (bent + bent.mT) / 2
    curved = information.diagonal().abs()
    seen = curved * units[free].square()
    size = torch.where(seen > FLAT**2 * seen.max(), curved.rsqrt(), 0.0)  # what nothing depends on stays
    values, vectors = torch.linalg.eigh(information * size * size.unsqueeze(-1))
    along = (slope[0] * size) @ vectors
    step = torch.zeros(around.size, dtype=torch.float64)
    step[free] = size * (vectors @ torch.where(values.abs() > FLAT, along / values.abs().clamp(min=FLAT), 0.0))
    return step


def _units(around: Around) -> Tensor:
    """How far slopes are taken apart: a part of the largest entry of a parameter, or of a logarithm."""
    largest = {name: float(value.abs().max()) or 1.0 for name, value in around.params.items() if value.numel()}
    sizes = [1.0 if around.logarithmic(one) else largest[one[0]] for one in around.entries]
    return STEP * torch.tensor(sizes, dtype=torch.float64)


def _height(ground: Ground) -> float:
    return float(ground.heights(torch.zeros((1, ground.around.size), dtype=torch.float64)))
