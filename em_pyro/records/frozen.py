"""Frozen records: values with named fields, compared by identity, which cost little to define.

For each class `dataclasses` writes and compiles what sets its fields, what shows them and what refuses to change them,
and of a hundred and fifty records that was most of what importing the package costs. Here one function is compiled for
each, its initialiser; all records share the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        """Say nothing: it is for those who check types."""
        return lambda made: made


Record = TypeVar("Record", bound=type)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def frozen(made: Record) -> Record:
    """Make a dataclass that is frozen, and equal to nothing but itself.

    `field`, `fields`, `replace`, `__post_init__` and inheritance between such classes are as for other dataclasses.
    """
    dataclass(init=False, repr=False, eq=False)(made)
    methods: dict[str, Any] = {"__init__": _initialiser(made), "__setattr__": _refuse, "__delattr__": _refuse}
    if "__repr__" not in vars(made):
        methods["__repr__"] = _shown
    for name, method in methods.items():
        setattr(made, name, method)
    return made


def _initialiser(made: type) -> Callable[..., None]:
    """Compile what takes the fields of a class, and puts them where nothing refuses it."""
    known: dict[str, Any] = {"__missing": MISSING}
    by_place, by_name, put = ["self"], list[str](), list[str]()
    for one in fields(made):
        name, default, factory = one.name, f"__of_{one.name}", one.default_factory
        value = name if one.init else ""
        if factory is not MISSING:
            known[default] = factory
            value = f"{default}() if {name} is __missing else {name}" if one.init else f"{default}()"
        elif one.default is not MISSING:
            known[default] = one.default
        if one.init:
            plain = f"={'__missing' if factory is not MISSING else default}" if default in known else ""
            (by_name if one.kw_only else by_place).append(name + plain)
        if value:
            put.append(f"{name}={value}")
    given = ", ".join([*by_place, *(["*", *by_name] if by_name else ())])
    after = "; self.__post_init__()" if hasattr(made, "__post_init__") else ""
    exec(f"def __init__({given}): self.__dict__.update({', '.join(put)}){after}", known)
    initialiser: Callable[..., None] = known["__init__"]
    initialiser.__module__, initialiser.__qualname__ = made.__module__, f"{made.__qualname__}.__init__"
    initialiser.__annotations__ = {one.name: one.type for one in fields(made) if one.init} | {"return": None}
    return initialiser


def _refuse(self: object, name: str, *_: Any) -> NoReturn:
    raise FrozenInstanceError(f'cannot change "{name}" of a {type(self).__name__}: make another one')


@recursive_repr()
def _shown(self: Any) -> str:
    shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
    return f"{type(self).__qualname__}({shown})"
