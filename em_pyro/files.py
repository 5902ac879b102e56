"""Files that hold numbers and words, and nothing that runs: written whole or not at all, and read with suspicion.

A file is what `torch.save` makes of a dict of tensors, numbers, words and lists, and `torch.load(path,
weights_only=True)` reads it. It says what it is and in which format, so that what is foreign, damaged or newer is
refused by name.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import DataError, ParameterError

Where = str | os.PathLike[str]
MAGIC = b"PK\x03\x04"  # of a zip archive: what torch wrote before had its own ways to run code
FAULTS = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
)
"""What torch raises where a file is damaged, or holds more than numbers and words."""
LINE = 64  # bytes of the cache that are read together
REMEDY = "Pass the path that was given there, or write it anew."


def version() -> str:
    """Return the version of this package."""
    try:
        return metadata.version("em-pyro")
    except metadata.PackageNotFoundError:  # it runs from a folder
        return "unknown"


def write(path: Where, kind: str, form: int, contents: Mapping[str, Any]) -> None:
    """Write a file in one move: whoever looks finds what was there before, or all that is new.

    Args:
        path: where; a file that is there is replaced.
        kind: what the file is, in words.
        form: number of its format.
        contents: tensors, numbers, words, None, and dicts, lists and tuples of these.

    Raises:
        OSError: it cannot be written; what was there is as it was.
        ParameterError: this is no path.
    """
    laid, real = io.BytesIO(), Path(os.path.realpath(_path(path)))
    said = {"kind": kind, "format": form, "em_pyro": version(), "torch": str(torch.__version__)}
    torch.save(said | _bare(dict(contents), {}), laid)
    part = real.with_name(f".{real.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(laid.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        part.replace(real)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _path(path: Where) -> str:
    """Return a path as text."""
    try:
        return str(os.fspath(path))
    except TypeError as error:
        raise ParameterError(f"path: expected the path of a file, got {type(path).__name__}.") from error


def _bare(value: Any, met: dict[int, Any]) -> Any:
    """Return contents without what Python code has hung onto tensors: Pyro does to values of parameters.

    What is met twice is one afterwards, too.
    """
    if isinstance(value, Tensor) and vars(value):
        met.setdefault(id(value), value.detach())
    elif isinstance(value, dict) and id(value) not in met:
        met[id(value)] = {}
        met[id(value)].update((key, _bare(part, met)) for key, part in value.items())
    elif type(value) in (list, tuple) and id(value) not in met:
        met[id(value)] = type(value)(_bare(part, met) for part in value)
    return met.get(id(value), value)


def read(path: Where, kind: str, form: int, whose: str) -> dict[str, Any]:
    """Read a file of `kind`, tensors on the CPU. Nothing in it is run.

    Args:
        path: where.
        kind: what it is to be.
        form: number of the newest format that is known.
        whose: what writes such files, for the errors.

    Raises:
        DataError: it is damaged, holds something that would be run, is another kind of file, or has a newer format.
        OSError: it is not there, or may not be read.
        ParameterError: this is no path.
    """
    expected = f"{_path(path)}: expected a file of {whose}"
    data = Path(path).read_bytes()
    if not data.startswith(MAGIC):
        raise DataError(f"{expected}, got another kind of file, or a damaged one. {REMEDY}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells of a file of another kind before it refuses it
            bad = archive.testzip()  # torch itself does not look at checksums
            found = None if bad else torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except FAULTS as error:
        raise DataError(f"{expected}, got {_told(error)}. {REMEDY}") from error
    if bad:
        raise DataError(f"{expected}, got a damaged one: the checksum of {bad} is wrong. {REMEDY}")
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise DataError(f"{expected}, got a file of another kind. {REMEDY}")
    if not isinstance(found.get("format"), int) or not 1 <= found["format"] <= form:
        raise DataError(
            f"{expected} in a format up to {form}, got format {found.get('format')!r}, written by em_pyro "
            f"{found.get('em_pyro')}. Update em_pyro."
        )
    return found


def _told(error: Exception) -> str:
    """Say why torch refused a file, in a line."""
    text = str(error)
    for mark in ("Unsupported global: ", "unsupported GLOBAL ", "Unsupported class "):
        if mark in text:
            return f"one with code in it, which was not run ({text.partition(mark)[2].split()[0].rstrip('.,')})"
    return f"a damaged one ({type(error).__name__}: {' '.join(text.split())[:100]})"


# ---- records as numbers and words, and back to the last bit ----


def laid_out(value: Any, left_out: Collection[str] = ()) -> Any:
    """Lay out records, mappings and sequences as dicts and lists of tensors, numbers and words.

    A mapping or record that is met twice is one afterwards, too. Tensors keep their strides and their place in a line
    of the cache, by which matrix products choose the order of their sums, and not what else is in their storage.

    Args:
        value: a dataclass, a named tuple, a mapping, a sequence, or what is in these.
        left_out: fields of records that are left out.
    """
    return _laid(value, left_out, {})


def _laid(value: Any, left_out: Collection[str], met: dict[int, Any]) -> Any:
    """Lay out one value; a record that was `met` before is the same one again."""
    if isinstance(value, Tensor):
        return _placed(value.detach())
    names = _names(value)
    if names or isinstance(value, Mapping):
        if id(value) not in met:
            found: dict[str, Any] = {"is": type(value).__name__ if names else "mapping"}
            met[id(value)] = found
            pairs = [(n, getattr(value, n)) for n in names if n not in left_out] if names else list(value.items())
            found["of"] = [[key, _laid(item, left_out, met)] for key, item in pairs]
        return met[id(value)]
    if isinstance(value, (tuple, list)):
        parts = [_laid(item, left_out, met) for item in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def _placed(value: Tensor) -> Tensor:
    """Copy a tensor to the same place in a line of the cache, with the same strides.

    What torch allocates, and what it reads from a file, begins with a line. So a part of a longer vector lies elsewhere
    than a copy of it would.
    """
    if not value.numel():
        return value.clone()
    before = value.data_ptr() % LINE // value.element_size()
    last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    kept = value.new_zeros(before + last + 1).as_strided(value.shape, value.stride(), before)
    once = tuple(slice(None) if stride else slice(1) for stride in value.stride())  # what is expanded is there once
    kept[once].copy_(value[once])
    return kept


def _names(value: Any) -> tuple[str, ...]:
    """Return the names of the fields of a record; none of what is no record."""
    if is_dataclass(value):
        return tuple(part.name for part in fields(value))
    return tuple(getattr(value, "_fields", ()))


def taken_up(laid: Any, kinds: Mapping[str, Any], device: torch.device | None = None) -> Any:
    """Return what was laid out.

    Args:
        laid: what a file has.
        kinds: the records that may be in it, by name; fields that were left out have their defaults.
        device: of the tensors; by default where they are.

    Raises:
        LookupError: there is a record that may not be in it.
        TypeError: a record has other fields.
    """
    return _taken(laid, kinds, device, {})


def _taken(laid: Any, kinds: Mapping[str, Any], device: torch.device | None, met: dict[int, Any]) -> Any:
    if isinstance(laid, Tensor):
        return laid if device is None else laid.to(device)
    if isinstance(laid, dict):
        if id(laid) not in met:
            pairs = {key: _taken(item, kinds, device, met) for key, item in laid["of"]}
            met[id(laid)] = pairs if laid["is"] == "mapping" else kinds[laid["is"]](**pairs)
        return met[id(laid)]
    if isinstance(laid, (tuple, list)):
        parts = [_taken(item, kinds, device, met) for item in laid]
        return tuple(parts) if isinstance(laid, tuple) else parts
    return laid


def damaged(path: Any, whose: str, error: Exception) -> DataError:
    """Return the error of a file that has the right words and not the right contents."""
    got = f"a damaged one ({type(error).__name__}: {error})"
    return DataError(f"{path}: expected a file of {whose}, got {got}. {REMEDY}")
