"""A location that is a parameter times a number of each row: a slope, and the number is its covariate.

Read as a selection it differs by row, and so its statistics would be kept by row; those of a regression add up.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...families.charts import CHARTS, domain_of
from ...program.program import Program
from ..bank import Bank, RoleMap
from ..predictor import Affine, Piece
from ..reading import Reading

ITSELF = next(chart for chart in CHARTS if chart.name == "itself")
ROUNDED = 1e-12  # relative: a number that several cells share may differ by as much between them


def of_slopes(reading: Reading, bank: Bank, program: Program) -> Reading:
    """Read a location that is an entry times a number of each row as affine; return any other reading as it is.

    Args:
        reading: of a site.
        bank: that it selects from.
        program: with the parameters.
    """
    role, scale = reading.roles.get("loc"), reading.roles.get("scale")
    if reading.family.linear is None or role is None or scale is None or role.coefficient is None or role.affine:
        return reading
    plate = max(reading.site.plates, key=lambda p: program.plates[p], default=None)
    if plate not in role.names or plate in scale.names:
        return reading
    d = role.names.index(plate)
    made = None if bool((role.index != role.index.narrow(d, 0, 1)).any()) else as_affine(role, bank, program)
    return reading if made is None else replace(reading, roles={**reading.roles, "loc": made})


def as_affine(role: RoleMap, bank: Bank, program: Program) -> RoleMap | None:
    """Return a selection as a predictor; None where it is not one of real parameters as they are."""
    touched = bank.touched(role, "real")
    if any(
        s.complement or s.chart.name != "itself" or domain_of(program.parameters[s.parameter].constraint) != "real"
        for s in touched
    ):
        return None
    ends = [(s.parameter, s.offset, s.offset + s.size) for s in touched]
    entries = tuple((name, k - first) for k in role.entries.tolist() for name, first, end in ends if first <= k < end)
    one = torch.ones(role.index.shape, dtype=torch.float64)
    index = narrowed(torch.where(role.index < 0, -1, torch.searchsorted(role.entries, role.index.contiguous())))
    times = narrowed(torch.where(role.index < 0, 0.0, one if role.coefficient is None else role.coefficient))
    offset = torch.zeros_like(one) if role.constant is None else role.constant.double()
    piece = Piece(index.unsqueeze(-1), times.unsqueeze(-1))
    affine = Affine(entries, narrowed(torch.where(role.index < 0, offset, 0.0)), (piece,), ITSELF)
    return RoleMap(role.names, torch.full((), -1).expand(affine.shape), affine=affine)


def narrowed(part: Tensor) -> Tensor:
    """Keep one of what is the same along a dimension, but for rounding."""
    for d in range(part.dim()):
        first = part.narrow(d, 0, 1)
        if part.shape[d] > 1 and bool(((part - first).abs() <= ROUNDED * first.abs()).all()):
            part = first
    return part
