"""Columns of a frame that a model takes by name, and the index of frames that were passed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch.nn import Module

from ...errors import DataError, ParameterError
from .passed import tensor_of
from .rows_of import named_columns


def columns(frame: Any, model: Callable[..., Any], **others: Any) -> dict[str, Any]:
    """Return the columns that a model takes by name, to be passed on: `EM(model).fit(**columns(frame, model, K=3))`.

    Columns that the model has no argument for are left out, arguments with a default may have none; a model that takes
    any (`**columns`) and names none is given all of them. Columns stay what they are, with the index of the frame, so
    that `Posterior.to_frame` has it; the model sees tensors of them.

    Args:
        frame: of pandas, polars or pyarrow.
        model: a function, or a module.
        others: its other arguments; they come before columns of the same name.

    Raises:
        ParameterError: the model asks for what is neither a column nor among the others, takes none of the columns by
            name, or lacks one of the others.
        DataError: what is no frame, or a column that is no numbers.
    """
    if not (found := named_columns(frame)):
        raise DataError(f"columns: expected a frame, which has columns, got {type(frame).__name__}.")
    if not callable(model):
        raise ParameterError(f"columns: expected a model, got {type(model).__name__}. Pass columns(frame, model).")
    known, needed, free = arguments_of(model)
    names = [name for name, _ in found if isinstance(name, str)]
    known = known or (names if free else [])
    if unknown := [name for name in others if name not in known and not free]:
        raise ParameterError(f'columns: expected arguments of the model, {listed(known)}, got "{unknown[0]}".')
    taken = [name for name in known if name in names and name not in others]
    missing = [name for name in needed if name not in (*taken, *others)]
    if missing or not taken:
        raise _lacking(missing[0] if missing else None, names, known)
    parts = dict(found)
    return {name: _numbers(name, parts[name]) for name in taken} | others


def _lacking(missing: str | None, names: list[str], known: list[str]) -> ParameterError:
    """Say what a model takes and a frame has not."""
    if missing is not None and missing not in known:
        return ParameterError(
            f'columns: expected a model that takes "{missing}" by name, got one that takes it by its place alone. Pass '
            f'it so: frame["{missing}"].'
        )
    wanted = f'a column "{missing}"' if missing is not None else "a column for some argument of the model"
    return ParameterError(
        f"columns: expected {wanted}, got {listed(names)}. The model takes {listed(known)}: rename a column by "
        f"frame.rename(columns=...), or pass the argument by name."
    )


def arguments_of(model: Callable[..., Any]) -> tuple[list[str], list[str], bool]:
    """Return what a model takes by name, what it needs, by name or not, and whether it takes any other names."""
    parameters = inspect.signature(_stated(model)).parameters
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    own = {name: p for name, p in parameters.items() if p.kind not in several}
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    known = [name for name, p in own.items() if p.kind is not inspect.Parameter.POSITIONAL_ONLY]
    return known, [name for name, p in own.items() if p.default is p.empty], free


def _stated(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return what states the arguments of a model: of a module its `forward`, also where some are bound already."""
    if isinstance(model, partial):
        return partial(_stated(model.func), *model.args, **model.keywords)
    return model.forward if isinstance(model, Module) else model


def listed(names: Any) -> str:
    """Return names in a row."""
    return ", ".join(names) or "nothing"


def index_of(passed: tuple[tuple[Any, ...], Mapping[str, Any]], rows: int) -> Any:
    """Return the index of the pandas frames and columns of so many rows that were passed, in lists and dicts too.

    None where there is none, or where several differ.
    """
    fitting = [index for index in _indexes([*passed[0], *passed[1].values()]) if len(index) == rows]
    return fitting[0] if fitting and all(index.equals(fitting[0]) for index in fitting) else None


def _indexes(values: Any) -> Iterator[Any]:
    for value in values:
        index = getattr(value, "index", None)
        if hasattr(index, "equals") and hasattr(value, "to_numpy"):
            yield index
        elif type(value) in (list, tuple, dict):
            yield from _indexes(value.values() if isinstance(value, dict) else value)


def _numbers(name: str, column: Any) -> Any:
    """Return a column of numbers or truth values as it is.

    Raises:
        DataError: it has others.
    """
    try:
        tensor_of(column)
    except (TypeError, ValueError) as error:
        raise DataError(
            f'Column "{name}": expected numbers, got {getattr(column, "dtype", type(column).__name__)}. Make codes of '
            f'categories: frame["{name}"], names = pd.factorize(frame["{name}"]).'
        ) from error
    return column
