"""The multivariate normal whose location has lines for coordinates: regressions with a covariance in common."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .base import Args, Family, Role


class LinesNormal(Family):
    """Coordinates `x_e' loc_e`: with residuals `r`, linear in `(1, x_e x_f', x_e r_f, r r')`.

    References:
        Zellner (1962), An efficient method of estimating seemingly unrelated regressions. JASA 57.
    """

    summed = "1, x_e x_f', x_e y_f, y y'"
    solver = "multivariate_normal"
    event_dim = 1
    location: ClassVar[str | None] = "loc"
    roles = {"loc": Role("real", event_dim=2), "scale_tril": Role("scale_tril", event_dim=2)}

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        loc, tril = args["loc"], args["scale_tril"]
        unit = torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device)
        inverse = torch.linalg.solve_triangular(tril, unit, upper=False)
        precision = inverse.mT @ inverse
        linear = loc.unsqueeze(-1) * precision.unsqueeze(-2)  # (e, J, e)
        gram = -0.5 * linear.unsqueeze(-1) * loc.unsqueeze(-3).unsqueeze(-3)
        return -tril.diagonal(dim1=-2, dim2=-1).log().sum(-1), gram, linear, -0.5 * precision

    def shifted(self, statistics: tuple[Tensor, ...], by: Tensor) -> tuple[Tensor, ...]:
        n, gram, first, second = statistics
        moved = first - torch.einsum("...eifj,...fj->...eif", gram, by)
        before, after = (torch.einsum("...ei,...eif->...ef", by, part) for part in (first, moved))
        return n, gram, moved, second - before - after.mT


LINES = LinesNormal()
"""What a MultivariateNormal is where its location multiplies covariates by parameters."""
