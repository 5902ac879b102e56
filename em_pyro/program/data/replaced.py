"""Other observed values in the place of a program's: in its arguments where they are from there, else at the sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ...errors import EMError
from ...records.frozen import frozen
from ..changes.same import first_difference
from ..devices import visiting
from ..handlers import quiet, untouched_store
from ..named import Params
from ..program import Program

Call = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]
"""A model, its arguments, and those by name."""


class _Sites(Messenger):
    """Note the values of observed sites, and put others in their place."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values, self.was = values, dict[str, Any]()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            self.was[msg["name"]] = msg["value"]
            if msg["name"] in self.values:
                msg["value"] = self.values[msg["name"]]


@frozen
class Replacement:
    """How observed values of a program are replaced.

    What stands as `obs=` is in most models an argument, or a view of one (a column, a step). Then other values are put
    into a copy of the argument, and the model with all that it works out from the data, its initialisers too, sees
    them. Where it is not (a closure, a value that the model computes), or the model would have other distributions or
    covariates then (the past of a series is its argument too), the values are put at the sites themselves: everything
    else stays as it is, what initialisers see included.

    Attributes:
        program: with its arguments.
        places: of every site that is (a view of) an argument, the value that it has.
    """

    program: Program
    places: Mapping[str, Tensor] = field(repr=False)

    def __call__(self, values: Mapping[str, Tensor]) -> Call:
        """Return the program's model and arguments with `values` at its observed sites, by their names."""
        model, args, kwargs = self._in_arguments({n: v for n, v in values.items() if n in self.places})
        rest = {name: value for name, value in values.items() if name not in self.places}
        return (_with(model, rest) if rest else model), args, kwargs

    def _in_arguments(self, values: Mapping[str, Tensor]) -> Call:
        """Put values into copies of the arguments; views of the same memory stay views of the same."""
        program, copies = self.program, dict[tuple[int, torch.dtype], Tensor]()

        def copied(tensor: Tensor) -> Tensor:
            key = tensor.untyped_storage().data_ptr(), tensor.dtype
            if key not in copies:
                everything = tensor.detach().new_empty(0).set_(tensor.untyped_storage())  # type: ignore[call-overload]
                copies[key] = everything.clone()
            return copies[key].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

        memory = {self.places[name].untyped_storage().data_ptr() for name in values}
        args, kwargs = _each((program.args, dict(program.kwargs)), memory, copied)
        for name, value in values.items():
            copied(self.places[name]).copy_(value)
        return program.model, args, kwargs


def replacement(program: Program, params: Params, values: Mapping[str, Tensor]) -> Replacement:
    """Find out how observed values are replaced: `values` are some, by which it is tried.

    Raises:
        ModelError: the model is another program with them.
    """
    known = {name: value.detach() for name, value in params.items()}
    handler = _Sites({})
    with torch.no_grad(), quiet(), untouched_store(), program.given(known), visiting(), handler:
        program.model(*program.args, **program.kwargs)
    memory = set[int]()
    _each((program.args, dict(program.kwargs)), None, lambda tensor: memory.add(tensor.untyped_storage().data_ptr()))
    places = {
        name: was
        for name, value in values.items()
        if isinstance(was := handler.was.get(name), Tensor)
        and was.untyped_storage().data_ptr() in memory
        and was.shape == value.shape
        and all(step for step, size in zip(was.stride(), was.shape, strict=True) if size > 1)
    }
    at_sites, in_arguments = Replacement(program, {}), Replacement(program, places)
    if places:
        with torch.no_grad():
            try:
                found = _program(program, in_arguments(values)).run(known)
            except (EMError, IndexError, RuntimeError, ValueError):
                return at_sites
            if not first_difference(_program(program, at_sites(values)).run(known), found):
                return in_arguments
    return at_sites


def _program(program: Program, call: Call) -> Program:
    return replace(program, model=call[0], args=call[1], kwargs=call[2])


def _with(model: Callable[..., Any], values: Mapping[str, Tensor]) -> Callable[..., Any]:
    def other(*args: Any, **kwargs: Any) -> Any:
        with _Sites(values):
            return model(*args, **kwargs)

    return other


def _each(part: Any, memory: set[int] | None, change: Callable[[Tensor], Any]) -> Any:
    """Change the tensors in lists, tuples and dicts: all, or those that lie in some memory."""
    if isinstance(part, Tensor):
        return change(part) if memory is None or part.untyped_storage().data_ptr() in memory else part
    if type(part) in (list, tuple):
        return type(part)(_each(one, memory, change) for one in part)
    return {key: _each(one, memory, change) for key, one in part.items()} if type(part) is dict else part
