"""What differs by row in a reading, found among the columns of what the model was called with.

A covariate, an exposure, a number of trials or that of a group stands most often in an argument of the model as it is,
shifted, in other units, or as a logarithm or a power. Where all tensors by row of a reading do, other rows bring
theirs, and nothing is probed: one run of the model on these rows tells whether it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property

import torch
from torch import Tensor

from ...program.named import squeeze
from ...program.program import Program
from ...program.site import Site
from ...records.frozen import frozen
from ..bank import RoleMap
from ..predictor import Affine
from ..reading import Reading, arguments
from .called_with import Column, NoColumn, Table

LEAST = 3  # rows that tell one column from another
SOUGHT = 2_000  # tensors of a reading, a number for each row, that are looked for
WHOLE = 1e-6  # that a position may be off a whole number


@frozen
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
                    for part in self._parts(self._among_all(role)):
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

    def _among_all(self, role: RoleMap) -> RoleMap:
        """The same argument among all entries of its parameters, if rows look them up: other rows have others."""
        affine = role.affine
        if affine is None or self.plate not in role.names:
            return role
        d = role.names.index(self.plate)
        if all(piece.index.shape[d] == 1 for piece in affine.pieces):
            return role
        parameters = self.program.parameters
        entries = tuple((n, k) for n, _, _ in affine.sources for k in range(parameters[n].initial.numel()))
        number = {entry: k for k, entry in enumerate(entries)}
        moved = affine.moved(torch.tensor([number[entry] for entry in affine.entries]))
        return replace(role, affine=replace(moved, entries=entries))

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
        role, before = self._among_all(reading.roles[key]), reading.roles[key].affine
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

        made = _used(_changed(role, exchanged), before)
        return made if rows > 1 else _of_one(made, d)


def _used(role: RoleMap, before: Affine | None) -> RoleMap:
    """The argument without entries that no row takes and that were not `before`.

    Raises:
        NoColumn: rows take what is no entry.
    """
    affine = role.affine
    if affine is None or before is None or affine.entries == before.entries:
        return role
    used = torch.zeros(len(affine.entries) + 1, dtype=torch.bool)  # the last is that of an index of -1
    for piece in affine.pieces:
        if int(piece.index.max()) >= len(affine.entries):
            raise NoColumn
        used[piece.index.cpu().flatten()] = True
    known = set(before.entries)
    kept = [k for k, entry in enumerate(affine.entries) if bool(used[k]) or entry in known]
    positions = torch.full((len(affine.entries),), -1)
    positions[kept] = torch.arange(len(kept))
    entries = tuple(affine.entries[k] for k in kept)
    return replace(role, affine=replace(affine.moved(positions), entries=entries))


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
