"""Directions of which complete data know nothing: flat ones, ridges that bend, and kinks.

Along `a * b` or `a^2 + b^2` that are held the objective is level, and straight ahead it is not: the ridge bends away. A
kink, or a top that is flat to fourth order, is told from it by climbing back at a right angle: only a ridge is there.
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from .ground import Ground

LEVEL = 1e-9  # relative to 1 + |objective|: a change that is none
LENGTHS = (
    0.03,
    0.1,
    0.3,
    1.0,
    3.0,
    10.0,
)  # standard errors of each entry by itself: how far along a ridge it is looked
FAR, FALL = (1e3, 1e6, 1e8), 0.05  # likewise, and nats: who loses these there was not level, as a part in 1e-12 is not
LOST = 100.0  # times a change that is none: what has to be lost straight ahead, so that to have it back says something
CHORDS, STEEP = 12, 1e-3  # steps back, and the least curvature by which they go, of that in complete data
AHEAD = 0.5  # of the way ahead, which is left after them


def level_ones(ground: Ground, directions: Tensor, basis: Tensor, observed: Tensor, unit: Tensor) -> Tensor:
    """Tell which directions without curvature in complete data are flat, straight on or along a ridge, `(e)`.

    Args:
        ground: the objective around the fit.
        directions: in columns, `(D, e)`.
        basis: coordinates in which complete data have information one, `(D, r)`.
        observed: the information in the observed data in that basis, `(r, r)`.
        unit: the standard error of each coordinate by itself, `(D)`.
    """
    if not directions.shape[1]:
        return torch.zeros(0, dtype=torch.bool)
    lengths = torch.tensor([0.0, 1e-3, -1e-3, 1.0, -1.0], dtype=torch.float64)
    points = (lengths[:, None, None] * directions.mT).reshape(-1, len(directions))
    heights = ground.heights(points).reshape(len(lengths), -1)
    level = ((heights - heights[0]).abs() <= LEVEL * (1 + heights[0].abs())).all(0)
    level[level.clone()] = ~_falls(ground, directions[:, level], heights[0, level])
    values, vectors = torch.linalg.eigh((observed + observed.mT) / 2)
    back = basis @ vectors * torch.where(values >= STEEP, values.clamp(min=STEEP).rsqrt(), 0.0)
    for k in (~level).nonzero().flatten().tolist():
        level[k] = is_ridge(ground, directions[:, k], back, unit, float(heights[0, k]))
    return level


def _falls(ground: Ground, directions: Tensor, level: Tensor) -> Tensor:
    """Tell along which of the directions `(D, e)` the objective falls far out, on both sides, `(e)`.

    Where covariates lie far from zero a level and a slope are all but exchanged, and complete data know a part of the
    difference that rounding hides. What falls on one side alone is a plateau.
    """
    lengths = torch.tensor([sign * length for length in FAR for sign in (1, -1)], dtype=torch.float64)
    points = (lengths[:, None, None] * directions.mT).reshape(-1, len(directions))
    lost = level - ground.heights(points).reshape(len(FAR), 2, -1)
    return (torch.isfinite(lost) & (lost > FALL)).all(1).any(0)


def is_ridge(ground: Ground, ahead: Tensor, back: Tensor, unit: Tensor, level: float) -> bool:
    """Tell whether the objective is level along a curve that leaves along `ahead (D)`, on both sides.

    Args:
        ground: the objective around the fit.
        ahead: where the curve leaves to.
        back: `back @ back.T` times a slope is the step that climbs back onto the curve, `(D, r)`.
        unit: by which coordinates are compared, `(D)`.
        level: the objective at the fit.
    """
    slack, sides = LEVEL * (1 + abs(level)), torch.stack([ahead, -ahead])
    lost = (length for length in LENGTHS if bool((level - ground.heights(length * sides) > LOST * slack).all()))
    for many in (1, None):  # most ridges are seen at the first length; where there is none, the others go side by side
        pairs = [length * sides for length in islice(lost, many)]
        if not pairs:
            break
        points = torch.cat(pairs)
        there = _climbed_back(ground, points, back)
        found = (there @ (ahead / unit**2)).abs() >= AHEAD * (points @ (ahead / unit**2)).abs()
        found[found.clone()] = ground.heights(there[found]) >= level - slack
        if bool(found.reshape(-1, 2).all(-1).any()):
            return True
    return False


def _climbed_back(ground: Ground, points: Tensor, back: Tensor) -> Tensor:
    """Climb from `points (M, D)` back onto a curve, from both sides of each length in turn; NaN outside the numbers."""
    there = points
    for _ in range(CHORDS):
        inside = torch.isfinite(there).all(-1)
        inside[inside.clone()] = torch.isfinite(ground.heights(there[inside]))
        if not bool(inside.any()):  # torch that refuses one of them refuses all
            if len(points) == 2:
                return torch.full_like(points, torch.nan)
            return torch.cat([_climbed_back(ground, pair, back) for pair in points.split(2)])
        step = torch.full_like(there, torch.nan)
        step[inside] = ground.slopes(there[inside]) @ back @ back.mT
        there = there + step
    return there
