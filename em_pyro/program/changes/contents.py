"""What tensors, arrays and lists hold: checksums that tell whether something has been written into them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ..named import SLICE


def contents(name: str, value: Tensor | np.ndarray) -> tuple[Any, ...]:
    """Return the version and a checksum of a tensor or an array: not every change of them is counted."""
    if isinstance(value, Tensor):
        if value.is_inference():
            raise DataError(
                f"{name.strip()}: expected tensors that autograd may use, got one that was made under "
                f"torch.inference_mode(). Clone it outside of that: {name.strip()}.clone()."
            )
        return value._version, value.requires_grad, 0 if value.is_nested else _checksum(value)
    if value.dtype == object:
        return (hash(str(value.tolist())),)
    rows = np.atleast_1d(value)
    return value.shape, *(zlib.crc32(rows[at : at + SLICE].tobytes()) for at in range(0, len(rows), SLICE))


def contents_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of every tensor and array among the arguments, by what to call it in an error."""
    named = _called(args, kwargs)
    return {name: contents(name, value) for name, value in named.items() if isinstance(value, (Tensor, np.ndarray))}


def entries_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return which things every list, set and dict among the arguments holds, by what to call it in an error."""
    held = {name: value for name, value in _called(args, kwargs).items() if isinstance(value, (list, set, dict))}
    return {n: [*map(id, v), *map(id, v.values() if isinstance(v, dict) else ())] for n, v in held.items()}


def _called(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    named = {f"Argument {k + 1} of the model": value for k, value in enumerate(args)}
    return named | {f'Argument "{name}" of the model': value for name, value in kwargs.items()}


def _checksum(tensor: Tensor) -> int:
    """Return a checksum of what a tensor on the host holds, slice by slice; that of another device is not fetched."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or not tensor.numel():
        return 0
    tensor, found = tensor.detach(), 0
    for part in (tensor,) if tensor.is_contiguous() else tensor.split(SLICE):
        found = zlib.crc32(raw(part).data, found)
    return found


def raw(tensor: Tensor) -> np.ndarray:
    """Return the bytes of a tensor on the host, in order."""
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.stride() != (1,):  # a single entry, of a step through a longer tensor
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy()
