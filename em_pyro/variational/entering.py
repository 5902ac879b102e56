"""Where a parameter enters the cells of a site."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..e_step.sites.site_factor import SiteFactor
from ..reading.bank import Bank


def places(argument: Any, name: str) -> list[Any]:
    """Where a parameter is selected from."""
    return [place for place in argument.places if place.parameter == name]


def positions(name: str, key: str, factor: SiteFactor, bank: Bank) -> Tensor | None:
    """Which entry of a parameter every cell of an argument selects, -1 for none; None where no cell does."""
    role = factor.roles.get(key)
    if role is None or role.known or name not in factor.parameters:
        return None
    found = torch.full_like(role.index, -1)
    for segment in bank.of(factor.family.roles[key].domain):
        if segment.parameter == name:
            found = torch.where(segment.holds(role.index), role.index - segment.offset, found)
    return found if bool((found >= 0).any()) else None


def selected(values: Tensor, name: str, key: str, factor: SiteFactor, bank: Bank) -> Tensor | None:
    """Of every cell what belongs to the entry that it selects, zero where it selects none."""
    at = positions(name, key, factor, bank)
    return None if at is None else torch.where(at < 0, 0.0, values.reshape(-1)[at.clamp(min=0)])


def known(factor: SiteFactor, key: str) -> Tensor:
    """An argument that no parameter enters."""
    constant = factor.roles[key].constant
    assert constant is not None
    return constant.double()
