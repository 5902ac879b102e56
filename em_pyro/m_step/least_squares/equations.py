"""Normal equations of weighted least squares: all entries of some locations as the unknowns of one system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ...program.named import Batch, connected
from ...reading.joined import BlockDiagonal, Joined
from ...reading.predictor import Affine, adjoint, gram, together
from ...records.frozen import frozen
from .arguments import Argument
from .bounds import Bounds, between

PIVOT = 1e-3  # of a matrix with a diagonal of one: with none lower, its Cholesky factor has the digits of any other

Design = Sequence[Affine] | Joined
"""Of a site: one predictor for each of the D coordinates of a value, or one for all of them together."""


@frozen
class Equations:
    """`X'WX d = X'W r` over the entries of `sizes`, side by side: by how much they move, `r` being what is left now.

    A solution of entries as they are would lose the digits of the matrix at their size, not at that of a step.

    Attributes:
        sizes: entries of each parameter.
        form: which of them may meet.
        pseudo: of those with a prior, precision times mean of every entry, and the precision of every entry or the
            matrix of all.
        bounds: of those that have some, the lower and the upper one of every entry.
    """

    sizes: Mapping[str, int]
    form: BlockDiagonal
    pseudo: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    bounds: Mapping[str, Bounds] = field(default_factory=dict, repr=False)

    @classmethod
    def over(
        cls,
        sizes: Mapping[str, int],
        pseudo: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        bounds: Mapping[str, Bounds] | None = None,
    ) -> Equations:
        """Equations in which all entries may meet."""
        return cls(sizes, BlockDiagonal.whole(sum(sizes.values())), pseudo or {}, bounds or {})

    def of(self, designs: Iterable[Sequence[Affine]]) -> Equations:
        """The same, knowing which unknowns meet in the cells of these designs: a list for each site."""
        meetings = [row for one in designs for row in _meetings(one)]
        for name, (_, precision) in self.pseudo.items():
            if precision.dim() == 2:
                meetings.append(list(range(self.first[name], self.first[name] + self.sizes[name])))
        return replace(self, form=BlockDiagonal.of(connected(range(self.count), meetings), self.count))

    @cached_property
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
        return self.form.size

    def design(self, loc: Argument) -> Design:
        """The part of the locations of a site that is linear in the unknowns."""
        designs = loc.designs(self.first)
        return Joined.of(designs[0], self.form) if len(designs) < prod(loc.unit) else designs

    def entered(
        self, system: tuple[Tensor, Tensor] | None, design: Design, pull: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add one site to the system of the others.

        Args:
            system: matrix (S, numbers of `form`) and right side (S, count); None for the first site.
            design: of the site.
            pull: precision times weighted rest, shape (S, cells, D).
            weight: precision times weight, shape (S, cells, D, D).
        """
        block, side = design(pull, weight) if isinstance(design, Joined) else self._by_pairs(design, pull, weight)
        return (block, side) if system is None else (system[0] + block, system[1] + side)

    def _by_pairs(self, designs: Sequence[Affine], pull: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Take every two coordinates of a value by themselves."""
        dims = designs[0].offset.shape
        right = pull.new_zeros((len(pull), self.count))
        matrix = right.new_zeros((len(pull), self.form.count))
        for i, one in enumerate(designs):
            right = right + adjoint(one, pull[..., i].reshape((-1, *dims)), self.count)
            for j, other in enumerate(designs[i:], i):
                block = gram(one, other, weight[..., i, j].reshape((-1, *dims)), self.count)
                matrix = matrix + self.form.taken(block if i == j else block + block.mT)
        return matrix, right

    def solve(self, matrix: Tensor, right: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Solve for all parameters, between their bounds; where the matrix is singular, by the smallest change.

        An entry that no weight reaches keeps its value, and so do all of a start whose equations are not finite: a
        scale has collapsed, and the loop will say so.
        """
        old = torch.cat([batch[name].double().reshape((len(right), -1)) for name in self.sizes], -1)
        if self.pseudo:
            matrix, right = matrix.clone(), right.clone()
        for name, (total, precision) in self.pseudo.items():
            here = torch.arange(self.first[name], self.first[name] + len(total))
            whole = precision.dim() == 2
            matrix[:, self.form.places(here, here) if whole else self.form.diagonal[here]] += precision
            right[:, here] += total - (old[:, here] @ precision if whole else old[:, here] * precision)
        reach = matrix[:, self.form.diagonal] > 0
        right = torch.where(reach, right, 0.0)
        blocks = zip(self.form.sets, self.form.blocks(matrix), strict=True)
        parts = [_scaled(block, right[:, sets], reach[:, sets]) for sets, block in blocks]
        finite = torch.isfinite(right).all(-1)
        for scaled, _, _ in parts:
            finite = finite & torch.isfinite(scaled).flatten(1).all(-1)
        solved = torch.empty_like(old)
        for sets, part in zip(self.form.sets, parts, strict=True):
            found = _solved(*part, finite[:, None, None])
            solved[:, sets] = (
                old[:, sets] + found if self._between is None else self._held(found, part, old[:, sets], sets)
            )
        solved = torch.where(finite.unsqueeze(-1), solved, old)
        pieces = solved.split(list(self.sizes.values()), -1)
        return {name: piece.reshape(batch[name].shape) for name, piece in zip(self.sizes, pieces, strict=True)}

    @cached_property
    def _between(self) -> Bounds | None:
        """Bounds of all unknowns; None if none has any."""
        if not self.bounds:
            return None
        low, high = (torch.full((self.count,), end, dtype=torch.float64) for end in (-torch.inf, torch.inf))
        for name, (lower, upper) in self.bounds.items():
            here = slice(self.first[name], self.first[name] + self.sizes[name])
            low[here], high[here] = lower, upper
        return low, high

    def _held(self, found: Tensor, part: tuple[Tensor, Tensor, Tensor], old: Tensor, sets: Tensor) -> Tensor:
        """The solution between bounds, of sets that move by `found` without: (S, sets, n)."""
        assert self._between is not None
        scaled, right, scale = part
        low, high = (end.to(scale.device)[sets] for end in self._between)
        size = found.shape[-1]
        within = ((low - old) / scale).reshape(-1, size), ((high - old) / scale).reshape(-1, size)
        flat = [one.reshape(-1, size) for one in (right, torch.zeros_like(old), found / scale)]
        inside = between(scaled.reshape(-1, size, size), flat[0], flat[1], flat[2], within).reshape(found.shape) * scale
        return (old + inside).maximum(low).minimum(high)  # exactly the bound, where it is one


def _scaled(matrix: Tensor, right: Tensor, reach: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Equations with a diagonal of one, and by what they were multiplied; the identity where nothing is reached."""
    matrix = matrix + torch.diag_embed(torch.where(reach, 0.0, 1.0))
    scale = matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    return matrix * scale.unsqueeze(-1) * scale.unsqueeze(-2), right * scale, scale


def _solved(scaled: Tensor, right: Tensor, scale: Tensor, finite: Tensor) -> Tensor:
    """Solve each set by itself, (S, sets, n): zeros, which are no solution, for starts that are not finite.

    By a Cholesky factor; by singular values where one of its pivots is low, so that the smallest solution is wanted.
    """
    scaled = torch.where(finite.unsqueeze(-1), scaled, 0.0)
    right = torch.where(finite, right, 0.0).unsqueeze(-1)
    root, info = torch.linalg.cholesky_ex(scaled)
    sound = (info == 0) & (root.diagonal(dim1=-2, dim2=-1).amin(-1) > PIVOT)
    found = torch.cholesky_solve(right, root)
    if not bool(sound.all()):
        driver = "gelsd" if not scaled.is_cuda else None
        least = torch.linalg.lstsq(scaled, right, driver=driver).solution
        found = torch.where(sound[..., None, None], found, least)
    return found.squeeze(-1) * scale


def _meetings(designs: Sequence[Affine]) -> Iterator[list[int]]:
    """Sets of unknowns that meet in one cell of a site."""
    if len(designs) > 1:  # of the coordinates of vectors, which their precision joins
        pieces = [piece for design in designs for piece in design.pieces]
        yield sorted({i for piece in pieces for i in piece.index.unique().tolist() if i >= 0})
        return
    for row in together(designs[0]):
        yield [i for i in row if i >= 0]
