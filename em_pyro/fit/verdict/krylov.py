"""The smallest curvatures of a program with many coordinates, without all its second derivatives."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from .around import Entry
from .ground import ROUGH, STEP, Ground
from .peak import Peak
from .ridge import level_ones
from .whitened import whitened

PRODUCTS = 24  # of the information with a direction, two E-steps each
CLOSED = 1e-8  # what is left of a direction that its space contains already


def glimpse(ground: Ground, found: Expectation, information: Tensor, off: Collection[Entry]) -> Peak:
    """Look at the curvature in a space that contains, nearly, the directions with the smallest and the largest.

    The space is that of the products of the information with a random direction, in coordinates in which complete data
    have information one: the smallest eigenvalue there is no less than the smallest of all, and soon no more.

    References:
        Lanczos (1950), with every direction made orthogonal to all before.
    """
    white = whitened(ground, information, off)
    generator = torch.Generator().manual_seed(0)
    size = white.basis.shape[1]
    space, images = list[Tensor](), list[Tensor]()
    direction = torch.randn(size, generator=generator, dtype=torch.float64)
    for _ in range(min(PRODUCTS, size)):
        for _ in range(2):  # once more, since what is left has lost digits
            for other in space:
                direction = direction - (direction @ other) * other
        length = float(direction.norm())
        if length < CLOSED:
            break
        space.append(direction / length)
        ahead = STEP * white.basis @ space[-1]
        slopes = ground.slopes(torch.stack([step * ahead for step in ROUGH])) @ white.basis
        weights = torch.tensor([*ROUGH.values()], dtype=torch.float64)
        direction = -(weights.unsqueeze(-1) * slopes).sum(0) / STEP
        images.append(direction)
    basis = torch.stack(space, -1) if space else torch.zeros((size, 0), dtype=torch.float64)
    products = basis.mT @ torch.stack(images, -1) if images else torch.zeros((0, 0), dtype=torch.float64)
    slope = ground.slope(found) @ white.basis @ basis
    level = level_ones(ground, white.unseen, white.basis @ basis, products, white.unit)
    flat, kinks, symmetric = white.unseen[:, level], white.unseen[:, ~level], (products + products.mT) / 2
    height = ground.height(found)
    return Peak(ground, white.basis @ basis, white.unit, flat, kinks, white.off, symmetric, slope, 0.0, height)
