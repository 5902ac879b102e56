"""Normal equations of weighted least squares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...program.named import Params


def solve_equations(
    matrix: Tensor, right: Tensor, names: Sequence[str], params: Params, lead: int
) -> dict[str, Tensor]:
    """Solve `matrix b = right` for the entries of `names`, side by side; where it is singular, the smallest change.

    An entry that no weight reaches keeps its value, and so do all where the equations are not finite.
    """
    old = torch.cat([params[name].double().reshape((*right.shape[:-1], -1)) for name in names], -1)
    reach = matrix.diagonal(dim1=-2, dim2=-1) > 0
    matrix = matrix + torch.diag_embed(torch.where(reach, 0.0, 1.0))
    right = torch.where(reach, right, old)
    scale = matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    scaled = matrix * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    if not bool(torch.isfinite(scaled).all() & torch.isfinite(right).all()):
        return {name: params[name] for name in names}  # a scale has collapsed; the loop will say so
    driver = "gelsd" if not scaled.is_cuda else None
    flat = torch.linalg.lstsq(scaled, (right * scale).unsqueeze(-1), driver=driver).solution.squeeze(-1) * scale
    new, at = {}, 0
    for name in names:
        size = params[name].shape[lead:].numel()
        new[name] = flat[..., at : at + size].reshape(params[name].shape)
        at += size
    return new
