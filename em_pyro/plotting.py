"""Pictures of a fit: functions that draw into `ax`, or into a figure of their own, and return the axes.

matplotlib is imported when a function is called. Component `k` has the same colour in every picture, from the palette
of Okabe & Ito, which the common forms of colour blindness tell apart.

References:
    Okabe, M. and Ito, K. (2008). Color universal design: how to make figures and presentations that are friendly to
    colorblind people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .fit.result import Fit

Numbers = npt.ArrayLike | Tensor
Array = npt.NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Blue, vermillion, green, purple, orange, sky blue, black; then from the start again."""

CURVES = 25
"""At most so many iterations are drawn by `mixture_curves`: more cannot be told apart."""

BARS = 40
"""Up to so many sequences `coin_weights` gives each bar its name."""


def objective_path(fit: Fit, ax: Axes | None = None) -> Axes:
    """Draw the objective at every step, the start included: it never falls.

    Args:
        fit: what `EM.fit` returned; its `path` is drawn.
        ax: axes to draw into; new ones if not given.
    """
    from matplotlib.ticker import MaxNLocator

    ax = _axes(ax)
    path = _array(fit.path)
    ax.plot(np.arange(len(path)), path, color=COLOURS[0], marker="o" if len(path) <= BARS else "", markersize=4)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="step", ylabel="objective (nats)")
    return ax


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
    ax, data = _axes(ax), _array(x)
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
            ax.plot(grid, density, color=_colour(k), alpha=alpha, linewidth=width, label=label)
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

    ax, data, gamma, centres = _axes(ax), _array(x), _array(responsibilities), _array(means)
    if data.shape[1:] != (2,) or centres.shape[1:] != (2,):
        got = f"got x {data.shape} and means {centres.shape}"
        raise ValueError(f"ellipses: expected points in the plane, (N, 2) and (K, 2), {got}. Choose two coordinates.")
    palette = np.array([to_rgb(_colour(k)) for k in range(len(centres))])
    ax.scatter(data[:, 0], data[:, 1], c=np.clip(gamma @ palette, 0, 1), s=16, alpha=0.75, linewidths=0)
    matrices = np.broadcast_to(_array(covariances), (len(centres), 2, 2))
    for k, (centre, matrix) in enumerate(zip(centres, matrices, strict=True)):
        variances, axes = np.linalg.eigh(matrix)
        angle = math.degrees(math.atan2(axes[1, 0], axes[0, 0]))
        for level in levels:
            width, height = 2 * np.sqrt(-2 * math.log(1 - level) * variances)
            ax.add_patch(Ellipse(centre, width, height, angle=angle, fill=False, color=_colour(k), linewidth=1.8))
        ax.plot(*centre, "P", color=_colour(k), markeredgecolor="white", markersize=12, label=f"component {k}")
    ax.autoscale_view()
    ax.set(xlabel="first coordinate", ylabel="second coordinate")
    ax.legend(frameon=False)
    return ax


def coin_weights(responsibilities: Numbers, heads: Numbers, flips: Numbers, ax: Axes | None = None) -> Axes:
    """Draw for each sequence of tosses a bar, divided among the coins by the posterior weight of each.

    Args:
        responsibilities: posterior over coins, shape `(N, K)`, summing to one over `K`.
        heads: number of heads in each sequence, shape `(N,)`.
        flips: number of tosses in each sequence, shape `(N,)`, or one number for all.
        ax: axes to draw into; new ones if not given.
    """
    ax, gamma, h = _axes(ax), _array(responsibilities), _array(heads)
    m = np.broadcast_to(_array(flips), h.shape)
    named = len(h) <= BARS
    order = np.arange(len(h)) if named else np.argsort(h / np.maximum(m, 1), kind="stable")
    bottoms = np.cumsum(gamma, axis=1) - gamma
    for k in range(gamma.shape[1]):
        place, tops, base = np.arange(len(h)), gamma[order, k], bottoms[order, k]
        ax.bar(place, tops, 0.8 if named else 1.0, base, color=_colour(k), label=f"coin {k}")
    if named:
        names = [f"{a:g}/{b:g}" for a, b in zip(h, m, strict=True)]
        ax.set_xticks(np.arange(len(h)), names, rotation=0 if len(h) <= 12 else 90)
    ax.set(xlabel="heads / tosses of each sequence" if named else "sequences, from few heads to many")
    ax.set(ylabel="weight of each coin", ylim=(0, 1), xlim=(-0.6, len(h) - 0.4))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(gamma.shape[1], 6), frameon=False)
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]


def _array(value: Any) -> Array:
    if isinstance(value, Tensor):
        value = value.detach().to("cpu", torch.float64)
    return np.asarray(value, dtype=np.float64)


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def _thinned(n: int) -> list[int]:
    """Return all of `range(n)`, or `CURVES` of it at most: the first, the last, and early ones closer together."""
    if n <= CURVES:
        return list(range(n))
    return sorted({round(step) for step in np.geomspace(1, n, CURVES) - 1})


def _densities(grid: Array, params: Mapping[str, Numbers]) -> Array:
    """Return each component's weighted normal density at `grid`, shape `(K, len(grid))`."""
    loc = _array(params["loc"])[:, None]
    scale = np.broadcast_to(_array(params["scale"]), len(loc))[:, None]
    weights = _array(params["weights"]) if "weights" in params else np.full(len(loc), 1 / len(loc))
    heights = weights[:, None] / (scale * math.sqrt(2 * math.pi))
    return np.asarray(heights * np.exp(-0.5 * ((grid - loc) / scale) ** 2))
