"""The argument that a model takes as indices and that is none: truth values, gaps, words, fractions, beyond the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import EMError

ABOUT = re.compile(r"ind(ex|ices)|mask|NAType|Timestamp|numpy\.|not Series|not ndarray|int64|[Cc]lass values")
"""What the error of a run says that stumbles over an index."""
BEYOND = re.compile(r"index (-?\d+) is out of bounds for dimension \d+ with size (\d+)")
MOST = 20  # arguments, and entries of these, that are tried
Run = Callable[[Mapping[str, Any]], Any]


def wrong_index(given: Mapping[str, Any], error: Exception, run: Run, *, fitted: bool) -> str:
    """Name the argument that is no index where the model takes one, and say what it is; else nothing.

    It is the one without which the error is gone: zeros stand in its place.

    Args:
        given: arguments by name.
        error: of the model.
        run: runs the model.
        fitted: whether its parameters are those of other rows: a number beyond the end is then one that these lack.
    """
    if not isinstance(error, (IndexError, RuntimeError, TypeError, ValueError)) or not ABOUT.search(str(error)):
        return ""
    tried = [leaf for name, value in given.items() for leaf in leaves(f'"{name}"', name, value)][:MOST]
    tried = [leaf for leaf in tried if not (fitted and _counts(leaf[2]))]
    if beyond := BEYOND.search(str(error)):  # a fraction is no index at all, unless the model makes one of it
        tried = [leaf for leaf in tried if _counts(leaf[2]) or _has(leaf[2], int(beyond[1]))]
    for together in (False, True):  # one by one; then each with those before it, where several are none
        changed = dict(given)
        for label, name, value in tried:
            zeros = torch.zeros(tuple(np.shape(value)), dtype=torch.int64)
            trial = {**changed, name: swapped(changed[name], value, zeros)}
            changed = trial if together else changed
            if _is_gone(error, run, trial):
                got, remedy = _said(value, error)
                expected = "expected whole numbers, since the model takes it as indices"
                return f"Argument {label}: {expected}, got {got}. {remedy}"
    return ""


def _counts(value: Any) -> bool:
    """Tell whether an argument holds whole numbers, which index whatever has so many entries."""
    return (
        isinstance(value, Tensor)
        and value.dtype in (torch.int16, torch.int32, torch.int64)
        or (not isinstance(value, Tensor) and np.asarray(value).dtype in (np.int16, np.int32, np.int64))
    )


def _has(value: Any, number: int) -> bool:
    """Tell whether a number is among those of an argument."""
    array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    return bool((array == number).any())


def _is_gone(error: Exception, run: Run, trial: Mapping[str, Any]) -> bool:
    """Tell whether the model has another error of that kind, or of ours, or none."""
    try:
        run(trial)
    except EMError:
        return True
    except Exception as other:
        return str(other) != str(error) and ABOUT.search(str(other)) is not None
    return True


def leaves(label: str, name: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield arrays, frames and tensors in an argument, each with what it is called, and the name of the argument."""
    if isinstance(value, (list, tuple, dict)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(f"{label}[{key!r}]", name, part)
    elif isinstance(value, (Tensor, np.ndarray)) or (hasattr(value, "to_numpy") and not isinstance(value, type)):
        if not (hasattr(value, "columns") and np.asarray(value).dtype.kind == "O"):  # of these a model takes columns
            yield label, name, value


def swapped(value: Any, old: Any, new: Tensor) -> Any:
    """Return an argument with something else in the place of a part of it."""
    if value is old:
        return new
    if type(value) in (list, tuple):
        return type(value)(swapped(part, old, new) for part in value)
    return {key: swapped(part, old, new) for key, part in value.items()} if type(value) is dict else value


def _array(value: Any) -> np.ndarray:
    """Return an argument as an array; NumPy has no bfloat16."""
    if not isinstance(value, Tensor):
        return np.asarray(value)
    return (value.float() if value.dtype is torch.bfloat16 else value).detach().cpu().numpy()


def _said(value: Any, error: Exception) -> tuple[str, str]:
    """Say what is wrong with an index, and what to do about it."""
    if getattr(value, "layout", torch.strided) is not torch.strided:
        return f"a tensor of layout {value.layout}", "Make it dense: .to_dense()."
    array, whole = _array(value), "Pass what .long() of a tensor, or .astype(int) of an array or a column, gives."
    kind = array.dtype.kind
    empty = _empty(array)
    if empty.any():
        at = tuple(int(i) for i in np.argwhere(empty)[0])
        return (
            f"{array[at]} at index {at}",
            "Remove the row; or give it an index that there is, and leave out by fn.mask(observed) what it has.",
        )
    if kind == "b" or (kind == "O" and all(isinstance(entry, (bool, np.bool_)) for entry in array.flat)):
        return "truth values, which torch takes for a mask", whole
    if kind not in "iuf":
        return f"{array.dtype} ({array.flat[0]!r} first)", "Number them: pd.factorize(column)[0]."
    if kind == "f" or array.dtype == np.uint8:
        mask = ", which torch takes for a mask" if kind == "u" else ""
        return f"{str(getattr(value, 'dtype', array.dtype)).removeprefix('torch.')}{mask}", whole
    size = int(beyond[2]) if (beyond := BEYOND.search(str(error))) else int(array.max())
    bad = (array >= size) | (array < (-size if beyond else 0))
    at = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.any() else ()
    room = (
        f", where there are {size} entries"
        if beyond
        else f", on which it raised {type(error).__name__}: {str(error).rstrip('.')}"
    )
    return f"{array[at]} at index {at}{room}" if at else f"{array.dtype}{room}", "They count from zero."


def _empty(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Tell which entries are missing: nan, None, or pandas' own."""
    if array.dtype.kind == "f":
        return np.isnan(array)
    if array.dtype.kind != "O":
        return np.zeros(array.shape, dtype=bool)
    missing = [e is None or type(e).__name__ in ("NAType", "NaTType") or e is not e or e != e for e in array.flat]
    return np.asarray(missing, dtype=bool).reshape(array.shape)
