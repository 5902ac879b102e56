"""Where slopes tell nothing: at kinks, where that of the objective jumps, and on plateaus, where it has none."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .around import Entry, named
from .ground import Ground

NEAR, NEARER = 1e-4, 1e-6  # standard errors given complete data: how far a slope is taken on both sides
JUMP = 1e-2  # of a slope, in these errors: one that is seen
STAYS = 0.5  # of the jump at the larger distance that there is at the smaller one: a smooth slope has a hundredth
ELSEWHERE = (0.0, 1.0, -1.0, 4.0, -4.0, 16.0, -16.0)  # values that are tried; of a positive number its logarithm
MOST = 50  # entries that are tried
NO_SLOPE, BESIDE = 1e-9, 0.01  # nats a unit; and how far beside, of an entry, the objective is level
LEVEL = 1e-12  # relative to 1 + |objective|: a change that is none


def kinks(ground: Ground, information: Tensor | None) -> list[Entry]:
    """Return the entries at which the objective has a kink, as `|x|` has one at zero: its slope falls at once.

    Args:
        ground: the objective around the fit.
        information: in complete data, `(D, D)`; None if there are no second derivatives.
    """
    torch_climbs = {name for name, line in ground.problem.plan.lines.items() if line.how in ("torch", "swept")}
    own = [k for k, (name, _) in enumerate(ground.around.entries) if name in torch_climbs]
    if not own:
        return []
    unit = ground.around.sizes.clamp(min=1.0)
    if information is not None:
        size = information.diagonal()
        unit = torch.where(size > 0, torch.minimum(size.clamp(min=1e-300).rsqrt(), unit), unit)
    each = torch.diag(unit)[own]
    jumps = []
    for far in (NEAR, NEARER):
        slopes = ground.slopes(torch.cat([-far * each, far * each]))
        slopes = slopes[:, own].reshape(2, len(own), len(own)).diagonal(dim1=1, dim2=2)
        jumps.append((slopes[0] - slopes[1]) * unit[own])
    at = (jumps[1] > JUMP) & (jumps[1] >= STAYS * jumps[0]) & torch.isfinite(jumps[1])
    return [ground.around.entries[own[k]] for k in at.nonzero().flatten().tolist()]


def higher_elsewhere(ground: Ground, level: float, slope: Tensor) -> tuple[float, str]:
    """Return by how many nats the objective is higher where an entry without any slope has another value, and where.

    A sigmoid of 800, a value beyond a clamp and the input of a rectifier below zero have no slope at all, and a fit
    that starts there stays there.

    Args:
        ground: the objective around the fit.
        level: the objective there.
        slope: its gradient, `(D)`.
    """
    around = ground.around
    still = [k for k, steep in enumerate(slope.tolist()) if abs(steep) <= NO_SLOPE]
    still = [k for k in still if around.domains[around.entries[k][0]] in ("real", "positive")]
    if not still or len(still) > MOST:
        return 0.0, ""
    steps = BESIDE * torch.diag(around.sizes.clamp(min=BESIDE))[still]
    beside = ground.heights(torch.cat([steps, -steps])).reshape(2, -1) - level
    flat = (beside.abs() <= LEVEL * (1 + abs(level))).all(0)
    moves = [
        (around.entries[k], value) for k, one in zip(still, flat.tolist(), strict=True) if one for value in ELSEWHERE
    ]
    moves = [(one, math.exp(value) if around.domains[one[0]] == "positive" else value) for one, value in moves]
    if not moves:
        return 0.0, ""
    rises = ground.with_entries(moves) - level
    most = int(rises.argmax())
    return float(rises[most]), f"{named([moves[most][0]])} = {moves[most][1]:.4g}"
