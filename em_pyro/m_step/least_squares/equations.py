"""Normal equations of weighted least squares: all entries of some locations as the unknowns of one system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...program.named import Batch
from ...reading.predictor import Affine, adjoint, gram, joined


@dataclass(frozen=True)
class Equations:
    """`X'WX b = X'W r` over the entries of `sizes`, side by side.

    Attributes:
        sizes: entries of each parameter.
        pseudo: of those with a prior, precision times mean of every entry, and the precision of every entry or the
            matrix of all.
    """

    sizes: Mapping[str, int]
    pseudo: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> dict[str, int]:
        """The first unknown of each parameter."""
        found, at = dict[str, int](), 0
        for name, size in self.sizes.items():
            found[name] = at
            at += size
        return found

    @property
    def count(self) -> int:
        """Number of unknowns."""
        return sum(self.sizes.values())

    def at_zero(self, batch: Batch) -> dict[str, Tensor]:
        """All parameters, with the unknowns at zero: a location is then what no unknown contributes to it."""
        return dict(batch) | {name: torch.zeros_like(batch[name]) for name in self.sizes}

    def entered(
        self, system: tuple[Tensor, Tensor] | None, designs: Sequence[Affine], pull: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add one site to the system of the others.

        Args:
            system: matrix (S, count, count) and right side (S, count); None for the first site.
            designs: one for each of the D coordinates of a value, or one for all of them together.
            pull: precision times weighted rest, shape (S, cells, D).
            weight: precision times weight, shape (S, cells, D, D).
        """
        dims = designs[0].offset.shape
        if system is None:
            right = pull.new_zeros((len(pull), self.count))
            system = right.new_zeros((len(pull), self.count, self.count)), right
        matrix, right = system
        if len(designs) < pull.shape[-1]:
            block, side = joined(designs[0], pull, weight, self.count)
            return matrix + block, right + side
        for i, one in enumerate(designs):
            right = right + adjoint(one, pull[..., i].reshape((-1, *dims)), self.count)
            for j, other in enumerate(designs[i:], i):
                block = gram(one, other, weight[..., i, j].reshape((-1, *dims)), self.count)
                matrix = matrix + (block if i == j else block + block.mT)
        return matrix, right

    def solve(self, matrix: Tensor, right: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Solve for all parameters; where the matrix is singular, by the smallest change.

        An entry that no weight reaches keeps its value, and so do all of a start whose equations are not finite: a
        scale has collapsed, and the loop will say so.
        """
        if self.pseudo:
            matrix, right = matrix.clone(), right.clone()
        for name, (total, precision) in self.pseudo.items():
            here = slice(self.first[name], self.first[name] + len(total))
            matrix[:, here, here] += precision if precision.dim() == 2 else precision.diag()
            right[:, here] += total
        old = torch.cat([batch[name].double().reshape((len(right), -1)) for name in self.sizes], -1)
        reach = matrix.diagonal(dim1=-2, dim2=-1) > 0
        matrix = matrix + torch.diag_embed(torch.where(reach, 0.0, 1.0))
        right = torch.where(reach, right, old)
        scale = matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        scaled = matrix * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        finite = torch.isfinite(scaled).flatten(1).all(-1) & torch.isfinite(right).all(-1)
        scaled = torch.where(finite[:, None, None], scaled, 0.0)
        right = torch.where(finite.unsqueeze(-1), right * scale, 0.0).unsqueeze(-1)
        driver = "gelsd" if not scaled.is_cuda else None
        solved = torch.linalg.lstsq(scaled, right, driver=driver).solution.squeeze(-1) * scale
        solved = torch.where(finite.unsqueeze(-1), solved, old)
        parts = solved.split(list(self.sizes.values()), -1)
        return {name: part.reshape(batch[name].shape) for name, part in zip(self.sizes, parts, strict=True)}
