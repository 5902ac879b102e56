"""The way to a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .canvas import BARS, COLOURS, Array, array, axes, check_drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..after.fit import Fit

EPS = float(np.finfo(np.float64).eps)


def objective_path(fit: Fit, ax: Axes | None = None, *, log: bool = True) -> Axes:
    """Draw what was left to gain at every step, the start included, on a log axis; or the objective, which never falls.

    Nats to go are counted to the highest point of the path and the gap that the fit estimates there. EM ends on a
    straight line, whose slope is its rate of convergence. What is no more than rounding of the objective is left out.

    Args:
        fit: what `EM.fit` returned; its `path` is drawn.
        ax: axes to draw into; new ones if not given.
        log: draw nats to go; else the objective, on a linear axis.

    Raises:
        ParameterError: this is no fit.
    """
    from matplotlib.ticker import MaxNLocator

    check_drawn("objective_path", fit, "path", "what EM.fit returns")
    ax, path = axes(ax), array(fit.path)
    values = _to_go(path, fit.gap) if log else path
    ax.plot(np.arange(len(path)), values, color=COLOURS[0], marker="o" if len(path) <= BARS else "", markersize=4)
    if log:
        ax.set_yscale("log")
    else:
        ax.ticklabel_format(axis="y", useOffset=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="step", ylabel="nats to go" if log else "objective (nats)")
    return ax


def _to_go(path: Array, gap: float) -> Array:
    """Return what is left to gain at every point; NaN where it is rounding, or where nothing is known."""
    top = path.max() + (gap if np.isfinite(gap) else 0.0)
    left = top - path
    return np.where(np.isfinite(left) & (left > EPS * (1 + abs(top))), left, np.nan)
