"""Read the arguments of a hand-derived EM as float arrays, and say what is wrong with them."""

import operator

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Shape = tuple[int | None, ...]


def array(name: str, value: npt.ArrayLike, shape: Shape, *, missing: bool = False) -> Array:
    """Return a float64 copy of `value` after checking its shape and that it is finite.

    Args:
        name: what the caller calls the argument.
        value: anything that NumPy reads as an array of numbers.
        shape: the expected shape; `None` stands for any length but zero.
        missing: whether NaN is allowed.

    Raises:
        ValueError: another shape, an empty array, or a value that is not finite.
    """
    result: Array = np.array(value, dtype=np.float64)
    matches = result.ndim == len(shape) and all(
        got > 0 if want is None else got == want for got, want in zip(result.shape, shape, strict=True)
    )
    if not matches:
        wanted = str(shape).replace("None", "any")
        raise ValueError(f"{name}: expected an array of shape {wanted}, got {result.shape}.")
    wrong = np.isinf(result) if missing else ~np.isfinite(result)
    refuse(name, wrong, result, "finite numbers")
    return result


def refuse(name: str, wrong: npt.NDArray[np.bool_], value: Array, expected: str) -> None:
    """Raise a `ValueError` that shows the first entry of `value` at which `wrong` holds, if there is one."""
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = f" at index [{', '.join(map(str, index))}]" if index else ""
        raise ValueError(f"{name}: expected {expected}, got {value[index]:g}{place}.")


def positive(name: str, value: npt.ArrayLike, shape: Shape) -> Array:
    """Return `value` as an array of numbers above zero."""
    result = array(name, value, shape)
    refuse(name, result <= 0, result, "positive numbers")
    return result


def probabilities(name: str, value: npt.ArrayLike, shape: Shape) -> Array:
    """Return `value` as an array of numbers in [0, 1]."""
    result = array(name, value, shape)
    refuse(name, (result < 0) | (result > 1), result, "probabilities in [0, 1]")
    return result


def simplex(name: str, value: npt.ArrayLike, shape: Shape, *, zeros: bool = False) -> Array:
    """Return `value` as probabilities that sum to one over the last axis, none of them zero unless `zeros`."""
    result = probabilities(name, value, shape)
    if not zeros:
        refuse(name, result == 0, result, "positive probabilities")
    total = result.sum(axis=-1)
    refuse(name, np.abs(total - 1) > 1e-8, total, "probabilities that sum to one")
    return result


def counts(name: str, value: npt.ArrayLike, shape: Shape) -> Array:
    """Return `value` as an array of whole numbers, zero or more."""
    result = array(name, value, shape)
    refuse(name, (result < 0) | (result != np.floor(result)), result, "counts 0, 1, 2, ...")
    return result


def whole(name: str, value: int) -> int:
    """Return `value` as an integer, zero or more."""
    try:
        result = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: expected a whole number, got {value!r}.") from None
    if result < 0:
        raise ValueError(f"{name}: expected zero or more, got {result}.")
    return result
