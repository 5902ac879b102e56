"""Digits of the objective: by how much the last ones of the parameters move it, and which parameters these are.

Far out a density may be the difference of large numbers. What it gives there is rounding, and what rounding leads to is
no maximum, even where the difference has become an exact zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...program.named import Batch, only
from ..problem import Problem
from .around import Around, Entry, named
from .ground import Ground

LAST = 8 * torch.finfo(torch.float64).eps  # of a parameter, relative: its last digits
NEIGHBOURS, FEW, MOST = 8, 2, 60  # at which it is asked what these are worth; where it is dear; entries to be named
FAR_OUT = math.log(1e6)  # logarithms from where a number has started: the way there is looked at
WAY, BESIDE = 12, (1 - 3e-14, 1 + 3e-14)  # points on that way, and neighbours of each
ROUNDING = 1e-13  # of a height, whatever it is the difference of
PART = 0.01  # of a fall, that its own neighbours show
NAMED = 0.1  # of the largest: entries that are named


def noise(ground: Ground, allowed: float, *, few: bool) -> tuple[float, str]:
    """Return by how much the objective differs at neighbours of the parameters, and which entries it is that move it.

    Args:
        ground: the objective around the fit.
        allowed: nats that need no name.
        few: whether evaluations are dear.
    """
    around = ground.around
    if not around.size:
        return 0.0, ""
    generator, many = torch.Generator().manual_seed(0), FEW if few else NEIGHBOURS
    nudges = torch.randn((1 + many, around.size), generator=generator, dtype=torch.float64)
    nudges[0] = 0.0
    found = _range(ground.heights(LAST * around.sizes * nudges))
    if found > allowed:
        return found, named(_movers(ground))
    if few:
        return found, ""
    far = [entry for entry in around.entries if _moved(ground, entry) > FAR_OUT]
    lost = [(entry, nats) for entry in far[:MOST] if (nats := _on_the_way(ground, entry)) > allowed]
    if lost:
        return max(nats for _, nats in lost), named([entry for entry, _ in lost])
    return found, ""


def has_lost_digits(problem: Problem, here: Batch, fall: float) -> bool:
    """Tell whether the last digits of all parameters move the objective at one start by a part of a fall that is seen.

    Sums of known families have their digits, or say so: what the model itself computes is asked, predictors, whose
    terms may be far larger than what they add up to, and scales of Gaussian latents, beside which what is subtracted
    has as few as they are small.
    """
    if not (problem.engine.written or problem.scales.spreads or problem.scales.predicted):
        return False
    around = Around(problem.program, problem.plan.free, {n: v.double() for n, v in only(here).items()})
    return noise(Ground(problem, around), math.inf, few=True)[0] > PART * fall


def _range(heights: Tensor) -> float:
    heights = heights[torch.isfinite(heights)]
    return float(heights.max() - heights.min()) if len(heights) else 0.0


def _movers(ground: Ground) -> Sequence[Entry]:
    """The entries whose own last digits move the objective most; all that may, where they are many."""
    around = ground.around
    if around.size > MOST:
        return around.entries
    steps = LAST * torch.tensor([0.0, 1.0, -1.0, 2.0, -2.0], dtype=torch.float64)
    points = (steps[:, None, None] * torch.diag(around.sizes)).reshape(-1, around.size)
    heights = ground.heights(points).reshape(len(steps), -1)
    ranges = torch.tensor([_range(heights[:, k]) for k in range(around.size)], dtype=torch.float64)
    return [around.entries[k] for k in (ranges >= NAMED * ranges.max()).nonzero().flatten().tolist()]


def _moved(ground: Ground, entry: Entry) -> float:
    """How far, in logarithms, a positive number has moved from where the program states it."""
    name, at = entry
    if ground.around.domains[name] != "positive":
        return 0.0
    value, start = float(ground.around.params[name][at]), float(ground.problem.program.parameters[name].initial[at])
    if value == start:
        return 0.0
    ends = 0.0 in (value, start) or math.inf in (value, start)
    return math.inf if ends else abs(math.log(value) - math.log(start))


def _on_the_way(ground: Ground, entry: Entry) -> float:
    """Return by how much neighbours of the objective are out of line on the way to where an entry has gone."""
    name, at = entry
    value, start = float(ground.around.params[name][at]), float(ground.problem.program.parameters[name].initial[at])
    last, first = (math.log(min(max(x, 1e-300), 1e300)) for x in (value, start))  # either may be zero, or have run off
    lost = 0.0
    for k in range(1, WAY + 1):
        there = math.exp(first + k / WAY * (last - first))
        heights = ground.with_entries([(entry, there * beside) for beside in (1.0, *BESIDE)])
        own = ROUNDING * float(heights.abs().nan_to_num(posinf=0.0).max())  # of a height that is far below
        lost = max(lost, found) if (found := _bent(heights)) > own else lost
    return lost


def _bent(heights: Tensor) -> float:
    """How far a height is from the middle between those on either side: what is steep there, and smooth, is not."""
    here, below, above = heights.tolist()
    bent = (below + above) / 2 - here
    return abs(bent) if math.isfinite(bent) else 0.0
