"""Directions in which parameters move, and derivatives along them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

import torch
from torch import Tensor

from ...program.named import Batch
from ...reading.bound import Bound
from ...records.frozen import frozen

TOGETHER = 1 << 22  # numbers that are differentiated at once


@frozen
class Directions:
    """Directions around one point, in coordinates of the parameters.

    Attributes:
        batch: parameters at coordinates `(starts, D)`, starts first; differentiable, the point at zero.
        basis: `(D, r)`, a direction each column.
    """

    batch: Callable[[Tensor], Batch] = field(repr=False)
    basis: Tensor = field(repr=False)

    @property
    def count(self) -> int:
        """Number of directions `r`."""
        return self.basis.shape[1]

    def derivative(self, bind: Callable[[Batch], Bound], of: Callable[[Bound], Tensor]) -> Tensor:
        """Return the derivative of `of`, which gives starts first, along every direction: `(r, ...)`."""
        size = of(bind(self.batch(self.basis.new_zeros((1, len(self.basis)))))).numel()
        split = self.basis.mT.split(max(1, TOGETHER // max(size, 1)))
        return torch.cat([_derivative(self.batch, bind, of, some) for some in split])


@torch.enable_grad()
def _derivative(
    batch: Callable[[Tensor], Batch],
    bind: Callable[[Batch], Bound],
    of: Callable[[Bound], Tensor],
    directions: Tensor,
) -> Tensor:
    """Each direction has a start of its own; `J u` is the derivative of `v -> v' J` along `u`: two passes for all."""
    at = torch.zeros_like(directions).requires_grad_()
    value = of(bind(batch(at)))
    if not value.requires_grad:
        return value.new_zeros((len(directions), *value.shape[1:]))
    seed = torch.zeros_like(value).requires_grad_()
    # Sums, since torch would import its symbolic algebra to look at `grad_outputs`.
    (slope,) = torch.autograd.grad((value * seed).sum(), at, create_graph=True)
    (found,) = torch.autograd.grad((slope * directions).sum(), seed)
    return found.detach().to_dense()  # torch gives the gradient of some look-ups as a sparse one
