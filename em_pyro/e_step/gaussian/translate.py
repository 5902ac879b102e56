"""Latents whose mean could as well be part of the parameters: random effects beside the fixed ones.

EM moves a fixed effect slowly where the latents around it can take what it lacks. In the model in which the latents may
have a mean `nu` as well, their M-step is at once: `nu` is the mean of what is expected of them, their covariance is
around it, and `nu` then goes to the parameters that move all else as it does. No iterate has a lower likelihood for
that. Reference: Liu, Rubin and Wu (1998), Parameter expansion to accelerate EM, Biometrika 85.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .rows import Rows

ENTRIES, CELLS = 64, 1 << 22  # of the parameters; of the rows: beyond, nothing is looked for
SAME = 1e-9  # of the terms of a cell


@dataclass(frozen=True)
class Translation:
    """What a mean of latents is to the parameters.

    Attributes:
        site: of the latents.
        moves: by parameter, how much every entry moves with each coordinate of the mean, (coordinates, entries).
    """

    site: str
    moves: dict[str, Tensor] = field(repr=False)


def translations(sites: Sequence[Rows], count: int, sizes: Mapping[str, int]) -> tuple[Translation, ...]:
    """Find the latents whose translation is one of the parameters.

    Args:
        sites: all sites that latents enter.
        count: entries of all latents.
        sizes: entries of every parameter that may be moved.
    """
    found = []
    for own in sites:
        coordinate = _coordinates(own, count)
        if coordinate is not None:
            moves = _moves(own, [rows for rows in sites if rows is not own], coordinate, sizes)
            if moves is not None:
                found.append(Translation(own.site, moves))
    return tuple(found)


def _coordinates(own: Rows, count: int) -> Tensor | None:
    """Which coordinate of the law of a site every latent entry is, -1 for none; None if it is no law around zero."""
    _, rows, size = own.layout.sizes
    width = own.which.shape[1]
    plain = own.count == 0 and len(own.index) == 1 and own.weight is None and own.log_factors is None
    if not plain or own.constants[-1] is not None or width != size or bool((own.which < 0).any()):
        return None
    if size > 1 and not own.joint:
        return None
    slopes = [slot[-1] for slot in own.slopes]
    if any(s is None or s.shape[:2] != (1, 1) for s in slopes):
        return None
    matrix = torch.stack([s.expand((1, 1, size))[0, 0] for s in slopes if s is not None])
    order = matrix.argmax(1)  # the coordinate that every slot is
    if not torch.equal(matrix[order.argsort()], torch.eye(size, dtype=matrix.dtype)):
        return None
    found = torch.full((count,), -1)
    found[own.which.reshape(-1)] = order.repeat(rows)
    return found


def _moves(own: Rows, others: Sequence[Rows], coordinate: Tensor, sizes: Mapping[str, int]) -> dict[str, Tensor] | None:
    """How the parameters move with the mean; None if none of them do what it does."""
    names = sorted({name for rows in others for name, _ in rows.entries if name in sizes})
    first, at = {}, 0
    for name in names:
        first[name] = at
        at += sizes[name]
    if not 0 < at <= ENTRIES:
        return None
    design, pull = [], []
    for rows in others:
        made = _equations(rows, coordinate, own.layout.sizes[2], first, at)
        if made is None:
            return None
        design.append(made[0])
        pull.append(made[1])
    x, t = torch.cat(design), -torch.cat(pull)  # what a mean adds to residuals, the parameters take away
    largest = x.abs().amax(0, keepdim=True)
    unit = torch.where(largest > 0, largest, 1.0)  # of every entry its own: what is small has a direction too
    solved = torch.linalg.lstsq(x / unit, t, driver="gelsd").solution / unit.mT
    terms = x.abs() @ solved.abs() + t.abs()  # of every cell by itself: units may be small
    if bool(((x @ solved - t).abs() > SAME * terms).any()) or not bool(t.any()):
        return None
    return {name: solved[first[name] : first[name] + sizes[name]].mT.contiguous() for name in names}


def _equations(
    rows: Rows, coordinate: Tensor, size: int, first: dict[str, int], entries: int
) -> tuple[Tensor, Tensor] | None:
    """Covariates by all entries, and slopes by the coordinates of the mean, a row a cell; None if they are no sum."""
    shape = rows.layout.sizes
    cells = shape[0] * shape[1] * shape[2]
    if cells > CELLS:
        return None
    padded = torch.cat([coordinate, torch.full((1,), -1)])
    mine = padded[rows.which]  # (rows, slots)
    pull = torch.zeros((*shape, size + 1), dtype=torch.float64)
    for f, slot in enumerate(rows.slopes):
        at = torch.where(mine[:, f] < 0, size, mine[:, f]).reshape((1, -1, 1, 1)).expand((*shape, 1))
        if bool((mine[:, f] >= 0).any()):
            if any(part is not None for part in slot[:-1]):
                return None
            slope = slot[-1]
            if slope is not None:
                pull.scatter_add_(-1, at, slope.expand(shape).unsqueeze(-1))
    where = torch.tensor([first[name] + i if name in first else entries for name, i in rows.entries] + [entries])
    design = torch.zeros((*shape, entries + 1), dtype=torch.float64)
    index = rows.index[rows.cells[..., 0]] if rows.joint else rows.index[rows.cells]
    for j, part in enumerate(rows.constants[:-1]):
        if part is not None:
            at = where[index[..., j]].expand(shape).unsqueeze(-1)
            design.scatter_add_(-1, at, part.expand(shape).unsqueeze(-1))
    return design[..., :entries].reshape((cells, -1)), pull[..., :size].reshape((cells, -1))
