"""Gaussian mixtures over their data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .canvas import Array, Numbers, array, axes, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = 25
"""At most so many iterations are drawn by `mixture_curves`: more cannot be told apart."""


def mixture_curves(x: Numbers, history: Sequence[Mapping[str, Numbers]], ax: Axes | None = None) -> Axes:
    """Draw a one-dimensional Gaussian mixture over its data, an iteration a curve, the later the more opaque.

    A curve is the weighted density `weights[k] * Normal(x; loc[k], scale[k])` of a component; the last iteration is
    drawn thick, with the sum over components in black.

    Args:
        x: the data, shape `(N,)`; shown as a histogram of density and, where they are few, as ticks.
        history: for each iteration the arrays "loc", shape `(K,)`, "scale", shape `(K,)` or `()`, and "weights", shape
            `(K,)`, equal if absent. Of more than `CURVES`, that many are drawn, the early ones closer together.
        ax: axes to draw into; new ones if not given.
    """
    ax, data = axes(ax), array(x)
    ax.hist(data, bins="auto", density=True, color="0.88", edgecolor="white")
    if len(data) <= 1000:
        ax.plot(data, np.zeros_like(data), "|", color="0.45", markersize=9, clip_on=False)
    grid = np.linspace(data.min() - 0.1 * np.ptp(data), data.max() + 0.1 * np.ptp(data), 400)
    drawn = _thinned(len(history))
    for place, step in enumerate(drawn):
        densities, last = _densities(grid, history[step]), step == len(history) - 1
        for k, density in enumerate(densities):
            alpha = 1.0 if last else 0.2 + 0.5 * place / len(drawn)
            label = f"component {k}" if last else None
            width = 2.2 if last else 1.0
            ax.plot(grid, density, color=colour(k), alpha=alpha, linewidth=width, label=label)
        if last:
            ax.plot(grid, densities.sum(axis=0), color="black", linestyle="--", linewidth=1.2, label="mixture")
    ax.set(xlabel="x", ylabel="density")
    ax.legend(frameon=False)
    return ax


def ellipses(
    x: Numbers,
    responsibilities: Numbers,
    means: Numbers,
    covariances: Numbers,
    ax: Axes | None = None,
    *,
    levels: Sequence[float] = (0.5, 0.95),
) -> Axes:
    """Draw points in the plane, coloured by who answers for them, and an ellipse about each component.

    A point's colour is the mixture of the components' colours in the proportions of its responsibilities. The ellipse
    at level `p` holds the share `p` of its component: the points `v` with
    `(v - mean)^T covariance^-1 (v - mean) = -2 log(1 - p)`, the quantile of chi-square with two degrees of freedom.

    Args:
        x: the data, shape `(N, 2)`.
        responsibilities: posterior over components, shape `(N, K)`, summing to one over `K`.
        means: shape `(K, 2)`.
        covariances: shape `(K, 2, 2)`, or `(2, 2)` if all have the same.
        ax: axes to draw into; new ones if not given.
        levels: the share of a component inside each of its ellipses.

    Raises:
        ValueError: points or means that are not in the plane.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Ellipse

    ax, data, gamma, centres = axes(ax), array(x), array(responsibilities), array(means)
    if data.shape[1:] != (2,) or centres.shape[1:] != (2,):
        got = f"got x {data.shape} and means {centres.shape}"
        raise ValueError(f"ellipses: expected points in the plane, (N, 2) and (K, 2), {got}. Choose two coordinates.")
    palette = np.array([to_rgb(colour(k)) for k in range(len(centres))])
    ax.scatter(data[:, 0], data[:, 1], c=np.clip(gamma @ palette, 0, 1), s=16, alpha=0.75, linewidths=0)
    matrices = np.broadcast_to(array(covariances), (len(centres), 2, 2))
    for k, (centre, matrix) in enumerate(zip(centres, matrices, strict=True)):
        variances, directions = np.linalg.eigh(matrix)
        angle = math.degrees(math.atan2(directions[1, 0], directions[0, 0]))
        for level in levels:
            width, height = 2 * np.sqrt(-2 * math.log(1 - level) * variances)
            ax.add_patch(Ellipse(centre, width, height, angle=angle, fill=False, color=colour(k), linewidth=1.8))
        ax.plot(*centre, "P", color=colour(k), markeredgecolor="white", markersize=12, label=f"component {k}")
    ax.autoscale_view()
    ax.set(xlabel="first coordinate", ylabel="second coordinate")
    ax.legend(frameon=False)
    return ax


def _thinned(n: int) -> list[int]:
    """Return all of `range(n)`, or `CURVES` of it at most: the first, the last, and early ones closer together."""
    if n <= CURVES:
        return list(range(n))
    return sorted({round(step) for step in np.geomspace(1, n, CURVES) - 1})


def _densities(grid: Array, params: Mapping[str, Numbers]) -> Array:
    """Return each component's weighted normal density at `grid`, shape `(K, len(grid))`."""
    loc = array(params["loc"])[:, None]
    scale = np.broadcast_to(array(params["scale"]), len(loc))[:, None]
    weights = array(params["weights"]) if "weights" in params else np.full(len(loc), 1 / len(loc))
    heights = weights[:, None] / (scale * math.sqrt(2 * math.pi))
    return np.asarray(heights * np.exp(-0.5 * ((grid - loc) / scale) ** 2))
