"""From a point in unconstrained space back to parameters, near others from which EM steps were taken."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...program.coordinates import Coordinates
from ...program.named import Params
from ..problem import Problem


def flown(problem: Problem, vector: Tensor, seen: Sequence[Params]) -> dict[str, Tensor]:
    """Return the parameters at a point that no EM step led to; what a user's own M-step returned last stands."""
    return unflatten(problem.coordinates, vector, seen) | {name: seen[-1][name] for name in problem.plan.callables}


def unflatten(coordinates: Coordinates, vector: Tensor, seen: Sequence[Params]) -> dict[str, Tensor]:
    """Return the parameters at a point, the others as in `seen[0]`.

    Entries that no step of the cycle has moved keep their value: where a transform cannot represent a boundary (a
    probability of zero), the way there and back would leave it.
    """
    first, *others = seen
    params = coordinates.params(vector, first)
    for name in coordinates.names if others else ():
        if coordinates.program.parameters[name].constraint.event_dim == 0:
            fixed = torch.stack([first[name] == other[name] for other in others]).all(0)
            params[name] = torch.where(fixed, first[name], params[name])
    return params
