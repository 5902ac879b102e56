"""Kinks: where the slope of the objective jumps, it tells nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from .around import Entry
from .ground import Ground

NEAR, NEARER = 1e-4, 1e-6  # standard errors given complete data: how far a slope is taken on both sides
JUMP = 1e-2  # of a slope, in these errors: one that is seen
STAYS = 0.5  # of the jump at the larger distance that there is at the smaller one: a smooth slope has a hundredth


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
