"""Lookups by numbers below zero, which count from the end, for torch as for Python.

A model runs with them. Where they are data they are codes of what is missing, as that of pandas, or labels less one too
many; and the entry at the end is somebody else's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import DataError
from .data.indices import MOST, leaves, swapped
from .named import Params
from .program import Program
from .site import Site
from .unroll import user_site

WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64)


class BelowZero(TorchFunctionMode):
    """Note the lookups of a run whose index has numbers below zero; and, if asked, take the first entry in their place.

    Attributes:
        met: by how many lookups there were before: the least of these numbers, and where they are held in memory.
        held: what is held there, so that nothing else comes to be.
    """

    def __init__(self, *, first: bool = False) -> None:
        """Note from now on."""
        super().__init__()
        self.first, self.count, self.met, self.held = first, 0, dict[int, tuple[int, set[int]]](), list[Any]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at what is looked up."""
        if func is Tensor.__getitem__:
            self.count += 1
            index = args[1] if type(args[1]) is tuple else (args[1],)
            whole = {k: found for k, part in enumerate(index) if (found := _whole(part)) is not None}
            below = {k: numbers for k, numbers in whole.items() if int(numbers.min()) < 0}
            if below:
                self.met[self.count] = min(int(part.min()) for part in below.values()), {_at(index[k]) for k in below}
                self.held.append(index)
                if self.first:
                    args = (args[0], tuple(below[k].clamp(min=0) if k in below else i for k, i in enumerate(index)))
        return func(*args, **(kwargs or {}))


def _whole(part: Any) -> Tensor | None:
    """Return a part of an index that is an array of whole numbers; nothing of others."""
    if isinstance(part, (list, np.ndarray)) or hasattr(part, "to_numpy"):
        array = np.asarray(part)
        part = torch.tensor(array) if array.dtype.kind == "i" else None
    return part if isinstance(part, Tensor) and part.dtype in WHOLE and part.numel() else None


def _at(part: Any) -> int:
    """Return where an array is in memory; of a list, which object it is."""
    if isinstance(part, Tensor):
        return part.data_ptr()
    return id(part) if isinstance(part, list) else int(np.asarray(part).ctypes.data)


def check_lookups(program: Program, values: Params, met: BelowZero | None = None) -> None:
    """Raise where a row that counts looks up by a number below zero that is data.

    It counts where it has another density with the first entry in place of the last. It is data where it comes from an
    argument: with all numbers of that the same the lookup has none below zero; or where it is there before the run.

    Args:
        program: what is run.
        values: of its parameters, entries of which differ.
        met: what was met in a run before, if there was one: next to all programs have nothing there.

    Raises:
        DataError: with the argument, the number, the site and its row.
    """
    if met is not None and not met.met:
        return
    met = _met(program, values)
    if met is None or not met.met or (where := _counting(program, values)) is None:
        return
    what, lookups = _to_blame(met, program, values)
    if not lookups:
        return
    site, row = where
    raise DataError(
        f"{what}: expected indices that count from zero, got {min(met.met[k][0] for k in lookups)}, with which site "
        f'"{site}" takes an entry from the end at index {row}; pandas has -1 for what is missing. Remove the row; or '
        f"give it an index that there is, and leave out by fn.mask(observed) what it has. If the end is meant, count "
        f"it from the beginning."
    )


def _counting(program: Program, values: Params) -> tuple[str, tuple[int, ...]] | None:
    """Return the first site, and its row, that has another density with the first entry in place of the last."""
    with torch.no_grad():
        before = program.run(values)
        with BelowZero(first=True):
            after = program.run(values)
        for name, site in before.items():
            if site.role != "prior" and (row := _changed(site, after[name])) is not None:
                return user_site(name), row
    return None


def _changed(site: Site, other: Site) -> tuple[int, ...] | None:
    """Return the first row of a site with another density; None if there is none."""
    here, there = site.log_prob(), other.log_prob()
    if here.names != there.names or here.tensor.shape != there.tensor.shape:
        return (0,) * len(site.plates)
    changed = (here.tensor != there.tensor) & ~(here.tensor.isnan() & there.tensor.isnan())
    if not bool(changed.any()):
        return None
    at = dict(zip(here.names, changed.nonzero()[0].tolist(), strict=True))
    return tuple(at.get(plate, 0) for plate in site.plates)


def _to_blame(met: BelowZero, program: Program, values: Params) -> tuple[str, set[int]]:
    """Name the argument from which numbers below zero come, and say in which lookups; nothing if they are no data."""
    try:
        given = inspect.signature(program.model).bind(*program.args, **program.kwargs)
    except (TypeError, ValueError):  # of a builtin
        return "", set()
    tried = [leaf for name, value in given.arguments.items() for leaf in leaves(f'"{name}"', name, value)]
    tried += [(f'"{name}"', name, value) for name, value in given.arguments.items() if type(value) is list]
    for label, name, value in tried[:MOST]:
        for same in _all_the_same(value):
            changed: Mapping[str, Any] = {**given.arguments, name: swapped(given.arguments[name], value, same)}
            call = inspect.BoundArguments(given.signature, changed)  # type: ignore[arg-type]
            other = _met(replace(program, args=call.args, kwargs=call.kwargs), values)
            if other is not None and (gone := met.met.keys() - other.met.keys()):
                return f"Argument {label}", gone
    again = _met(program, values)
    held = set[int]().union(*(places for _, places in again.met.values())) if again is not None else set[int]()
    return "The model", {k for k, (_, places) in met.met.items() if places & held}


def _all_the_same(value: Any) -> list[Any]:
    """An argument of whole numbers with the largest of them in all places, and with the least; nothing of others."""
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        return [np.full_like(array, end) for end in (array.max(), array.min())] if array.dtype.kind in "if" else []
    if value.is_complex() or value.dtype == torch.bool or not value.numel():
        return []
    if value.is_floating_point() and not bool((value == value.floor()).all()):
        return []
    return [torch.full_like(value, end.item()) for end in value.aminmax()[::-1]]


def _met(program: Program, values: Params) -> BelowZero | None:
    """Run a program, and return what is below zero in its lookups; None if it does not run."""
    met = BelowZero()
    try:
        with torch.no_grad(), met:
            program.run(values)
    except Exception:  # of the model, with arguments that nobody has passed
        return None
    return met
