"""Batches as they are passed, and seals by which it is seen that a pass reads what the first one read."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any

import numpy as np
from torch import Tensor

from ...errors import DataError, ParameterError
from ...records.frozen import frozen

LANES, ROWS = 1024, 64  # positions that are told apart in a sum of so many numbers each, one after another
SMALL = 1 << 16  # bytes up to which every one of them is told apart

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Arguments of the model, by position and by name."""


@frozen
class Source:
    """What hands out the batches, as often as it is asked.

    Attributes:
        batches: a re-iterable, or a callable that returns an iterator.
    """

    batches: Iterable[Any] | Callable[[], Iterable[Any]] = field(repr=False)

    def read(self) -> Iterator[Call]:
        """Read all batches once more, each as a call of the model."""
        return (call for call, _ in self.sealed())

    def sealed(self) -> Iterator[tuple[Call, int]]:
        """Read all batches once more, each as a call of the model and with its seal.

        Raises:
            ParameterError: the function has returned something else.
        """
        batches = self.batches
        if callable(batches):
            batches = batches()
            if not _iterable(batches):
                raise ParameterError(
                    f"fit_stream: expected a function that returns an iterator of batches, got one that returns "
                    f"{type(batches).__name__}. Yield the batches, one after another."
                )
        yield from (sealed(_call(batch)) for batch in batches)


def source_of(batches: Any) -> Source:
    """Return what hands out the batches.

    Raises:
        ParameterError: they can be read only once, or not at all.
    """
    if isinstance(batches, Iterator):
        raise ParameterError(
            f"fit_stream: expected batches that can be read in every pass, got {type(batches).__name__}, which can be "
            f"read once. Pass the function that makes it, or a list, a DataLoader, an object with __iter__."
        )
    if not (callable(batches) or _iterable(batches)):
        raise ParameterError(
            f"fit_stream: expected an iterable of batches, or a function that returns one, got "
            f"{type(batches).__name__}. Each batch is what the model takes: a tuple of arguments, or one tensor."
        )
    if callable(batches) and (lacking := _lacking(batches)):
        raise ParameterError(
            f"fit_stream: expected a function that is called without arguments, got one that raises TypeError: "
            f"{lacking}. Pass lambda: batches(...)."
        )
    return Source(batches)


def _iterable(batches: Any) -> bool:
    """Whether these may be batches, one after another: rows of a tensor, letters and keys are none."""
    return isinstance(batches, Iterable) and not isinstance(batches, (str, bytes, Tensor, np.ndarray, Mapping))


def _lacking(function: Callable[..., Any]) -> str:
    """Say what a call without arguments lacks; empty if nothing, or if nobody knows."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a builtin
        return ""
    try:
        signature.bind()
    except TypeError as error:
        return str(error)
    return ""


def _call(batch: Any) -> Call:
    """Take a batch as a call: (args, kwargs), a tuple or list of arguments, or one argument."""
    if isinstance(batch, (tuple, list)):
        if len(batch) == 2 and isinstance(batch[0], tuple) and isinstance(batch[1], dict):
            return batch[0], batch[1]
        return tuple(batch), {}
    return (batch,), {}


def sealed(call: Call) -> tuple[Call, int]:
    """Return the arguments in memory, and one number for all that they hold."""
    args, kwargs = call
    given = [_taken(value) for value in args]
    named = {name: _taken(value) for name, value in kwargs.items()}
    numbers = *(number for _, number in given), *((name, named[name][1]) for name in sorted(named))
    return (tuple(value for value, _ in given), {name: value for name, (value, _) in named.items()}), hash(numbers)


def _taken(value: Any) -> tuple[Any, Any]:
    """Return an argument with its number: a copy if it must not be written to, as an array of a file that is mapped.

    It is copied a stretch at a time, each added up while the processor still has it.
    """
    if not isinstance(value, np.ndarray) or value.flags.writeable:
        return value, _number(value)
    if value.dtype == object or not value.flags.c_contiguous:
        copy = np.array(value)
        return copy, _number(copy)
    copy = np.empty(value.shape, value.dtype)
    return copy, (copy.shape, copy.dtype.str, _checksum(copy, value))


def _number(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    elif not isinstance(value, np.ndarray) and hasattr(value, "__array__"):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, _checksum(value)
    if isinstance(value, (tuple, list)):
        return tuple(map(_number, value))
    return repr(value)


def _checksum(array: np.ndarray, source: np.ndarray | None = None) -> int:
    """Sum an array as whole numbers, by lanes of one stretch after another: many times as fast as one by bytes.

    With a source, the array is filled from it on the way.
    """
    if array.dtype == object:
        return hash(str(array.tolist()))
    data = _bytes(array)
    there = data if source is None else _bytes(source)
    whole = data.nbytes // (8 * LANES) * LANES if data.nbytes > SMALL else 0
    words, given = (part[: 8 * whole].view(np.int64).reshape(-1, LANES) for part in (data, there))
    parts = []
    for at in range(0, len(words), ROWS):
        stretch = words[at : at + ROWS]
        if source is not None:
            stretch[:] = given[at : at + ROWS]
        parts.append(stretch.sum(0))
    rest = data[8 * whole :]
    if source is not None:
        rest[:] = there[8 * whole :]
    return zlib.crc32(rest.data, zlib.crc32(np.concatenate(parts).data) if parts else 0)


def _bytes(array: np.ndarray) -> np.ndarray:
    """Show an array as bytes; one that is not in one piece as those of a copy."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def changed(k: int) -> DataError:
    """Return the error of a batch that is not what it was in the first pass."""
    return DataError(
        f"Batch {k}: expected the same rows in every pass, got others than in the first one. EM maximises one "
        f"likelihood: hand out the same batches in the same order (no shuffling, no augmentation)."
    )


def fewer(k: int, many: int) -> DataError:
    """Return the error of a pass with another number of batches than the first one."""
    got = f"{k}" if k < many else "more"
    return DataError(
        f"fit_stream: expected {many} batches in every pass, as in the first one, got {got}. A function must return a "
        f"new iterator whenever it is called."
    )
