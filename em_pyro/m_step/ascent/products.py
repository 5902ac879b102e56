"""Products of a Hessian with several vectors: backward passes side by side, where torch knows how to."""

from __future__ import annotations

import contextlib
import warnings

import torch
from torch import Tensor

FEW = 100  # directions that are faster one by one than torch imports the symbolic algebra that it wants for a batch
SIDE_BY_SIDE = 1 << 20  # entries of what is differentiated, those of all backward passes that go together


def products(slope: Tensor, leaf: Tensor, directions: Tensor, entries: int) -> Tensor:
    """Differentiate a gradient again, along every one of some directions.

    Args:
        slope: the gradient, with its graph; shape of `leaf`.
        leaf: what it is differentiated by.
        directions: one more dimension in front.
        entries: how many numbers one backward pass keeps, roughly.

    Raises:
        RuntimeError: torch cannot differentiate twice.
    """
    if not slope.requires_grad or not len(directions):
        return torch.zeros_like(directions)
    together = max(1, SIDE_BY_SIDE // max(1, entries))
    return torch.cat([_some(slope, leaf, some) for some in directions.split(together)])


def _some(slope: Tensor, leaf: Tensor, directions: Tensor) -> Tensor:
    if len(directions) > FEW:
        with contextlib.suppress(RuntimeError, UserWarning), warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns where it would loop
            return _backward(slope, leaf, directions, together=True)
    return torch.stack([_backward(slope, leaf, direction, together=False) for direction in directions])


def _backward(slope: Tensor, leaf: Tensor, directions: Tensor, *, together: bool) -> Tensor:
    """Differentiate along one direction, or `together` along each of several."""
    if together:
        (found,) = torch.autograd.grad(
            slope, leaf, directions, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    else:  # a sum, since `grad_outputs` too would be looked at by the symbolic algebra
        (found,) = torch.autograd.grad((slope * directions).sum(), leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(directions) if found is None else found
