"""Slips of a model itself, whatever it is given: floats as indices, changes in place, arrays among tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from pyro.poutine import block
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..handlers import quiet, untouched_store
from .rows_of import named_columns

NO_INDEX = "tensors used as indices must be"
IN_PLACE = "requires grad is being used in an in-place operation"
TO_NUMPY = "Can't call numpy() on Tensor that requires grad"
NO_NUMBER = ("invalid data type 'str'", "too many indices", "non-tuple sequence")  # of words, by how many they are
MOST = 20  # statements that are tried


def slip(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> str:
    """Say what a model does amiss, which sites or parameters it concerns, and the remedy; empty if it is no known slip.

    A statement is to blame if the error is gone with another value of it: a float as a whole number, a parameter as a
    copy.

    Args:
        model: the model.
        args: what it was run with.
        kwargs: likewise.
        error: what it raised.
    """
    text = str(error)
    if isinstance(error, IndexError) and NO_INDEX in text:
        names = list(_to_blame(model, args, kwargs, text, "sample"))
        got = "expected whole numbers, since the model takes it as an index, got floats, as of a Bernoulli"
        return f"Site {_listed(names)}: {got}. Index by {names[0]}.long()." if names else ""
    if isinstance(error, RuntimeError) and IN_PLACE in text:
        names = list(_to_blame(model, args, kwargs, text, "param"))
        what, copy = (f"Parameter {_listed(names)}", names[0]) if names else ("The model", "weight")
        got = "expected parameters to stay as they are in the model, got a change in place"
        return f"{what}: {got}. Work on a copy: {copy} = {copy}.clone()."
    passed = (*args, *kwargs.values())
    frames = [value for value in passed if hasattr(value, "__array__") and not isinstance(value, Tensor)]
    if said := _among_tensors(frames, [value for value in passed if hasattr(value, "toarray")], error):
        return said
    words = [name for one in frames for name, part in named_columns(one) if np.asarray(part).dtype.kind in "OU"]
    if words and any(said in text for said in NO_NUMBER):
        got = f"got words, if it indexes by {_listed(words)}"
        return (
            f"The model: expected whole numbers as indices, {got}. Number them: pd.factorize(frame[{words[0]!r}])[0]."
        )
    return ""


def _among_tensors(frames: list[Any], sparse: list[Any], error: Exception) -> str:
    """Say that arrays, frames or sparse matrices of SciPy stand where a model computes with parameters; or nothing."""
    by_numpy = isinstance(error, RuntimeError) and TO_NUMPY in str(error)
    kinds = [type(value).__name__ for value in sparse]
    if kinds and (by_numpy or kinds[0] in str(error)):
        got = f"got a {kinds[0]} of SciPy, which cannot be computed with beside tensors"
        return f"The model: expected tensors, {got}. Pass torch.as_tensor(x.toarray())."
    if by_numpy:
        got = f"got some of NumPy or pandas ({_listed({type(one).__name__ for one in frames}) or 'made inside'})"
        return (
            f"The model: expected tensors where it computes with parameters, {got}. Make a tensor of each: "
            f"torch.as_tensor(x), of a column torch.as_tensor(frame[name].to_numpy())."
        )
    return ""


class _Other(Messenger):
    """Note the statements of a kind, and give those of some names another value."""

    def __init__(self, kind: str, names: tuple[str, ...] | None) -> None:
        super().__init__()
        self.kind, self.names, self.met = kind, names, list[str]()

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        latent = self.kind == "sample" and not msg["is_observed"] and msg["fn"].has_enumerate_support
        if latent and isinstance(value, Tensor) and value.is_floating_point():
            self._met(msg, value.long)

    def _pyro_post_param(self, msg: Any) -> None:
        if self.kind == "param" and isinstance(msg["value"], Tensor):
            self._met(msg, msg["value"].clone)

    def _met(self, msg: Any, other: Callable[[], Tensor]) -> None:
        self.met.append(msg["name"])
        if self.names is None or msg["name"] in self.names:
            msg["value"] = other()


def _to_blame(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], text: str, kind: str
) -> Iterator[str]:
    """Yield the statements without whose values the error is another one, or gone: one, or else all together."""
    every = _Other(kind, None)
    if _fails(model, args, kwargs, text, every):
        return
    each = [name for name in every.met[:MOST] if not _fails(model, args, kwargs, text, _Other(kind, (name,)))]
    yield from each or dict.fromkeys(every.met)


def _fails(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], text: str, other: _Other
) -> bool:
    """Tell whether a model raises the same with other values."""
    try:
        with quiet(), untouched_store(), torch.enable_grad(), block(), other:
            model(*args, **kwargs)
    except Exception as error:
        return text in str(error)
    return False


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
