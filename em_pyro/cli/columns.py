"""Which columns of a table go to which argument of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..program.data.columns import arguments_of, listed
from ..records.frozen import frozen
from .tables import Table, TableError


@frozen
class Columns:
    """What a model is given.

    Attributes:
        args: a matrix of the columns, or one column as a vector, where the model does not take them by name.
        kwargs: columns by name, and settings.
        names: of the columns.
    """

    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Any]
    names: list[str]


def columns_of(
    model: Callable[..., Any],
    table: Table,
    chosen: Sequence[str] | None,
    settings: Mapping[str, Any],
    key: str | None,
    integers: Sequence[str] | None,
    later: Sequence[str] = (),
) -> Columns:
    """Give a model the columns that its arguments are named after, or else all of them as its first argument.

    Args:
        model: a function.
        table: with the columns.
        chosen: columns to take; all but `key` if None.
        settings: other arguments of the model.
        key: a column that tells rows apart, and is no number.
        integers: columns of whole numbers, to index with.
        later: arguments of the model that are given later.

    Raises:
        TableError: the model asks for what is neither a column nor a setting, or a cell is not a number.
    """
    parameters, needed = _arguments(model, table, settings, later)
    if key is not None:
        table.cells(key)  # there, if only to be left out
    names = list(chosen or (name for name in table.names if name != key))
    named = [name for name in names if name in parameters and name not in settings]
    missing = [name for name in needed if name not in (*named, *settings, *later)]
    if named and missing:
        raise TableError(
            f'{table.source}: expected a column "{missing[0]}", which the model takes, got {listed(names)}. Choose '
            f"with --columns, or give it by --set {missing[0]}=..."
        )
    _check_used(table, integers, named or names)
    if named:
        columns = {name: _column(table, name, integers) for name in named}
        return Columns((), {**columns, **settings}, named)
    if len(missing) > 1:
        raise TableError(
            f"{table.source}: expected columns named after the arguments of the model, {listed(missing)}, got "
            f"{listed(names)}. Rename them, or give others by --set."
        )
    if not missing:
        raise TableError(f"{table.source}: expected a model that takes columns, got one of {listed(parameters)}.")
    return Columns((_matrix(table, names, integers),), dict(settings), names)


def _matrix(table: Table, names: Sequence[str], integers: Sequence[str] | None) -> Tensor:
    """Return columns side by side; one as a vector.

    Raises:
        TableError: some are to be whole numbers, and others not; or a cell is not a number.
    """
    if integers and not set(names) <= set(integers):
        raise TableError(
            f"--integers: expected all columns of the matrix that the model is given, {listed(names)}, or none of "
            f"them, got {listed(integers)}. Name all, or choose others with --columns."
        )
    values = np.stack([_column(table, name, integers).numpy() for name in names], -1)
    x = torch.tensor(values, dtype=torch.int64 if integers else torch.float64)
    return x.squeeze(-1) if len(names) == 1 else x


def _check_used(table: Table, integers: Sequence[str] | None, used: Sequence[str]) -> None:
    """Refuse columns of whole numbers that the model is not given."""
    for name in integers or ():
        if name not in used:
            raise TableError(
                f'{table.source}: --integers: expected columns that the model is given, {listed(used)}, got "{name}".'
            )


def _arguments(
    model: Callable[..., Any], table: Table, settings: Mapping[str, Any], later: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return what a model takes by name, all columns where it names none and takes any; and what has no default."""
    known, needed, free = arguments_of(model)
    for option, given in (("--set", settings), ("--over", later)):
        unknown = [name for name in given if name not in known and not free]
        if unknown:
            raise TableError(f"{option} {unknown[0]}: expected an argument of the model, {listed(known)}.")
    return known or (list(table.names) if free else []), needed


def _column(table: Table, name: str, integers: Sequence[str] | None) -> Tensor:
    if integers is not None and name in integers:
        return torch.tensor(table.whole([name])[:, 0], dtype=torch.int64)
    return torch.tensor(table.numbers([name])[:, 0])
