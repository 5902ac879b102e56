"""Information in units of standard errors given complete data."""

import torch
from torch import Tensor

from em_pyro.after.information.louis import SecondOrder


def unit_of(found: SecondOrder) -> Tensor:
    """Return standard errors given complete data, on a diagonal."""
    size = found.complete.diagonal()
    return torch.diag(torch.where(size > 0, size, 1.0).rsqrt())


def off(found: Tensor, wanted: Tensor, unit: Tensor) -> float:
    """Return how far two matrices are apart, in these units."""
    return float((unit @ (found - wanted) @ unit).abs().max())
