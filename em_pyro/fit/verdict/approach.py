"""Towards the top by slopes alone, where there are so many rows that second derivatives are dear."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from .around import Entry
from .ground import Ground
from .whitened import whitened

TURNS = 6  # E-steps that are spent: fewer than a pass of second derivatives is worth
SLOW = 0.3  # what a turn may leave of the slope; where it leaves more, Newton's method is better
WELL = 0.7  # of the way that is no longer worth taking: what is to be left of it


def approached(
    ground: Ground, found: Expectation, information: Tensor, off: Collection[Entry], near: float
) -> tuple[Ground, Expectation, Tensor]:
    """Go towards the top by conjugate gradients, in coordinates in which complete data have information one.

    There the information in the observed data lies between one less the rate of EM, and one: a few products with it,
    each the difference of two slopes, are Newton's step where EM is not slow.

    Args:
        ground: the objective around a point.
        found: the E-step there.
        information: in complete data, `(D, D)`.
        off: entries that are not looked at.
        near: a way that is not worth taking, in standard errors given complete data.

    Returns:
        The same three around where that led, if it is no lower; else as they were.

    References:
        Hestenes and Stiefel (1952). Jamshidian and Jennrich (1993), for EM steps as the preconditioner.
    """
    basis = whitened(ground, information, off).basis
    left = ground.slope(found) @ basis
    at, along = torch.zeros_like(left), left
    for _ in range(TURNS):
        if not float(left.norm()) > WELL * near:
            break
        image = left - ground.slopes((basis @ (at + along)).unsqueeze(0))[0] @ basis
        curved = float(along @ image)
        if not curved > 0:
            break
        length = float(left @ left) / curved
        new = left - length * image
        at, share = at + length * along, float(new.norm() / left.norm())
        along, left = new + share**2 * along, new
        if not share < SLOW:
            break
    if not float(at.norm()) > near:
        return ground, found, information
    there = Ground(ground.problem, ground.around.at(basis @ at))
    new_found = there.found()
    new_information = there.curvature_of_q(new_found) if there.height(new_found) >= ground.height(found) else None
    if new_information is None or not bool(torch.isfinite(new_information).all()):
        return ground, found, information
    return there, new_found, new_information
