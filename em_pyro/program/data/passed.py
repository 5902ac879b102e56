"""What users pass that is no tensor of the right kind: arrays, frames and lists of numbers become tensors.

A model gets its arguments as they were passed, if it runs with them: it may know columns by name. Where it does not,
arrays and frames of numbers are handed to it as tensors, and at last lists of numbers too. What stands as `obs=` is
converted in any case.
"""

from __future__ import annotations

import inspect
import numbers
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ...errors import DataError, EMError, ModelError
from ..named import broadcast, unwrap
from .blamed import blamed
from .indices import wrong_index
from .slips import slip
from .statements import at_statement
from .supports import support_of

AS_PASSED, ARRAYS, LISTS = 0, 1, 2
"""How much of the arguments is converted: nothing, arrays and frames, lists of numbers as well."""

WIDE = (torch.int64, torch.float32, torch.float64, torch.complex64, torch.complex128)
CROSS_ENTROPIES = (torch.distributions.Bernoulli,)  # torch computes them of floating point only
Result = TypeVar("Result")


def first_that_runs(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    run: Callable[[tuple[Any, ...], Mapping[str, Any]], Result],
    *,
    fitted: bool,
) -> tuple[int, Result]:
    """Run with the arguments as they were passed, else converted; return how they were, and what the run returned.

    Parameters that are `fitted` may lack entries for other rows: their fault, and not that of an argument.

    Raises:
        EMError: that of the last run, if no run succeeds.
        DataError: the call is none that the model takes; or the model itself stumbles over an argument, in the first
            run.
        ModelError: it stumbles over itself in a way that is known.
        Exception: what else it raised there, if no error is of ours.
    """
    errors: list[Exception] = []
    try:
        for how in _ways(args, kwargs):
            try:
                return how, run(*converted(args, kwargs, how))
            except Exception as error:
                errors.append(error)
        ours = next((error for error in reversed(errors) if isinstance(error, EMError)), None)
        if ours is None:
            for said, reason in _said(model, args, kwargs, run, errors, fitted=fitted):
                raise DataError(said) from reason
            if said := slip(model, args, kwargs, errors[0]) or ("" if fitted else at_statement(errors[0])):
                raise ModelError(said) from errors[0]
        raise ours or errors[0]
    finally:
        errors.clear()  # an error holds the frames that it passed, and these the data


def _said(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    run: Callable[[tuple[Any, ...], Mapping[str, Any]], Any],
    errors: list[Exception],
    *,
    fitted: bool,
) -> Iterator[tuple[str, Exception]]:
    """Yield what can be said of the argument over which a model has stumbled, with its error."""
    given = _given(model, args, kwargs)

    def again(changed: Mapping[str, Any]) -> Any:
        assert given is not None
        there = inspect.BoundArguments(given.signature, OrderedDict(changed))
        return run(*converted(there.args, there.kwargs, LISTS))

    if given is not None and (said := wrong_index(given.arguments, errors[-1], again, fitted=fitted)):
        yield said, errors[-1]
    if said := blamed(model, args, kwargs, errors[0]):
        yield said, errors[0]


def _given(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments | None:
    """Bind arguments to the names that the model has for them; None where it has none, or they do not fit."""
    try:
        return inspect.signature(model).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None


def converted(args: tuple[Any, ...], kwargs: Mapping[str, Any], how: int) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return arguments in which arrays, frames and lists are tensors, as far as `how` says."""
    if how == AS_PASSED:
        return args, kwargs
    return tuple(_converted(arg, how) for arg in args), {key: _converted(arg, how) for key, arg in kwargs.items()}


def tensor_of(value: Any) -> Tensor:
    """Return numbers in an array, a frame or a list as a tensor of their dtype; memory is shared where it can be.

    Raises:
        ValueError: they are no numbers, or no table.
        DataError: some are masked.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (bool, int, float, complex)):
        return torch.as_tensor(value)
    if _holds_tensors(value):
        return torch.stack(tuple(value))
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise DataError(
            f"Arguments: expected numbers, got a masked array with {np.ma.count_masked(value)} of {value.size} entries "
            f"masked, and a tensor has no mask. Pass array.filled(0) and ~np.ma.getmaskarray(array), and leave entries "
            f"out by fn.mask(observed)."
        )
    plain = isinstance(value, (list, tuple))
    array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    if array.dtype.kind == "O" and all(isinstance(entry, numbers.Real) for entry in array.flat):
        array = array.astype(np.float64)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"entries of {array.dtype}")
    found = torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    return found.to(torch.get_default_dtype()) if plain and found.is_floating_point() else found


def observed(name: str, value: Any) -> Tensor:
    """Return what stands as `obs=` at a site as a tensor.

    Raises:
        DataError: it is none, and no array, frame or list of numbers.
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_nested:
            kind, how = (
                ("a nested one", "pad it, and mask the rest") if value.is_nested else (value.layout, ".to_dense()")
            )
            raise DataError(f'Site "{name}": expected a dense tensor, got {kind}. Make it one: {how}.')
        return value
    try:
        return tensor_of(value)
    except DataError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        what = "a tensor, or an array, frame or list of numbers"
        raise DataError(
            f'Site "{name}": expected {what}, got {type(value).__name__} ({error}). {_in_numbers(value)}.'
        ) from error


def _in_numbers(value: Any) -> str:
    """Say how what is no table of numbers becomes one."""
    try:
        kind = np.asarray(value).dtype.kind
    except ValueError:  # rows of different lengths
        return "Make a tensor of it"
    if kind in "mM":
        return "Pass times as numbers: since the first, in a unit of yours, as (x - x.min()) / np.timedelta64(1, 's')"
    return (
        "Pass words as numbers, counted from zero: pandas.factorize(x)[0]" if kind in "OUST" else "Make a tensor of it"
    )


def as_numbers(value: Tensor, fn: Distribution) -> Tensor:
    """Return an observed value in a dtype that densities are computed in: no truth values, bytes or half precision."""
    if value.dtype not in WIDE:
        value = value.float() if value.is_floating_point() else value.long()
    if value.dtype != torch.int64:
        return value
    base = unwrap(fn).base
    law = unwrap(getattr(base, "observation_dist", base)).base  # of a DiscreteHMM
    return value.to(law.logits.dtype) if isinstance(law, CROSS_ENTROPIES) else value


def without_codes(value: Tensor, fn: Distribution, mask: Tensor | None) -> Tensor:
    """Put a category that there is where a mask leaves one out: -1 or 99 may stand for what is not known."""
    whole = unwrap(fn)
    masks = [part for part in (mask, whole.mask) if part is not None]
    support = support_of(whole.base) if masks else None
    if not isinstance(support, constraints.integer_interval) or not isinstance(support.upper_bound, int):  # type: ignore[arg-type]
        return value
    codes = ~support.check(value)
    for part in masks if bool(codes.any()) else ():
        more = part.dim() - value.dim()
        flat = part.flatten(0, more - 1).any(0) if more > 0 else part  # in any state
        if broadcast(flat.shape, value.shape) == value.shape:
            value = torch.where(codes & ~flat, torch.zeros_like(value), value)
    return value


def weights_of(scale: Any) -> float | Tensor:
    """Return the `poutine.scale` of a site as a number or a tensor of numbers."""
    if isinstance(scale, Tensor):
        return scale.double() if scale.dtype not in WIDE else scale
    return scale if isinstance(scale, (int, float)) else tensor_of(scale)


def _ways(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[int]:
    """Yield the ways that differ for these arguments."""
    every = (*args, *kwargs.values())
    yield AS_PASSED
    if any(_is_array(value) for arg in every for value in _inside(arg)):
        yield ARRAYS
    if any(_is_list(value) for arg in every for value in _inside(arg)):
        yield LISTS


def _inside(arg: Any) -> Iterator[Any]:
    """Yield an argument, and what is in it if it is a list, a tuple or a dict."""
    yield arg
    for value in arg if isinstance(arg, (list, tuple)) else arg.values() if isinstance(arg, dict) else ():
        if isinstance(value, (list, tuple, dict)) or _is_array(value):
            yield from _inside(value)


def _converted(arg: Any, how: int) -> Any:
    if _is_array(arg) or (how == LISTS and _is_list(arg)):
        try:
            return tensor_of(arg)
        except DataError:
            raise
        except (TypeError, ValueError, RuntimeError):
            return arg
    if type(arg) in (list, tuple):
        return type(arg)(_converted(value, how) for value in arg)
    return {key: _converted(value, how) for key, value in arg.items()} if type(arg) is dict else arg


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (hasattr(value, "to_numpy") and not isinstance(value, type))


def _is_list(value: Any) -> bool:
    """Tell whether a value is a list of numbers, or of such lists."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, numbers.Number) or _is_list(v) for v in value)


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(v, Tensor) for v in value)
