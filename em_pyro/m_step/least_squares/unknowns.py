"""Location entries as the unknowns of one weighted least-squares problem, whatever the dimension of the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ...program.named import Params
from ...reading.predictor import Affine
from .equations import solve_equations


@dataclass(frozen=True)
class Unknowns:
    """All entries of some parameters, side by side."""

    names: tuple[str, ...]
    params: Params = field(repr=False)  # current values, those of other parameters too
    lead: int  # dimensions of starts

    @cached_property
    def start(self) -> Mapping[str, int]:
        """The first unknown of each parameter."""
        found, at = dict[str, int](), 0
        for name in self.names:
            found[name] = at
            at += self._size(name)
        return found

    @cached_property
    def count(self) -> int:
        """How many there are."""
        return sum(self._size(name) for name in self.names)

    @cached_property
    def at_zero(self) -> Params:
        """All parameters, with the unknowns at zero: a location is then what no unknown contributes to it."""
        return dict(self.params) | {name: torch.zeros_like(self.params[name]) for name in self.names}

    def design(self, affine: Affine, shape: tuple[int, ...]) -> Affine:
        """The part of a predictor that is linear in the unknowns, over cells of that shape."""
        at = torch.tensor([self.start[n] + i if n in self.start else -1 for n, i in affine.entries])
        return replace(affine.moved(at), offset=torch.zeros((), dtype=torch.float64).expand(shape))

    def equations(self) -> tuple[Tensor, Tensor]:
        """Normal equations that nothing has entered yet: shapes (starts, count, count) and (starts, count)."""
        starts, count = self._batch.numel(), self.count
        matrix = torch.zeros((starts, count, count), dtype=torch.float64)
        return matrix, torch.zeros((starts, count), dtype=torch.float64)

    def solve(self, matrix: Tensor, right: Tensor, pseudo: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Solve `matrix b = right`, to which priors add: `pseudo` holds precision times mean, and precision."""
        matrix = matrix.reshape((*self._batch, self.count, self.count))
        right = right.reshape((*self._batch, self.count))
        if pseudo:
            matrix, right = matrix.clone(), right.clone()
        for name, (total, precision) in pseudo.items():
            index = torch.arange(self.start[name], self.start[name] + total.numel())
            matrix[..., index, index] += precision.reshape(-1)
            right[..., index] += total.reshape(-1)
        return solve_equations(matrix, right, self.names, self.params, self.lead)

    def _size(self, name: str) -> int:
        return self.params[name].shape[self.lead :].numel()

    @property
    def _batch(self) -> torch.Size:
        return next(iter(self.params.values())).shape[: self.lead]
