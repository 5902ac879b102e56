"""Has what a model sees changed? Planning is done once for the same model and arguments with the same contents.

A model sees its arguments, what its closure and its globals hold, and the attributes of the objects among them. All of
these are read through, so a few dozen of them cost microseconds, and tensors and arrays on the host a checksum. Code
of libraries is taken to stay as it is.
"""

from __future__ import annotations

import contextlib
import dis
import sys
import sysconfig
import zlib
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyro
import torch
from pyro.params.param_store import ParamStoreDict
from torch import Tensor

from ..errors import DataError
from .named import SLICE

Fingerprint = Mapping[str, Any]
"""What the model sees, by a name that a reader finds in the source: the identity and the contents of each thing."""

PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})
DEEPEST = 20  # objects inside one another; below, they are told apart by identity alone
LONG = 100  # a list of so many numbers and words is one thing, not one for each of them
HERE = __name__.partition(".")[0]
LIBRARIES = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib"))


def fingerprint(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], skip: Collection[int] = ()
) -> dict[str, Any]:
    """Return the identity and contents of all that a model sees: equal only where these are equal.

    Args:
        model: the model.
        args: what it is called with.
        kwargs: likewise.
        skip: `id`s of tensors whose contents do not matter: those that a fit writes to.

    Raises:
        DataError: a tensor was made under `torch.inference_mode`.
    """
    seen = _Seen({id(tensor) for tensor in pyro.get_param_store()._params.values()} | set(skip))
    for k, value in enumerate(args):
        seen.look(f"argument {k}", value)
    for name, value in sorted(kwargs.items()):
        seen.look(f"argument {name}", value)
    seen.look("the model", model)
    return seen.found


def lasting(before: Fingerprint, after: Fingerprint) -> dict[str, Any]:
    """Return what of `after` runs of the model did not change themselves: no counter, and no list of what it did."""
    moving = {name for name in before if after.get(name) != before[name]}
    within = tuple(name + mark for name in moving for mark in ".[ ")
    return {name: seen for name, seen in after.items() if name not in moving and not name.startswith(within)}


def first_change(before: Fingerprint, now: Fingerprint) -> str:
    """Return the name of the first thing that is not as it was; empty if all is."""
    return next((name.strip() for name, seen in before.items() if now.get(name) != seen), "")


class _Seen:
    """What was seen so far, and what was met: an object that is met twice is read once."""

    def __init__(self, skip: set[int]) -> None:
        self.skip, self.met, self.found = skip, set[int](), dict[str, Any]()

    def look(self, name: str, value: Any, depth: int = 0) -> None:
        """Note what `value` is, and all that a model reaches through it."""
        while name in self.found:  # two modules may have a variable of one name
            name += " "
        if type(value) in PLAIN:
            self.found[name] = type(value), value if value == value else "nan"
            return
        self.found[name] = id(value)
        if depth == DEEPEST or id(value) in self.met or id(value) in self.skip:
            return
        self.met.add(id(value))
        if isinstance(value, (Tensor, np.ndarray)):
            self.found[name] = id(value), *_contents(name, value)
            return
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            self.found[name] = id(value), len(value), _hash(value)
        for key, item in _inside(value):
            self.look(key if key.isidentifier() else f"{name}{key}", item, depth + 1)


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a model reaches through an object: names of variables, and attributes and items with `.` or `[]`."""
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in list(value.items()))
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{k}]", item) for k, item in enumerate(value)) if _hash(value) is None else ()
    elif isinstance(value, MethodType):
        yield from (("self", value.__self__), ("", value.__func__))
    elif isinstance(value, partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, FunctionType):
        yield from _referred(value)
    elif isinstance(value, type):
        if not _of_a_library(value.__module__):
            yield from ((f".{key}", _function(item)) for key, item in list(vars(value).items()))
    elif hasattr(value, "columns") and hasattr(value, "__array__"):
        yield from ((f"[{key!r}]", _summary(column)) for key, column in value.items())
    elif hasattr(value, "__array__"):
        yield ".values", _summary(value)
    elif not isinstance(value, ModuleType) and _is_open(type(value)):
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        state = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
        yield from ((f".{key}", item) for key, item in state.items())
        yield f".{type(value).__name__}", type(value)


def _referred(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables outside a function that it names; of a library's function, those of its closure."""
    yield from ((".default", value) for value in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    outer = dict[str, Any]()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not filled yet
            outer[name] = cell.cell_contents
    names, attributes = _names(function.__code__)
    if not function.__code__.co_filename.startswith(LIBRARIES):
        outer |= {name: function.__globals__.get(name) for name in names}
    for name, value in outer.items():
        yield name, value
        if isinstance(value, ModuleType) and not _of_a_library(value.__name__):
            yield from ((f".{key}", vars(value)[key]) for key in attributes if key in vars(value))


@lru_cache(maxsize=1000)
def _names(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the global variables and the attributes that a function names, those of functions inside it included."""
    names, attributes = dict[str, None](), dict[str, None]()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names[step.argval] = None
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes[step.argval] = None
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more, others = _names(inner)
            names |= dict.fromkeys(more)
            attributes |= dict.fromkeys(others)
    return tuple(names), tuple(attributes)


@lru_cache(maxsize=1000)
def _of_a_library(module: str) -> bool:
    """Whether code of this module is installed, not written beside the model."""
    file = getattr(sys.modules.get(module), "__file__", None)
    inner = module.partition(".")[0]
    return inner == HERE or (module in sys.builtin_module_names or (file or "").startswith(LIBRARIES))


def _is_open(kind: type) -> bool:
    """Whether the attributes of an object are part of a model: it is of the user's class, or made to hold things."""
    if kind in (Namespace, SimpleNamespace):
        return True
    return (
        kind.__module__.partition(".")[0] in ("torch", "pyro")
        and kind is not ParamStoreDict
        or not (_of_a_library(kind.__module__))
    )


def _function(attribute: Any) -> Any:
    """Return the function of a property, a class method or a static method; anything else as it is."""
    return getattr(attribute, "fget", None) or getattr(attribute, "__func__", attribute)


def _summary(value: Any) -> int:
    """Return one number for what makes an array anew whenever it is asked for one."""
    return hash(_contents("", np.asarray(value)))


def _hash(value: Any) -> int | None:
    """Return one number for a set, or for a long list of numbers and words; None for what is looked at one by one."""
    if isinstance(value, (set, frozenset)):
        return hash(frozenset(value))
    if len(value) > LONG and not isinstance(value, dict) and PLAIN.issuperset(map(type, value)):
        return hash(tuple(value))
    return None


def _contents(name: str, value: Tensor | np.ndarray) -> tuple[Any, ...]:
    """Return the version and a checksum of a tensor or an array: not every change of them is counted."""
    if isinstance(value, Tensor):
        if value.is_inference():
            raise DataError(
                f"{name.strip()}: expected tensors that autograd may use, got one that was made under "
                f"torch.inference_mode(). Clone it outside of that: {name.strip()}.clone()."
            )
        return value._version, value.requires_grad, _checksum(value)
    if value.dtype == object:
        return (hash(str(value.tolist())),)
    rows = np.atleast_1d(value)
    return value.shape, *(zlib.crc32(rows[at : at + SLICE].tobytes()) for at in range(0, len(rows), SLICE))


def contents_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of every tensor and array among the arguments, by what to call it in an error."""
    named = {f"Argument {k + 1} of the model": value for k, value in enumerate(args)}
    named |= {f'Argument "{name}" of the model': value for name, value in kwargs.items()}
    return {name: _contents(name, value) for name, value in named.items() if isinstance(value, (Tensor, np.ndarray))}


def _checksum(tensor: Tensor) -> int:
    """Return a checksum of what a tensor on the host holds, slice by slice; that of another device is not fetched."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or not tensor.numel():
        return 0
    tensor, found = tensor.detach(), 0
    for part in (tensor,) if tensor.is_contiguous() else tensor.split(SLICE):
        found = zlib.crc32(part.contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return found
