"""The rows of a plate in the arguments of a model: along which dimension they lie, and the arguments of some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError, ParameterError
from ..program.data.rows_of import rows_of, shape_of, taken
from ..program.named import Named, Params
from ..program.program import Program
from ..program.site import Site
from ..records.frozen import frozen

AGREES = 1e-6  # log-densities of the same row among other rows, relative to 1 + their size


@frozen
class Cut:
    """How arguments are cut into rows of a plate.

    Attributes:
        plate: its name.
        rows: how many it has.
        dims: for an argument, by position or name, the dimension of its rows; None passes it whole. Others are looked
            at: the one dimension that is as long as the plate.
    """

    plate: str
    rows: int
    dims: Mapping[int | str, int | None] = field(default_factory=dict)

    def some(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], index: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of some rows, `index` their numbers; what is not by row stays as it is.

        Raises:
            ParameterError: two dimensions are as long as the plate, or none of any argument is.
        """
        cut = [self._cut(i, value, index) for i, value in enumerate(args)]
        named = {key: self._cut(key, value, index) for key, value in kwargs.items()}
        if not any(changed for _, changed in (*cut, *named.values())):
            raise ParameterError(
                f'cross_validate: expected an argument with the {self.rows} rows of plate "{self.plate}", got none. '
                f"Pass the data as an argument of the model, not through a closure; rows that lie in groups by an "
                f"index, laid out so that the groups are a dimension."
            )
        return tuple(value for value, _ in cut), {key: value for key, (value, _) in named.items()}

    def _cut(self, key: int | str, value: Any, index: Tensor) -> tuple[Any, bool]:
        """Return an argument with some rows, and whether it has rows."""
        if key not in self.dims:
            return self._inside(key, value, index)
        dim = self.dims[key]
        if dim is None:
            return value, False
        shape = shape_of(value)
        if shape is None or not -len(shape) <= dim < len(shape) or shape[dim] != self.rows:
            got = f"{dim} of {f'shape {shape}' if shape is not None else type(value).__name__}"
            raise ParameterError(
                f"cross_validate: expected dims[{key!r}] to be the dimension of the {self.rows} rows of plate "
                f'"{self.plate}", got {got}. Count from zero.'
            )
        return _taken(value, dim, index), True

    def _inside(self, key: int | str, value: Any, index: Tensor) -> tuple[Any, bool]:
        """Cut what has one dimension of rows, and what is in lists, tuples and dicts."""
        found = rows_of(value, self.rows, partial(self._array, key, index), partial(_picked, index))
        return found, found is not value

    def _array(self, key: int | str, index: Tensor, value: Any) -> Any:
        """Cut an array or a frame that has one dimension of rows."""
        shape = tuple(value.shape)
        places = [i for i, size in enumerate(shape) if size == self.rows]
        if len(places) > 1:
            raise ParameterError(
                f"cross_validate: expected one dimension of argument {key!r} to have the {self.rows} rows of plate "
                f'"{self.plate}", got {len(places)} in shape {shape}. Say which: dims={{{key!r}: {places[0]}}}, or '
                f"None to pass it whole."
            )
        return _taken(value, places[0], index) if places else value


def _picked(index: Tensor, value: Any) -> Any:
    return type(value)(value[int(i)] for i in index)


def _taken(value: Any, dim: int, index: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.index_select(dim, index.to(value.device))
    if isinstance(value, np.ndarray):
        return np.take(value, index.numpy(), dim)
    return taken(value, index.numpy()) if dim == 0 else value.iloc[:, index.numpy()]


def check_cut(whole: Program, cut: Cut, params: Params, index: Tensor) -> None:
    """Raise unless the program of some rows says of each what the whole does: the same densities, at `params`.

    Raises:
        ModelError: it does not run, has other rows, or other densities.
    """
    args, kwargs = cut.some(whole.args, whole.kwargs, index)
    remedy = "Say with dims= which dimension of an argument has the rows, or None for one that is passed whole"
    try:
        part = whole.on(args, kwargs, params)
    except ModelError as error:
        raise ModelError(
            f'cross_validate: expected the model to run on {len(index)} rows of plate "{cut.plate}", got this: {error} '
            f"{remedy}."
        ) from error
    if part.plates.get(cut.plate) != len(index):
        got = f"got {part.plates.get(cut.plate)}"
        raise ModelError(f'cross_validate: expected plate "{cut.plate}" to have {len(index)} rows, {got}. {remedy}.')
    with torch.no_grad():
        every = whole.run(params)
        some = part.run(params, {name: _rows(every[name], cut.plate, index) for name in whole.integrated})
    for name, site in every.items():
        if site.role == "prior" or cut.plate not in site.plates:
            continue
        if not _agree(site.log_prob(), some[name].log_prob(), cut.plate, index):
            raise ModelError(
                f'Site "{name}": expected a row of plate "{cut.plate}" to have the same density whatever other rows '
                f"are passed, got another. {remedy}; what is worked out from all rows (a mean, say) pass as an "
                f"argument."
            )


def _rows(latent: Site, plate: str, index: Tensor) -> Tensor:
    """Return what stands for a continuous latent in some rows: the same as for them among all."""
    if plate not in latent.plates:
        return latent.value
    dim = next(dim for dim, name in latent.dims.items() if name == plate)
    return latent.value.index_select(dim - latent.fn.event_dim, index.to(latent.value.device))  # type: ignore[attr-defined]


def _agree(whole: Named, part: Named, plate: str, index: Tensor) -> bool:
    """Whether the chosen rows have the same log-densities in the whole and in the part."""
    names = tuple(dict.fromkeys((*whole.names, *part.names)))
    was, now = whole.align(names), part.align(names)
    if plate in whole.names:
        was = was.index_select(names.index(plate), index.to(was.device))
    same = (was == now) | ((was - now).abs() <= AGREES * (1 + was.abs())) | (was.isnan() & now.isnan())
    return bool(same.all())
