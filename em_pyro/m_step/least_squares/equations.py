"""Normal equations of weighted least squares: all entries of some locations as the unknowns of one system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...program.named import Batch, connected
from ...reading.predictor import Affine, adjoint, gram, joined, together


@dataclass(frozen=True)
class Equations:
    """`X'WX b = X'W r` over the entries of `sizes`, side by side.

    Attributes:
        sizes: entries of each parameter.
        pseudo: of those with a prior, precision times mean of every entry, and the precision of every entry or the
            matrix of all.
        apart: sets of unknowns that meet no others, (sets, unknowns of each), those of a size together; none if all
            are one set.
    """

    sizes: Mapping[str, int]
    pseudo: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    apart: tuple[Tensor, ...] = field(default=(), repr=False)

    def of(self, designs: Iterable[Sequence[Affine]]) -> Equations:
        """The same, knowing which unknowns meet in the cells of these designs: a list for each site."""
        meetings = [row for one in designs for row in _meetings(one)]
        for name, (_, precision) in self.pseudo.items():
            if precision.dim() == 2:
                meetings.append(list(range(self.first[name], self.first[name] + self.sizes[name])))
        sets = connected(range(self.count), meetings)
        lengths = sorted({len(some) for some in sets})
        apart = tuple(torch.tensor([some for some in sets if len(some) == length]) for length in lengths)
        return replace(self, apart=apart if len(sets) > 1 else ())

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
        right = torch.where(reach, right, old)
        parts = [_scaled(*part) for part in self._taken_apart(matrix, right, reach)]
        finite = torch.isfinite(right).all(-1)
        for scaled, _, _ in parts:
            finite = finite & torch.isfinite(scaled).flatten(1).all(-1)
        solved = self._together([_solved(*part, finite[:, None, None]) for part in parts])
        solved = torch.where(finite.unsqueeze(-1), solved, old)
        pieces = solved.split(list(self.sizes.values()), -1)
        return {name: piece.reshape(batch[name].shape) for name, piece in zip(self.sizes, pieces, strict=True)}

    def _taken_apart(self, matrix: Tensor, right: Tensor, reach: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Equations of sets of one size: matrices (S, sets, n, n), right sides (S, sets, n), and what is reached."""
        if not self.apart:
            yield matrix.unsqueeze(1), right.unsqueeze(1), reach.unsqueeze(1)
        for sets in self.apart:
            yield matrix[:, sets.unsqueeze(-1), sets.unsqueeze(-2)], right[:, sets], reach[:, sets]

    def _together(self, solved: Sequence[Tensor]) -> Tensor:
        """All unknowns, (S, count), from those of the sets."""
        if not self.apart:
            return solved[0].squeeze(1)
        found = solved[0].new_empty((len(solved[0]), self.count))
        for sets, part in zip(self.apart, solved, strict=True):
            found[:, sets] = part
        return found


def _scaled(matrix: Tensor, right: Tensor, reach: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Equations with a diagonal of one, and by what they were multiplied; the identity where nothing is reached."""
    matrix = matrix + torch.diag_embed(torch.where(reach, 0.0, 1.0))
    scale = matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    return matrix * scale.unsqueeze(-1) * scale.unsqueeze(-2), right * scale, scale


def _solved(scaled: Tensor, right: Tensor, scale: Tensor, finite: Tensor) -> Tensor:
    """Solve each set by itself, (S, sets, n): zeros, which are no solution, for starts that are not finite."""
    scaled = torch.where(finite.unsqueeze(-1), scaled, 0.0)
    right = torch.where(finite, right, 0.0).unsqueeze(-1)
    driver = "gelsd" if not scaled.is_cuda else None
    return torch.linalg.lstsq(scaled, right, driver=driver).solution.squeeze(-1) * scale


def _meetings(designs: Sequence[Affine]) -> Iterator[list[int]]:
    """Sets of unknowns that meet in one cell of a site."""
    if len(designs) > 1:  # of the coordinates of vectors, which their precision joins
        pieces = [piece for design in designs for piece in design.pieces]
        yield sorted({i for piece in pieces for i in piece.index.unique().tolist() if i >= 0})
        return
    for row in together(designs[0]):
        yield [i for i in row if i >= 0]
