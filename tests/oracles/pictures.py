"""What pictures are drawn of in tests, and how to read what was drawn."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from matplotlib.axes import Axes

HISTORY = [
    {"weights": [0.5, 0.5], "loc": [-1.0, 1.0], "scale": [2.0, 2.0]},
    {"weights": [0.4, 0.6], "loc": [-1.5, 1.5], "scale": [1.5, 1.0]},
    {"weights": [0.3, 0.7], "loc": [-2.0, 2.0], "scale": [1.0, 0.5]},
]
X = np.linspace(-4.0, 3.0, 30)
"""A mixture on its way, and its data."""


def fitted(path: list[float], gap: float = 0.0) -> Any:
    """Stand in for a fit of which only the path is drawn."""
    return SimpleNamespace(path=path, gap=gap)


def drawn(ax: Axes, label: str) -> np.ndarray:
    """Return the heights of the line that the legend calls `label`."""
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return np.asarray(line.get_ydata())


def swept(values: list[int], variants: tuple[str | None, ...] = (None,)) -> Any:
    """Stand in for a selection: criteria by value and variant."""
    found = []
    for k, value in enumerate(values):
        for j, variant in enumerate(variants):
            numbers = {"aic": 10.0 - k + j, "bic": 12.0 - 2 * k * (3 - k) + j, "icl": 20.0 + k + j}
            one = SimpleNamespace(value=value, variant=variant, is_maximum=value != 9, is_sliver=value == 3)
            one.key = value if variant is None else (value, variant)
            one.score = lambda criterion, numbers=numbers: numbers[criterion]
            found.append(one)
    best = min((one for one in found if one.is_maximum), key=lambda one: one.score("bic"))
    return SimpleNamespace(candidates=found, criterion="bic", best_value=best.key)
