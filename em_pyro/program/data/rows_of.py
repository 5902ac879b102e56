"""Some rows, or the columns, of what a model is passed: of arrays and frames, in lists and dicts too.

Frames and columns are those of pandas, polars and pyarrow: what gives an array of NumPy when it is asked for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor, an array or a frame; None of anything else."""
    if isinstance(value, (Tensor, np.ndarray)):
        return tuple(value.shape)
    if hasattr(value, "__array__") and hasattr(value, "__len__") and not isinstance(value, type):
        return tuple(getattr(value, "shape", (len(value),)))
    return None


def named_columns(value: Any) -> list[tuple[Any, Any]]:
    """Return the columns of a frame, each with its name; none of what is no frame."""
    if not (hasattr(value, "columns") and hasattr(value, "__array__")) or isinstance(value, type):
        return []
    if hasattr(value, "column_names"):  # of pyarrow, whose `columns` have no names
        return [*zip(value.column_names, value.columns, strict=True)]
    return [*value.items()] if hasattr(value, "items") else [(name, value[name]) for name in value.columns]


def at_rows(value: Any, rows: int, at: Tensor) -> Any:
    """Return an argument at some of its rows, by their numbers; itself if it has none.

    Args:
        value: the argument.
        rows: how many rows there are.
        at: which of them, shape `(k,)`.
    """

    def cut(array: Any) -> Any:
        shape = tuple(array.shape)
        if not shape or shape[0] != rows:
            return array
        return array[at.to(array.device)] if isinstance(array, Tensor) else taken(array, at.numpy())

    return rows_of(value, rows, cut, lambda listed: type(listed)(listed[k] for k in at.tolist()))


def taken(array: Any, at: Any) -> Any:
    """Return some rows of an array or a frame, by their numbers or from one to another."""
    if hasattr(array, "iloc"):
        return array.iloc[at]
    if hasattr(array, "to_pylist") and not isinstance(at, slice):  # of pyarrow
        return array.take(at)
    return array[at]


def rows_of(value: Any, rows: int, cut: Callable[[Any], Any], pick: Callable[[Any], Any]) -> Any:
    """Return an argument with some of its rows; itself, and not a copy, if it has none.

    Args:
        value: the argument.
        rows: how many rows there are.
        cut: makes some rows of an array or a frame, or returns it as it is.
        pick: makes some rows of a list or a tuple that has one entry for each.
    """
    if shape_of(value) is not None:
        return cut(value)
    if isinstance(value, dict):
        parts = {name: rows_of(part, rows, cut, pick) for name, part in value.items()}
        return parts if any(parts[name] is not part for name, part in value.items()) else value
    if type(value) not in (list, tuple):
        return value
    inner = [rows_of(part, rows, cut, pick) for part in value]
    if any(new is not part for new, part in zip(inner, value, strict=True)):
        return type(value)(inner)
    return pick(value) if len(value) == rows else value
