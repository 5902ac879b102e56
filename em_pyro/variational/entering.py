"""Where a parameter enters the cells of a site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..e_step.sites.site_factor import SiteFactor
from ..m_step.pooling import Refused
from ..reading.bank import Bank


def places(argument: Any, name: str) -> list[Any]:
    """Return where a parameter is selected from."""
    return [place for place in argument.places if place.parameter == name]


def positions(name: str, key: str, factor: SiteFactor, bank: Bank) -> Tensor | None:
    """Tell which entry of a parameter every cell of an argument selects, -1 for none; None where no cell does."""
    role = factor.roles.get(key)
    if role is None or role.known or name not in factor.parameters:
        return None
    found = torch.full_like(role.index, -1)
    for segment in bank.of(factor.family.roles[key].domain):
        if segment.parameter == name:
            found = torch.where(segment.holds(role.index), role.index - segment.offset, found)
    return found if bool((found >= 0).any()) else None


def selected(values: Tensor, name: str, key: str, factor: SiteFactor, bank: Bank) -> Tensor | None:
    """Return what belongs to the entry that every cell selects, zero where it selects none."""
    at = positions(name, key, factor, bank)
    return None if at is None else torch.where(at < 0, 0.0, values.reshape(-1)[at.clamp(min=0)])


def scales_of(sites: Sequence[Any], means: tuple[str, int], scales: tuple[str, int]) -> Tensor:
    """Tell which scale every mean has, shape (means,): one of its own, or one that several share.

    Args:
        sites: all that they enter, as least squares have them.
        means: the parameter, and how many numbers or vectors it holds.
        scales: the same of the scales.

    Raises:
        Refused: a mean has two scales, or one of them meets something else.
    """
    (loc, many), (scale, size) = means, scales
    found = torch.arange(many) if many == size else torch.full((many,), -1)
    seen = torch.zeros(many, dtype=torch.bool)
    for site in sites:
        if site.loc.coefficient is not None or site.scale.coefficient is not None:
            raise Refused(f'at site "{site.name}" they are multiplied by known factors')
        at, of = (_entries(site, argument, name) for argument, name in ((site.loc, loc), (site.scale, scale)))
        if not torch.equal(at >= 0, of >= 0):
            raise Refused(f'at site "{site.name}" one of the two is without the other')
        at, of = at[at >= 0], of[of >= 0]
        before = torch.where(seen[at], found.to(of)[at], of)
        found = found.to(of).index_put((at,), of)
        seen = seen.to(of.device).index_fill(0, at, True)  # noqa: FBT003
        if not torch.equal(found[at], of) or not torch.equal(before, of):
            raise Refused(f'at site "{site.name}" a mean has more than one scale')
    if bool((found < 0).any()) or len(found.unique()) < size:
        raise Refused("some of them enter no site")
    return found


def _entries(site: Any, argument: Any, name: str) -> Tensor:
    """Which entry of a parameter every flat cell of an argument selects, -1 for none."""
    found = torch.full((site.scale.cells,), -1)
    for place in places(argument, name):
        if place.where.complement:
            raise Refused(f'at site "{site.name}" "{name}" enters as one less its value')
        found = found.to(place.where.cells).index_put((place.where.cells,), place.where.entries)
    return found


def known(factor: SiteFactor, key: str) -> Tensor:
    """Return an argument that no parameter enters."""
    constant = factor.roles[key].constant
    assert constant is not None
    return constant.double()
