"""Coordinates in which complete data have information one: no unit of a parameter matters there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from ...records.frozen import frozen
from .around import Entry
from .ground import Ground

COLLINEAR = 1e-11  # of the information in complete data, every entry in its own standard error
NOTHING = 1e-300  # information that is none


@frozen
class Whitened:
    """Coordinates in which complete data have information one.

    Attributes:
        basis: in columns, `(D, r)`.
        unseen: directions of which complete data know nothing, `(D, e)`.
        unit: the standard error of each coordinate by itself, `(D)`.
        off: coordinates that are left out, as columns.
    """

    basis: Tensor
    unseen: Tensor
    unit: Tensor
    off: Tensor

    def without(self, faint: Tensor) -> Whitened:
        """The same with some columns of the basis, of which complete data know as good as nothing, among the unseen."""
        moved = self.basis[:, faint]
        moved = moved / (moved / self.unit.unsqueeze(-1)).norm(dim=0)
        return replace(self, basis=self.basis[:, ~faint], unseen=torch.cat([self.unseen, moved], 1))


def whitened(ground: Ground, information: Tensor, off: Collection[Entry] = ()) -> Whitened:
    """Whiten by the information in complete data; directions without any are dropped first."""
    size = len(information)
    out = torch.tensor([entry in off for entry in ground.around.entries], dtype=torch.bool)
    kept = (~out).nonzero().flatten()
    inside = information[kept][:, kept]
    told = inside.diagonal() > NOTHING
    unit = torch.where(told, inside.diagonal().clamp(min=NOTHING), 1.0).rsqrt()
    alike = torch.where(told & told.unsqueeze(-1), inside * unit * unit.unsqueeze(-1), 0.0)
    values, vectors = torch.linalg.eigh(alike)
    seen = values > COLLINEAR
    basis = torch.zeros((size, int(seen.sum())), dtype=torch.float64)
    basis[kept] = unit.unsqueeze(-1) * vectors[:, seen] * values[seen].rsqrt()
    unseen = torch.zeros((size, int((~seen).sum())), dtype=torch.float64)
    unseen[kept] = unit.unsqueeze(-1) * vectors[:, ~seen]
    units = torch.ones(size, dtype=torch.float64)
    units[kept] = unit
    return Whitened(basis, unseen, units, torch.eye(size, dtype=torch.float64)[:, out])
