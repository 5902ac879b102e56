"""What becomes of the numbers of a site before its two matrix products: where they lie, and in which groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...program.named import Named
from ...reading.reading import Lookup
from ...records.frozen import frozen


@dataclass(frozen=True)
class Layout:
    """How the named dimensions of a site's factor are laid out in its two matrix products."""

    batch: tuple[str, ...]  # of cells and columns both
    cells: tuple[str, ...]  # of the cells alone: rows of the matrix of natural parameters
    columns: tuple[str, ...]  # of the features alone
    folded: tuple[str, ...]  # folded plates along which the cells differ


@frozen
class Codes(Named):
    """The group of every row of a plate.

    Attributes:
        lookups: by argument, how they were found.
    """

    lookups: Mapping[str, Lookup] = field(default_factory=dict, repr=False)


def into_groups(part: Tensor, axis: int, codes: Tensor, count: int, rank: int) -> Tensor:
    """Put a dimension of groups behind `rank` others, zero but for the group of each row along `axis`."""
    own = codes.unsqueeze(-1) == torch.arange(count, device=codes.device)
    shape = [*(len(codes) if d == axis else 1 for d in range(rank)), count, *(1,) * (part.dim() - rank)]
    return torch.where(own.reshape(shape), part.unsqueeze(rank), 0.0)


def summed_by_group(part: Tensor, axis: int, codes: Tensor, count: int, rank: int) -> Tensor:
    """Put a dimension of groups behind `rank` others, the rows along `axis` summed, which is of size one then."""
    rows = part.movedim(axis, 0)
    found = rows.new_zeros((count, *rows.shape[1:])).index_add_(0, codes, rows)
    return found.movedim(0, rank - 1).unsqueeze(axis)


def precise(part: Tensor) -> Tensor:
    """Return numbers in float64, before anything is computed of them: a logarithm rounds to their own precision."""
    return part.double() if part.is_floating_point() else part
