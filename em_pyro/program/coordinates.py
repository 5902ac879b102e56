"""Parameters as one vector in unconstrained space: what gradients, extrapolations and disturbances move along."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import prod

import torch
from torch import Tensor
from torch.distributions import IndependentTransform, Transform, transform_to

from ..records.frozen import frozen
from .named import Params
from .program import Program

FAR = 40.0  # where an infinite coordinate (a boundary) is put for an optimiser, which needs finite numbers


def unconstrained(program: Program, name: str, value: Tensor) -> Tensor:
    """Return the point that the transform of the parameter's constraint carries onto `value`."""
    return transform_to(program.parameters[name].constraint).inv(value.double())


def constrained(program: Program, name: str, point: Tensor) -> Tensor:
    """Return the value of a parameter at an unconstrained point."""
    return transform_to(program.parameters[name].constraint)(point)


@frozen
class Coordinates:
    """Coordinates `u` of some parameters side by side, `theta = t(u)` by the transform of every constraint.

    Attributes:
        program: whose parameters they are.
        names: which of them, in the order of the vector.
    """

    program: Program
    names: tuple[str, ...]

    def points(self, params: Params) -> dict[str, Tensor]:
        """Return the coordinates of every parameter, infinite at a boundary."""
        return {name: self._transforms[name].inv(params[name].double()) for name in self.names}

    def vector(self, params: Params) -> Tensor:
        """Return all coordinates of `params` as one vector, shape `(D,)`."""
        return joined(self.points(params))

    def finite(self, params: Params) -> Tensor:
        """Return the vector with infinite coordinates put far out."""
        vector = self.vector(params).detach()
        return torch.where(torch.isfinite(vector), vector, vector.sign().nan_to_num() * FAR)

    def cut(self, vector: Tensor, near: Params) -> dict[str, Tensor]:
        """Cut a vector `(D,)` into one tensor for each parameter; their shapes are those of the points of `near`."""
        parts, at = {}, 0
        for name in self.names:
            onto, shape = self._transforms[name], near[name].shape
            if onto.codomain.event_dim:  # else entry by entry: for that torch imports its symbolic algebra
                shape = onto.inverse_shape(shape)
            size = prod(shape)
            parts[name] = vector[at : at + size].reshape(shape)
            at += size
        return parts

    def params(self, vector: Tensor, near: Params) -> dict[str, Tensor]:
        """Return the parameters at a vector `(D,)`; those that have no coordinate here are taken from `near`."""
        moved = {name: self._transforms[name](point) for name, point in self.cut(vector, near).items()}
        return {**near, **moved}

    @cached_property
    def _transforms(self) -> dict[str, Transform]:
        return {name: entrywise(transform_to(self.program.parameters[name].constraint)) for name in self.names}


def entrywise(transform: Transform) -> Transform:
    """Take off what only says that dimensions belong together: values are the same without."""
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return transform


def joined(points: Mapping[str, Tensor]) -> Tensor:
    """Join the coordinates of all parameters into one vector, shape `(D,)`."""
    parts = [point.reshape(-1) for point in points.values()]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
