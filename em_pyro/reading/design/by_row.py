"""What differs by row in a reading, found among the columns of what the model was called with.

A covariate, an exposure, a number of trials or that of a group stands most often in an argument of the model as it is,
shifted, in other units, or as a logarithm or a power. Where all tensors by row of a reading do, other rows bring
theirs, and nothing is probed: one run of the model on these rows tells whether it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import EMError
from ...program.data.passed import tensor_of
from ...program.named import squeeze
from ...program.program import Program
from ...program.site import Site
from ..bank import RoleMap
from ..reading import Reading, arguments

LEAST = 3  # rows that tell one column from another
SOUGHT = 2_000  # tensors of a reading, a number for each row, that are looked for
FIRST = 64  # rows that are compared first
ROUNDED = 1e-11  # of the largest number of a column
WHOLE = 1e-6  # that a position may be off a whole number

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


@dataclass(frozen=True)
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
    named = list(value.columns) if hasattr(value, "columns") else []
    if isinstance(value, Mapping) or named and len(set(named)) == len(named):
        for key in value:
            yield from _leaves(value[key], (*path, key))
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


@dataclass(frozen=True)
class ByRow:
    """Readings whose tensors by row are columns of the arguments.

    Attributes:
        readings: of the rows that were read.
        program: with these rows.
        plate: in which they are.
    """

    readings: Mapping[str, Reading] = field(repr=False)
    program: Program = field(repr=False)
    plate: str | None

    @property
    def rows(self) -> int:
        """How many there are."""
        return 1 if self.plate is None else self.program.plates[self.plate]

    @cached_property
    def columns(self) -> Mapping[tuple[str, str], Sequence[Column]] | None:
        """By site and argument, columns in the order in which `_changed` comes to them; None if some are none."""
        table, found = Table.of(self.program, self.rows), dict[tuple[str, str], list[Column]]()
        budget = SOUGHT
        try:
            for name, reading in self.readings.items():
                for key, role in reading.roles.items():
                    some = found.setdefault((name, key), [])
                    for part in self._parts(role):
                        vectors = part.reshape(self.rows, -1).unbind(-1)
                        budget -= len(vectors)
                        if budget < 0:
                            return None
                        some += [table.find(vector) for vector in vectors]
        except NoColumn:
            return None
        return found

    def _parts(self, role: RoleMap) -> list[Tensor]:
        """The tensors of an argument that have a number for each row, rows first."""
        found: list[Tensor] = []
        if self.plate not in role.names or role.known and role.affine is None:
            return found
        d = role.names.index(self.plate)

        def look(part: Tensor) -> Tensor:
            if part.shape[d] > 1:
                found.append(part.movedim(d, 0))
            return part

        _changed(role, look)
        return found

    def on(self, program: Program, run: Mapping[str, Site]) -> dict[str, Reading] | None:
        """Return the readings on other rows, to be compared with the model; None if that cannot be done.

        Args:
            program: with these rows.
            run: of it, the steps of loops one by one.
        """
        if self.plate is None or self.rows < LEAST or self.columns is None:
            return None
        rows = program.plates[self.plate]
        table = Table.of(program, rows)
        try:
            return {
                name: replace(
                    reading.on(run[name]),
                    roles={
                        key: self._role(reading, key, self.columns[name, key], table, rows, run[name])
                        for key in reading.roles
                    },
                )
                for name, reading in self.readings.items()
            }
        except NoColumn:
            return None

    def _role(
        self, reading: Reading, key: str, columns: Sequence[Column], table: Table, rows: int, site: Site
    ) -> RoleMap:
        role = reading.roles[key]
        if self.plate not in role.names:
            return role
        d, left = role.names.index(self.plate), iter(columns)
        if role.known and role.affine is None:
            if role.index.shape[d] == 1:
                return role
            event = reading.event_rank + reading.family.roles[key].event_dim
            constant = squeeze(arguments(reading.family, site)[key].detach(), site.dims, site.name, event)
            shape = [rows if i == d else size for i, size in enumerate(role.index.shape)]
            return replace(role, constant=constant.align(role.names), index=torch.full((), -1).expand(shape))

        def exchanged(part: Tensor) -> Tensor:
            if part.shape[d] == 1:
                return part
            others = part.movedim(d, 0).shape[1:]
            made = torch.stack([next(left).of(table) for _ in range(others.numel())], -1)
            if not part.is_floating_point():
                made = _positions(made)
            return made.to(part).reshape((rows, *others)).movedim(0, d)

        return _changed(role, exchanged) if rows > 1 else _of_one(_changed(role, exchanged), d)


def _of_one(role: RoleMap, d: int) -> RoleMap:
    """The argument of one row, without their dimension."""
    made, names = _changed(role, lambda part: part.squeeze(d)), (*role.names[:d], *role.names[d + 1 :])
    return replace(made, names=names)


def _positions(made: Tensor) -> Tensor:
    """Round positions among parameters.

    Raises:
        NoColumn: they are none.
    """
    whole = made.round()
    if bool(((made - whole).abs() > WHOLE).any()) or bool((whole < 0).any()):
        raise NoColumn
    return whole


def _changed(role: RoleMap, change: Callable[[Tensor], Tensor]) -> RoleMap:
    """The same with every tensor of an argument changed."""
    if role.affine is not None:
        affine = role.affine.changed(lambda part, _: change(part))
        return replace(role, affine=affine, index=torch.full((), -1).expand(affine.shape))
    coefficient, constant = (None if part is None else change(part) for part in (role.coefficient, role.constant))
    return replace(role, index=change(role.index), coefficient=coefficient, constant=constant)
