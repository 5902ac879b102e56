"""The way to a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .canvas import BARS, COLOURS, array, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..after.fit import Fit


def objective_path(fit: Fit, ax: Axes | None = None) -> Axes:
    """Draw the objective at every step, the start included: it never falls.

    Args:
        fit: what `EM.fit` returned; its `path` is drawn.
        ax: axes to draw into; new ones if not given.
    """
    from matplotlib.ticker import MaxNLocator

    ax = axes(ax)
    path = array(fit.path)
    ax.plot(np.arange(len(path)), path, color=COLOURS[0], marker="o" if len(path) <= BARS else "", markersize=4)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="step", ylabel="objective (nats)")
    return ax
