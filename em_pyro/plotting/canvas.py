"""Axes, numbers and colours that all pictures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ParameterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = npt.ArrayLike | Tensor
Array = npt.NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Blue, vermillion, green, purple, orange, sky blue, black; then from the start again."""

BARS = 40
"""Up to so many sequences `coin_weights` gives each bar its name."""


def check_drawn(what: str, value: Any, has: str, expected: str) -> None:
    """Refuse what lacks what is drawn: another answer than that of which the picture is.

    Raises:
        ParameterError: it lacks the attribute.
    """
    if not hasattr(value, has):
        raise ParameterError(f"{what}: expected {expected}, got {type(value).__name__}.")


def axes(ax: Axes | None) -> Axes:
    """Return `ax`, or new axes in a figure of their own."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]


def array(value: Any) -> Array:
    """Return a tensor or an array as one of NumPy, float64."""
    if isinstance(value, Tensor):
        value = value.detach().to("cpu", torch.float64)
    return np.asarray(value, dtype=np.float64)


def colour(k: int) -> str:
    """Return the colour of component `k`."""
    return COLOURS[k % len(COLOURS)]
