"""The numbers by row among what a model was called with, and which of them some others are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import EMError
from ...program.data.passed import tensor_of
from ...program.data.rows_of import named_columns
from ...program.program import Program
from ...records.frozen import frozen

FIRST = 64  # rows that are compared first
ROUNDED = 1e-11  # of the largest number of a column

FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.clone, torch.log, torch.square, lambda x: x**3, torch.reciprocal, torch.sqrt, torch.exp, torch.log1p,
)  # fmt: skip
"""What models do with a column most often, first of all nothing."""

Path = tuple[Any, ...]
"""Where an argument stands: its position or name, and then what leads into it."""


class NoColumn(Exception):
    """Something differs by row that is no column of the arguments."""


@dataclass(frozen=True)
class Column:
    """`plus + times * function(column)`.

    Attributes:
        path: of the argument; empty where all rows have the same number.
        at: which of its columns.
        function: of the column, by its place among `FUNCTIONS`.
    """

    path: Path
    at: int
    function: int
    times: float
    plus: float

    def of(self, table: Table) -> Tensor:
        """Take it from the arguments of a call.

        Raises:
            NoColumn: these have none there.
        """
        if not self.path:
            return torch.full((table.rows,), self.plus, dtype=torch.float64)
        part = table.parts.get(self.path)
        if part is None or self.at >= part.shape[1]:
            raise NoColumn
        found = FUNCTIONS[self.function](part[:, self.at])
        return found if (self.times, self.plus) == (1.0, 0.0) else self.plus + self.times * found


@frozen
class Table:
    """The numbers by row among the arguments of a call.

    Attributes:
        parts: of every argument that has them, (rows, columns).
        rows: how many there are.
    """

    parts: Mapping[Path, Tensor] = field(repr=False)
    rows: int

    @classmethod
    def of(cls, program: Program, rows: int) -> Table:
        """Lay out the arguments of a program that have a dimension of so many rows."""
        leaves = _leaves({**dict(enumerate(program.args)), **program.kwargs}, ())
        return cls({path: part for path, value in leaves if (part := _by_row(value, rows)) is not None}, rows)

    def find(self, wanted: Tensor) -> Column:
        """Find the column that some numbers, one by row, are.

        Raises:
            NoColumn: none is.
        """
        wanted = wanted.double()
        low, high = int(wanted.argmin()), int(wanted.argmax())
        if wanted[low] == wanted[high]:
            return Column((), 0, 0, 0.0, float(wanted[low]))
        some = torch.linspace(0, len(wanted) - 1, min(FIRST, len(wanted)), dtype=torch.float64).long()
        for k, function in enumerate(FUNCTIONS):
            for path, part in self.parts.items():
                ends = function(part[[low, high]])
                times = (wanted[high] - wanted[low]) / (ends[1] - ends[0])
                times = torch.where((times.abs() - 1).abs() <= ROUNDED, times.sign(), times)
                plus = wanted[low] - times * ends[0]
                plus = torch.where(plus.abs() <= ROUNDED * wanted.abs().max(), 0.0, plus)
                for at in _equal(wanted[some], function(part[some]), times, plus).nonzero().flatten().tolist():
                    if bool(_equal(wanted, function(part[:, at : at + 1]), times[at], plus[at])):
                        return Column(path, at, k, float(times[at]), float(plus[at]))
        raise NoColumn


def _equal(wanted: Tensor, part: Tensor, times: Tensor, plus: Tensor) -> Tensor:
    """Tell of every column whether it is what is wanted."""
    apart = (plus + times * part - wanted.unsqueeze(-1)).abs().amax(0)
    return apart <= ROUNDED * wanted.abs().max()  # not so of what is not finite


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield everything that an argument holds, with where it stands."""
    named = [*value.items()] if isinstance(value, Mapping) else named_columns(value)
    if named and len(dict(named)) == len(named):
        for key, part in named:
            yield from _leaves(part, (*path, key))
    elif isinstance(value, (tuple, list)):
        for at, one in enumerate(value):
            yield from _leaves(one, (*path, at))
    elif isinstance(value, (Tensor, np.ndarray)) or hasattr(value, "to_numpy"):
        yield path, value


def _by_row(value: Any, rows: int) -> Tensor | None:
    """Return the columns of a tensor or an array, if it has a dimension of rows."""
    try:
        found = tensor_of(value)
    except (EMError, ValueError, TypeError):  # dates, words
        return None
    if found.is_complex() or found.layout != torch.strided or rows not in found.shape:
        return None
    return found.detach().movedim(found.shape.index(rows), 0).reshape(rows, -1).double()
