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
        """Read all batches once more, each as a call of the model.

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
        yield from map(_call, batches)


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
            return tuple(map(_in_memory, batch[0])), {name: _in_memory(value) for name, value in batch[1].items()}
        return tuple(map(_in_memory, batch)), {}
    return (_in_memory(batch),), {}


def _in_memory(value: Any) -> Any:
    """Read an array that must not be written to, of a file that is mapped: once, and not in every run of the model."""
    return np.array(value) if isinstance(value, np.ndarray) and not value.flags.writeable else value


def seal(call: Call) -> int:
    """Return one number for all that a batch holds."""
    args, kwargs = call
    return hash((*map(_number, args), *((name, _number(value)) for name, value in sorted(kwargs.items()))))


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


def _checksum(array: np.ndarray) -> int:
    """Sum an array as whole numbers, by lanes of one stretch after another: many times as fast as one by bytes."""
    if array.dtype == object:
        return hash(str(array.tolist()))
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if data.nbytes <= SMALL:
        return zlib.crc32(data.data)
    whole = data.nbytes // (8 * LANES) * LANES
    words = data[: 8 * whole].view(np.int64).reshape(-1, LANES)
    parts = [words[at : at + ROWS].sum(0) for at in range(0, len(words), ROWS)]
    return zlib.crc32(data[8 * whole :].data, zlib.crc32(np.concatenate(parts).data))


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
