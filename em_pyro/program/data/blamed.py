"""Over which of its arguments a model has stumbled."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

MOST = 10  # columns that are listed
TENSOR = "a tensor, with a dimension for the rows of each plate"


def blamed(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> str:
    """Name the argument over which a model has stumbled, if its error says so, or what its call lacks; else nothing."""
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):  # of a builtin
        return ""
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError as lacking:
        if not isinstance(error, TypeError):
            return ""
        return (
            f"The model: expected a call that {_named(model)}{signature} takes, got one with {len(args)} positional "
            f"arguments and {sorted(kwargs) or 'none'} by name: {lacking}. Pass what the model takes."
        )
    for name, value in given.items():
        if isinstance(error, KeyError) and _looked_into(value, error):
            columns = ", ".join(f'"{column}"' for column in list(value.columns)[:MOST])
            return (
                f'Argument "{name}": expected a column {error}, got a {type(value).__name__} of {columns or "none"}. '
                f"Rename the column, or read another one."
            )
        if _is_at_fault(value, error):
            got, other = _got(value)
            return (
                f'Argument "{name}": expected what the model runs with, got {got}, on which it raised '
                f"{type(error).__name__}: {error}. Pass {other}."
            )
    return ""


def _looked_into(value: Any, error: KeyError) -> bool:
    """Tell whether the key that is missing was sought in a frame."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_locals.get("self") is not value:
        trace = trace.tb_next
    return trace is not None and hasattr(value, "columns") and hasattr(value, "keys")  # of pandas


def _is_at_fault(value: Any, error: Exception) -> bool:
    """Tell whether the error of a model is about an argument of that type; or that number, if it is negative."""
    if isinstance(value, int) and value < 0:
        return isinstance(error, (RuntimeError, ValueError, IndexError)) and str(value) in str(error)
    if isinstance(value, Tensor) and value.is_nested:
        return isinstance(error, RuntimeError)
    if not isinstance(error, (TypeError, AttributeError, IndexError)):
        return False
    if isinstance(value, Tensor):
        return not value.dim() and ("0-d tensor" in str(error) or isinstance(error, IndexError))
    kind = type(value).__name__
    return f"'{kind}'" in str(error) or str(error).endswith(f"not {kind}")


def _got(value: Any) -> tuple[str, str]:
    """Say what an argument is, and what to pass instead."""
    if isinstance(value, Tensor):
        return f"a {'nested tensor' if value.is_nested else 'tensor without dimensions'}", TENSOR
    if isinstance(value, (int, str)):
        return repr(value), "another value"
    return "None" if value is None else type(value).__name__, TENSOR


def _named(model: Callable[..., Any]) -> str:
    return getattr(model, "__name__", type(model).__name__)
