"""Has what a model sees changed? Planning is done once for the same model and arguments with the same contents.

A model sees its arguments, what its closure and its globals hold, and the attributes of the objects among them. All of
these are read through, so a few dozen of them cost microseconds, and tensors and arrays on the host a checksum. Code
of libraries is taken to stay as it is. What a library other than torch, Pyro and NumPy hides (a queue, a clock, the
environment), and what the model looks up by a name that it computes, cannot be read: it is named, so that the model is
run once more where it is met.
"""

from __future__ import annotations

import contextlib
import dis
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyro
import torch
from pyro.params.param_store import ParamStoreDict
from torch import Tensor
from torch.distributions import Transform

from ..data.rows_of import named_columns
from .contents import contents

Fingerprint = Mapping[str, Any]
"""What the model sees, by a name that a reader finds in the source: the identity and the contents of each thing."""

PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})
DEEPEST = 20  # objects inside one another; below, they are told apart by identity alone
LONG = 100  # a list of so many numbers and words is one thing, not one for each of them
HERE = __name__.partition(".")[0]
READ = frozenset({HERE, "torch", "pyro", "numpy", "math", "typing", "types", "__future__", "functools", "operator"})
"""Libraries whose functions have nothing to hide, and whose objects hide nothing that their attributes do not show."""
CONSTANTS = (slice, range, np.dtype, torch.dtype, torch.device, torch.layout, type(...))
CONTAINERS = (Tensor, list, tuple, set, frozenset, dict, MethodType, partial)
LOOKED_UP = frozenset({"eval", "exec", "getattr", "globals", "input", "next", "open", "vars", "__import__"})
"""Built-in functions that lead out of what can be read."""
UNREAD = "what cannot be read"
REMEMBERED = ("_inv", "_cached_x_y")  # by a transform, of its last use: what it does stays the same


def libraries() -> tuple[str, ...]:
    """Return the folders of installed code: of this environment, of those below it, and of packages in a clone."""
    found = {sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
    found |= {str(Path(str(package.__file__)).parent) for package in (np, pyro, torch)}
    return tuple(sorted(found))


LIBRARIES = libraries()


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
    seen.found["the default dtype"] = torch.get_default_dtype()
    seen.found[UNREAD] = tuple(seen.unread)
    return seen.found


def held(model: Callable[..., Any]) -> dict[str, Any]:
    """Return what a model reaches, without contents of tensors: one that notes down its runs holds more after each."""
    seen = _Held(set())
    seen.look("the model", model)
    return seen.found


def unread(seen: Fingerprint) -> tuple[str, ...]:
    """Return the names of what the model reaches and no fingerprint can tell from what it was."""
    found: tuple[str, ...] = seen.get(UNREAD, ())
    return found


def lasting(before: Fingerprint, after: Fingerprint) -> dict[str, Any]:
    """Return what of `after` runs of the model did not change: a counter, and a list of what it did, are unread."""
    moving = {name for name in before if name != UNREAD and after.get(name) != before[name]}
    within = tuple(name + mark for name in moving for mark in ".[ ")
    kept = {name: seen for name, seen in after.items() if name not in moving and not name.startswith(within)}
    return {**kept, UNREAD: (*unread(after), *sorted(moving))}


def first_change(before: Fingerprint, now: Fingerprint) -> str:
    """Return the name of the first thing that is not as it was; empty if all is."""
    return next((n.strip() for n, seen in before.items() if now.get(n) != seen and n != UNREAD), "")


class _Seen:
    """What was seen so far, and what was met: an object that is met twice is read once."""

    def __init__(self, skip: set[int]) -> None:
        self.skip, self.met, self.found, self.unread = skip, set[int](), dict[str, Any](), list[str]()

    def contents(self, name: str, value: Tensor | np.ndarray) -> tuple[Any, ...]:
        """Note what a tensor or an array holds."""
        return contents(name, value)

    def look(self, name: str, value: Any, depth: int = 0) -> None:
        """Note what `value` is, and all that a model reaches through it."""
        while name in self.found:  # two modules may have a variable of one name
            name += " "
        if type(value) in PLAIN:
            self.found[name] = type(value), value if value == value else "nan"
            return
        self.found[name] = id(value)
        if id(value) in self.met or id(value) in self.skip:
            return
        if depth == DEEPEST or _hides(value):
            self.unread.append(name)
        if depth == DEEPEST:
            return
        self.met.add(id(value))
        if isinstance(value, (Tensor, np.ndarray)):
            self.found[name] = id(value), *self.contents(name, value)
            return
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            self.found[name] = id(value), len(value), _hash(value)
        for key, item in _inside(value):
            self.look(key if key.isidentifier() else f"{name}{key}", item, depth + 1)


class _Held(_Seen):
    """The same by identity alone."""

    def contents(self, name: str, value: Tensor | np.ndarray) -> tuple[Any, ...]:
        """Note nothing."""
        return ()


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
    elif found := named_columns(value):
        yield from ((f"[{key!r}]", _summary(column)) for key, column in found)
    elif hasattr(value, "__array__"):
        yield ".values", _summary(value)
    elif not isinstance(value, ModuleType) and _is_open(type(value)):
        yield from ((f".{key}", item) for key, item in _state(value).items())
        yield f".{type(value).__name__}", type(value)


def _state(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, but for what it remembers of its use."""
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    state = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
    return {key: item for key, item in state.items() if not (key in REMEMBERED and isinstance(value, Transform))}


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
        yield from _of_modules(value, attributes)


def _of_modules(value: Any, attributes: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield what a function may name of a module of the user's, and of those inside it."""
    left, met = [value], set[int]()
    while left:
        module = left.pop()
        if isinstance(module, ModuleType) and id(module) not in met and not _of_a_library(module.__name__):
            met.add(id(module))
            found = {key: vars(module)[key] for key in attributes if key in vars(module)}
            yield from ((f".{key}", item) for key, item in found.items())
            left += found.values()


def _hides(value: Any) -> bool:
    """Whether a model may learn something of a value that is not read: it is of a library that is not known."""
    if isinstance(value, ModuleType):
        return _of_a_library(value.__name__) and value.__name__.partition(".")[0] not in READ
    if isinstance(value, FunctionType):
        if value.__code__.co_filename.startswith(LIBRARIES):
            return value.__module__.partition(".")[0] not in READ
        return not LOOKED_UP.isdisjoint(_names(value.__code__)[0])
    if isinstance(value, (type, BuiltinFunctionType)):
        owner = getattr(value, "__self__", None)
        module = value.__module__ or (owner if isinstance(owner, type) else type(owner)).__module__
        return _of_a_library(module) and module.partition(".")[0] not in READ | {"builtins", "collections"}
    return not (isinstance(value, (*CONTAINERS, *CONSTANTS)) or hasattr(value, "__array__") or _is_open(type(value)))


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
    of_torch = kind.__module__.partition(".")[0] in ("torch", "pyro") and kind is not ParamStoreDict
    return kind in (Namespace, SimpleNamespace) or of_torch or not _of_a_library(kind.__module__)


def _function(attribute: Any) -> Any:
    """Return the function of a property, a class method or a static method; anything else as it is."""
    return getattr(attribute, "fget", None) or getattr(attribute, "__func__", attribute)


def _summary(value: Any) -> int:
    """Return one number for what makes an array anew whenever it is asked for one."""
    return hash(contents("", np.asarray(value)))


def _hash(value: Any) -> int | None:
    """Return one number for a set, or for a long list of numbers and words; None for what is looked at one by one."""
    if isinstance(value, (set, frozenset)):
        return hash(frozenset(value))
    if len(value) > LONG and not isinstance(value, dict) and PLAIN.issuperset(map(type, value)):
        return hash(tuple(value))
    return None
