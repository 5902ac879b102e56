"""Whether the data determine every direction: by the information in the observed data beside that in complete data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .around import Entry
from .ground import FINE, ROUGH, Ground

COLLINEAR = 1e-11  # of the information in complete data, every entry in its own standard error
NOTHING = 1e-300  # information that is none
SUSPECT, FLAT = 1e-3, 1e-7  # information in the observed data, of that in complete data
LEVEL = 1e-9  # relative to 1 + |objective|: a change that is none
SETTLED = 1e-5  # a slope in standard errors at which curvature is believed
POLISHING = 4  # steps of Newton's method
NAMED = 0.1  # of the largest part of a direction: entries that are named


@dataclass(frozen=True)
class Flat:
    """Directions along which the objective does not change: how many, and the entries that move along them."""

    many: int
    entries: tuple[Entry, ...]


def flat(ground: Ground, information: Tensor, kept: Tensor) -> Flat | None:
    """Find the directions that are not identified locally; None if the slopes do not tell.

    In coordinates in which complete data have information one, the smallest eigenvalues of the observed information are
    looked at. At a point that is not quite the maximum those of a flat direction are off zero by as much as the slope
    is: where there are small ones, Newton's method goes to the top along all others first.

    Args:
        ground: the objective around the fit.
        information: in complete data, `(D, D)`.
        kept: coordinates `(k)` that are looked at; the others run off.
    """
    inside = information[kept][:, kept]
    size = inside.diagonal()
    told = size > NOTHING
    unit = torch.where(told, size.clamp(min=NOTHING), 1.0).rsqrt()
    alike = inside * unit * unit.unsqueeze(-1)
    alike = torch.where(told & told.unsqueeze(-1), alike, 0.0)
    values, vectors = torch.linalg.eigh(alike)
    seen = values > COLLINEAR
    basis = torch.zeros((len(information), int(seen.sum())), dtype=torch.float64)
    basis[kept] = unit.unsqueeze(-1) * vectors[:, seen] * values[seen].rsqrt()
    empty = torch.zeros((len(information), int((~seen).sum())), dtype=torch.float64)
    empty[kept] = unit.unsqueeze(-1) * vectors[:, ~seen]
    empty = empty[:, _level(ground, empty)]
    observed = _polished(ground, basis)
    if observed is None:
        return None
    values, vectors = torch.linalg.eigh(observed)
    directions = torch.cat([empty, basis @ vectors[:, values < FLAT]], 1)
    scale = torch.zeros(len(information), dtype=torch.float64)
    scale[kept] = 1 / unit
    return Flat(directions.shape[1], _moving(ground, directions * scale.unsqueeze(-1)))


def _level(ground: Ground, directions: Tensor) -> Tensor:
    """Which directions without curvature are flat, `(r)`: at a kink, as a Laplace density has one, `Q` has none too."""
    lengths = torch.tensor([0.0, 1e-3, -1e-3, 1.0, -1.0], dtype=torch.float64)
    points = (lengths[:, None, None] * directions.mT).reshape(-1, len(directions))
    heights = ground.heights(points).reshape(len(lengths), -1)
    return ((heights - heights[0]).abs() <= LEVEL * (1 + heights[0].abs())).all(0)


def _polished(ground: Ground, basis: Tensor) -> Tensor | None:
    """The observed information in a basis, at the top along the directions that are curved; None if that is not met."""
    at = torch.zeros(len(basis), dtype=torch.float64)
    if not basis.shape[1]:
        return torch.zeros((0, 0), dtype=torch.float64)
    observed = ground.information(at, basis, ROUGH)
    if float(torch.linalg.eigvalsh(observed.nan_to_num(0.0))[0]) >= SUSPECT:
        return observed
    observed = ground.information(at, basis, FINE)
    for _ in range(POLISHING):
        if not bool(torch.isfinite(observed).all()):
            return None
        values, vectors = torch.linalg.eigh(observed)
        if float(values[0]) >= SUSPECT:
            return observed
        slope = (ground.slopes(at.unsqueeze(0))[0] @ basis) @ vectors
        if float(slope.abs().max()) <= SETTLED:
            return observed
        at = at + basis @ (vectors @ torch.where(values >= SUSPECT, slope / values.clamp(min=SUSPECT), 0.0))
        observed = ground.information(at, basis, FINE)
    return None


def _moving(ground: Ground, directions: Tensor) -> tuple[Entry, ...]:
    """The entries that move along some directions."""
    if not directions.shape[1]:
        return ()
    part = directions.abs().amax(-1) / directions.abs().amax()
    return tuple(ground.around.entries[k] for k in (part >= NAMED).nonzero().flatten().tolist())
