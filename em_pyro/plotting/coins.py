"""Posterior weights of coins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .canvas import BARS, Numbers, array, axes, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def coin_weights(responsibilities: Numbers, heads: Numbers, flips: Numbers, ax: Axes | None = None) -> Axes:
    """Draw for each sequence of tosses a bar, divided among the coins by the posterior weight of each.

    Args:
        responsibilities: posterior over coins, shape `(N, K)`, summing to one over `K`.
        heads: number of heads in each sequence, shape `(N,)`.
        flips: number of tosses in each sequence, shape `(N,)`, or one number for all.
        ax: axes to draw into; new ones if not given.
    """
    ax, gamma, h = axes(ax), array(responsibilities), array(heads)
    m = np.broadcast_to(array(flips), h.shape)
    named = len(h) <= BARS
    order = np.arange(len(h)) if named else np.argsort(h / np.maximum(m, 1), kind="stable")
    bottoms = np.cumsum(gamma, axis=1) - gamma
    for k in range(gamma.shape[1]):
        place, tops, base = np.arange(len(h)), gamma[order, k], bottoms[order, k]
        ax.bar(place, tops, 0.8 if named else 1.0, base, color=colour(k), label=f"coin {k}")
    if named:
        names = [f"{a:g}/{b:g}" for a, b in zip(h, m, strict=True)]
        ax.set_xticks(np.arange(len(h)), names, rotation=0 if len(h) <= 12 else 90)
    ax.set(xlabel="heads / tosses of each sequence" if named else "sequences, from few heads to many")
    ax.set(ylabel="weight of each coin", ylim=(0, 1), xlim=(-0.6, len(h) - 0.4))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(gamma.shape[1], 6), frameon=False)
    return ax
