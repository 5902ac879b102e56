"""Which locations are shared by cells whose precisions differ: they have no maximum apart from that of the scales."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ...e_step.sites.site_factor import SiteFactor
from ...program.named import unexpand
from ...reading.predictor import Affine, equation_by_equation, meeting, together
from ..uses import CONDITIONAL
from .arguments import Argument

Meetings = Mapping[tuple[str, int], set[Hashable]]
"""Parameter and entry (of vectors, row) of a location -> what of the scales it meets."""

Keys = tuple[list[Hashable], Tensor]
"""What flat cells are told apart by, each once, and which of them every cell has."""


def why_swept(
    factors: Sequence[SiteFactor],
    locs: Sequence[Argument],
    locations: Collection[str],
    scales: Collection[str],
    priors: Collection[str],
    bounds: Collection[str],
) -> str:
    """Say why the maximum of `locations` depends on the scales; empty if it does not.

    Args:
        factors: of all sites.
        locs: their locations.
        locations: parameters that are solved for.
        scales: parameters that enter a scale.
        priors: those of `locations` that have a prior.
        bounds: those that have bounds.
    """
    if not locations or not scales:
        return ""
    vectors = any(factor.family.event_dim for factor in factors)
    affine = any(loc.affine is not None for loc in locs)
    if vectors and affine and not _equation_by_equation(factors, locs, locations):
        return f"the coordinates of a mean have no design in common{CONDITIONAL}"
    if vectors and affine and bounds:
        return f'"{next(iter(bounds))}" has bounds and the covariance is free{CONDITIONAL}'
    if priors:
        return f'"{next(iter(priors))}" has a prior and the scale is free{CONDITIONAL}'
    met = meetings(factors, locs, _atoms)
    apart = any(len(keys) > 1 for (name, _), keys in met.items() if name in locations)
    if apart or (not vectors and _joined_apart(locs, met)):
        return f"a location is shared by cells whose scales differ{CONDITIONAL}"
    return ""


def differ(factors: Sequence[SiteFactor], locs: Sequence[Argument], names: Collection[str]) -> bool:
    """Tell whether some cells that select one location have different precisions, known factors among it."""
    return any(len(some) > 1 for (name, _), some in meetings(factors, locs, _precisions).items() if name in names)


def meetings(
    factors: Sequence[SiteFactor], locs: Sequence[Argument], keys_of: Callable[[SiteFactor], Keys]
) -> Meetings:
    """Tell which keys of flat cells each selected entry of a location meets; in a predictor of numbers, the scales."""
    met: dict[tuple[str, int], set[Hashable]] = {}
    for factor, loc in zip(factors, locs, strict=True):
        table, key = keys_of(factor) if loc.places else ([], None)
        for place in loc.places:
            assert key is not None
            pairs = torch.stack([place.where.entries, key[place.where.cells]], -1).unique(dim=0)
            for entry, which in pairs.tolist():
                met.setdefault((place.parameter, entry), set()).add(table[which])
        if loc.affine is not None and not factor.family.event_dim:
            for entry_of, scales in _met_in(loc.affine, _scale_index(factor)):
                met.setdefault(entry_of, set()).update(scales)
    return met


def _met_in(affine: Affine, scale_index: Tensor) -> Iterable[tuple[tuple[str, int], set[int]]]:
    scales = unexpand(scale_index)
    for piece in affine.pieces:
        for entry, found in meeting(piece.index, scales).items():
            yield affine.entries[entry], found


def _joined_apart(locs: Sequence[Argument], met: Meetings) -> bool:
    """Whether entries that meet in one predictor, and so are solved together, meet several scales."""
    groups: dict[tuple[str, int], set[Hashable]] = {}
    for affine in (loc.affine for loc in locs if loc.affine is not None):
        for row in together(affine):
            group = [affine.entries[j] for j in row if j >= 0]
            scales = set[Hashable]().union(*(met[entry] for entry in group))
            for entry in group:
                groups.setdefault(entry, set()).update(scales)
    return any(len(scales) > 1 for scales in groups.values())


def _equation_by_equation(factors: Sequence[SiteFactor], locs: Sequence[Argument], locations: Collection[str]) -> bool:
    """Whether no covariance matters to the coefficients of vectors: each in one site, one design for coordinates."""
    found = set[str]()
    for factor, loc in zip(factors, locs, strict=True):
        entries = () if loc.affine is None else loc.affine.entries
        own = {*(place.parameter for place in loc.places), *(name for name, _ in entries)}.intersection(locations)
        if own & found or not _by_itself(factor, loc, locations):
            return False
        found |= own
    return True


def _by_itself(factor: SiteFactor, loc: Argument, locations: Collection[str]) -> bool:
    """The same of one site."""
    if loc.affine is None or factor.roles["scale_tril"].known or not any(n in locations for n, _ in loc.affine.entries):
        return True
    if factor.family.roles["loc"].event_dim > factor.family.event_dim:
        return _lines_apart(factor)
    return equation_by_equation(loc.affine, unexpand(_scale_index(factor)))


def _lines_apart(factor: SiteFactor) -> bool:
    """Whether coordinates have the same covariates, coefficients of their own that meet alike, and one matrix.

    References:
        Zellner (1962), as for `equation_by_equation`.
    """
    affine = factor.roles["loc"].affine
    assert affine is not None
    (piece,) = affine.pieces
    index = piece.index.squeeze(-1)
    index = index[..., (index >= 0).flatten(0, -2).any(0)]  # covariates that some coefficient multiplies
    index = index.movedim(-2, 0).flatten(1)  # coordinates, cells and covariates
    found = [row.unique(return_inverse=True) for row in index]
    places = found[0][1]
    own = sum(len(entries) for entries, _ in found) == len(index.unique()) and bool((index >= 0).all())
    same = piece.value.numel() == 1 and all(torch.equal(others, places) for _, others in found)
    return own and same and _one_matrix(places, _scale_index(factor), index.shape[1])


def _one_matrix(places: Tensor, matrices: Tensor, width: int) -> bool:
    """Whether every coefficient meets one matrix, or one that is known."""
    each = matrices.reshape(-1).repeat_interleave(width // matrices.numel())
    return len(torch.stack([places, each]).unique(dim=1).mT) == len(places.unique())


def _scale_index(factor: SiteFactor) -> Tensor:
    """Which atom is the scale of each cell, minus one where it is known."""
    return factor.roles["scale_tril" if factor.family.event_dim else "scale"].index


def _atoms(factor: SiteFactor) -> Keys:
    """Tell flat cells apart by the entry that is their scale; known scales are alike."""
    atoms, key = _scale_index(factor).reshape(-1).unique(return_inverse=True)
    return atoms.tolist(), key


def _precisions(factor: SiteFactor) -> Keys:
    """Tell flat cells apart by their precisions; those of known matrices are taken to differ."""
    role, index = factor.roles["scale_tril" if factor.family.event_dim else "scale"], _scale_index(factor).reshape(-1)
    if factor.family.event_dim:
        atoms = torch.where(index < 0, -1 - torch.arange(len(index), device=index.device), index)
        return atoms.tolist(), torch.arange(len(index), device=index.device)
    one = torch.ones((), dtype=torch.float64)
    coefficients = [
        (one if part is None else part).to(index.device).expand(role.index.shape).reshape(-1)
        for part in (role.coefficient, role.constant)
    ]
    rows, key = torch.stack([index.double(), *coefficients], -1).unique(dim=0, return_inverse=True)
    return [tuple(row) for row in rows.tolist()], key
