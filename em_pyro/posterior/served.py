"""Kinds of arguments that fitted values are known to serve: those of a kind take one run of the model.

What is checked of other rows (`new_rows.py`, `misfits.py`) speaks of shapes, types, states and statements. Where all of
these are as they were, but for the number of rows, the answer is as it was. Whatever differs is checked anew, so that a
kind is never more than a shortcut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..program.named import unwrap
from ..program.program import Program
from ..program.site import Site
from ..records.frozen import frozen

KEPT = 8  # kinds that are remembered


@frozen
class Kind:
    """Arguments alike but for the number of rows.

    Attributes:
        structure: types, dtypes, and what is no number.
        sizes: shapes of tensors and whole numbers, side by side.
        rows: the plate whose size each of these is, or "".
        program: without arguments: no data is kept.
        sites: what is to be the same of every site.
    """

    structure: Any
    sizes: tuple[int, ...]
    rows: tuple[str, ...]
    program: Program = field(repr=False)
    sites: Mapping[str, Any] = field(repr=False)

    def plates(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int] | None:
        """Return the sizes that the plates have on arguments of this kind; None if these are of another."""
        found = described(args, kwargs)
        if found is None or found[0] != self.structure:
            return None
        known = dict(self.program.plates)
        for was, now, plate in zip(self.sizes, found[1], self.rows, strict=True):
            if not plate and now != was:
                return None
            if plate:
                known[plate] = now
        consistent = all(not p or known[p] == now for p, now in zip(self.rows, found[1], strict=True))
        return known if consistent else None


def kind_of(here: Program, there: Program, args: Any, kwargs: Any, sites: Mapping[str, Site]) -> Kind | None:
    """Return the kind of arguments that have been served; None if they hold what cannot be compared.

    Args:
        here: what was fitted.
        there: the same on the arguments.
        args: the arguments, as they were passed.
        kwargs: likewise.
        sites: of a run on them.
    """
    found = described(args, kwargs)
    if found is None:
        return None
    structure, sizes = found
    # Where a parameter has an entry for each row that was fitted, or happens to have so many, rows are as many as here.
    shapes = {size for parameter in there.parameters.values() for size in parameter.initial.shape}
    free = {size: plate for plate, size in there.plates.items() if here.plates.get(plate) not in shapes}
    rows = tuple(free.get(size, "") for size in sizes)
    stripped = replace(there, args=(), kwargs={}, indices={}, passed=((), {}))
    return Kind(structure, sizes, rows, stripped, signatures(sites))


def signatures(sites: Mapping[str, Site]) -> dict[str, Any]:
    """Return of every site its distribution, the shape of an event, and that of a value in a row."""
    return {name: _signature(site) for name, site in sites.items()}


def _signature(site: Site) -> Any:
    fn = site.fn
    columns = site.value.shape[max(0, site.value.dim() - len(fn.event_shape)) :]
    return site.role, type(unwrap(fn).base), fn.event_shape, columns, site.plates, site.mask is None


def described(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, tuple[int, ...]] | None:
    """Return what arguments are, and all sizes and whole numbers in them; None if one cannot be compared."""
    sizes: list[int] = []
    try:
        return _described([args, dict(kwargs)], sizes), tuple(sizes)
    except TypeError:
        return None


def _described(value: Any, sizes: list[int]) -> Any:
    """Describe an argument but for its numbers, and collect its `sizes`; a TypeError where that cannot be done."""
    kind = type(value)
    if isinstance(value, Tensor):
        sizes += value.shape
        return kind, value.dtype, value.device, value.dim()
    if isinstance(value, np.ndarray):
        sizes += value.shape
        return kind, value.dtype, value.ndim
    if kind is int:
        sizes.append(value)
        return kind
    if value is None or kind in (bool, float, str, torch.dtype):
        return kind, value
    if kind in (list, tuple):
        return kind, tuple(_described(part, sizes) for part in value)
    if kind is dict:
        return kind, tuple((key, _described(part, sizes)) for key, part in value.items())
    raise TypeError(kind.__name__)
