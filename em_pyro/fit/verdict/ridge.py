"""Directions of which complete data know nothing: flat ones, ridges that bend, and kinks.

Along `a * b` or `a^2 + b^2` that are held the objective is level, and straight ahead it is not: the ridge bends away. A
kink, or a top that is flat to fourth order, is told from it by climbing back at a right angle: only a ridge is there.

A way to infinity may bend, too: one factor of a product shrinks as another grows. It is looked at by pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product

import torch
from torch import Tensor

from .around import Around, Entry
from .ground import Ground

LEVEL = 1e-9  # relative to 1 + |objective|: a change that is none
LENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # standard errors of each entry: how far along a ridge it is looked
FURTHER = (1e3, 1e6, 1e8)  # likewise: who falls there on both sides was not level, as a part in 1e-12 is not
GONE = 100.0  # times a change that is none: what has to be lost straight ahead, so that to have it back says something
CHORDS, STEEP = 12, 1e-3  # steps back, and the least curvature by which they go, of that in complete data
AHEAD = 0.5  # of the way ahead, which is left after them
FAR = (0.1, 1.0, 4.0, 16.0)  # distances at which it may not fall
BACK = (-16.0, -32.0, -64.0)  # and by which logarithms of two that multiply one another it has to, at one of them
FALL = 0.05  # nats that are a fall
LOST = 4.0  # information on the way from zero, or on a logarithm, above which an estimate does not run off
GROWING, PAIRS = ("real", "positive"), 100  # domains of what may grow; pairs that are looked at


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
    lengths = torch.tensor([sign * length for length in FURTHER for sign in (1, -1)], dtype=torch.float64)
    points = (lengths[:, None, None] * directions.mT).reshape(-1, len(directions))
    lost = level - ground.heights(points).reshape(len(FURTHER), 2, -1)
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
    lost = (length for length in LENGTHS if bool((level - ground.heights(length * sides) > GONE * slack).all()))
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


# ---- ways to infinity ------------------------------------------------------------------------------------------------


def shrinking(ground: Ground, level: float, slack: float) -> dict[Entry, str]:
    """Parameters with a prior that shrink as others, which have none and multiply them, grow: the prior alone is left.

    Such a way bends: the one is multiplied by what divides the other. So it is looked at by pairs.
    """
    around, parameters = ground.around, ground.problem.program.parameters
    found, many = dict[Entry, str](), 0
    where = {name: [k for k, (n, _) in enumerate(around.entries) if n == name] for name in around.names}
    shrink = [n for n, own in where.items() if own and parameters[n].kind == "prior" and around.domains[n] == "real"]
    grow = [n for n, own in where.items() if own and parameters[n].kind == "param" and around.domains[n] in GROWING]
    for one, other in product(shrink, grow):
        if (many := many + 1) > PAIRS:
            break
        ways = [_multiplied(ground, {one: -far, other: far}, where) for far in (*FAR, *BACK)]
        if _holds(ground, ways, level, slack):
            found |= {around.entries[k]: "zero" for k in where[one]}
            found |= {around.entries[k]: "infinity" for k in where[other]}
    return found


def _multiplied(ground: Ground, factors: Mapping[str, float], where: Mapping[str, list[int]]) -> Tensor:
    """Coordinates `(D)` at which parameters are multiplied by the exponentials of these."""
    point = torch.zeros_like(ground.around.values)
    for name, factor in factors.items():
        values = ground.around.values[where[name]]
        point[where[name]] = factor if ground.around.domains[name] == "positive" else values * math.expm1(factor)
    return point


def multiplying(ground: Ground, level: float, slack: float, information: Tensor) -> dict[Entry, str]:
    """Positive entries that go to zero as real ones in the same place, which they multiply, grow: `a * (x - b)`.

    Where `x` says nothing, or the contrary of what a positive `a` can, `-a * b` alone is left. Each of them is held by
    the other, and both together by nothing.

    Args:
        ground: the objective around the fit.
        level: the objective there.
        slack: what is no fall.
        information: in complete data, `(D, D)`.
    """
    around, found = ground.around, dict[Entry, str]()
    for k, own in islice(_pairs(around), PAIRS):
        held = torch.zeros_like(around.values)
        held[k], held[own] = -1.0, around.values[own]
        if not float(held @ information @ held) < LOST:
            continue
        ways = []
        for far in (*FAR, *BACK):
            point = torch.zeros_like(around.values)
            point[k], point[own] = -far, around.values[own] * math.expm1(far)
            ways.append(point)
        if _holds(ground, ways, level, slack):
            found[around.entries[k]] = "zero"
            found |= {around.entries[j]: "infinity" if around.values[j] > 0 else "minus infinity" for j in own}
    return found


def _pairs(around: Around) -> Iterator[tuple[int, list[int]]]:
    """Yield every positive entry with the real entries of each parameter in its place, none of which is zero."""
    for k, (name, at) in enumerate(around.entries):
        if around.domains[name] != "positive":
            continue
        for other in around.names:
            if around.domains[other] == "real":
                own = [j for j, (n, place) in enumerate(around.entries) if n == other and place[: len(at)] == at]
                if own and bool((around.values[own] != 0).all()):
                    yield k, own


def _holds(ground: Ground, ways: Sequence[Tensor], level: float, slack: float) -> bool:
    """Whether the objective falls nowhere onwards, and somewhere on the way back."""
    onwards, back = ground.heights(torch.stack(list(ways))).split([len(FAR), len(BACK)])
    return bool((onwards >= level - slack).all() & (back < level - FALL).any())
