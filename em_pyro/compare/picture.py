"""The figure of a race: nats still to go, against seconds and against passes over the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..fit.endings import BAD
from ..plotting import COLOURS
from .lane import LEVELS, Lane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-5  # nats: what is closer is drawn here
Dashes = tuple[float, Sequence[float]]
DASHES: tuple[Dashes, ...] = ((0, ()), (0, (5, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.5)))


def draw(lanes: Sequence[Lane], contenders: Sequence[str], best: float) -> Figure:
    """Draw a race: one line a start, one colour and dash a contender, the best known objective at the bottom.

    A start that ended without a maximum (a collapsed scale) is left out, and so is a contender with another objective.
    No window is opened: save with `figure.savefig(path)`.

    Args:
        lanes: every contender from every start.
        contenders: names, in the order of the legend.
        best: the objective from which nats are counted.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    shown = [lane for lane in lanes if _shown(lane)]
    names = [name for name in contenders if any(lane.contender == name for lane in shown)]
    handles = []
    for place, name in enumerate(names):
        colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        for lane in shown:
            if lane.contender == name:
                to_go = np.array([max(best - p.objective, FLOOR) for p in lane.points])
                seconds = np.array([p.seconds for p in lane.points])
                steps = np.array([p.step for p in lane.points])
                for ax, x in zip(axes, (seconds, steps), strict=True):
                    _line(ax, x, to_go, colour, dashes)
        handles.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=2, label=name))
    for ax, label in zip(axes, ("seconds", "steps (passes over the data)"), strict=True):
        for level in LEVELS:
            ax.axhline(level, color="0.8", linewidth=0.8, zorder=0)
        ax.set(xscale="log", yscale="log", xlabel=label)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("nats to go to the best known")
    axes[0].set_ylim(bottom=FLOOR / 1.5)
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5) or 1, frameon=False)
    return figure


def _line(ax: Axes, x: np.ndarray, to_go: np.ndarray, colour: str, dashes: Dashes) -> None:
    """Draw one start; time and step zero have no place on a log axis and are left out."""
    keep = (x > 0) & np.isfinite(to_go)
    x, to_go = x[keep], to_go[keep]
    if len(x) > 2000:  # a pixel holds more steps than can be told apart
        thin = np.unique(np.geomspace(1, len(x), 2000).astype(int) - 1)
        x, to_go = x[thin], to_go[thin]
    ax.plot(x, to_go, color=colour, linestyle=dashes, linewidth=1.3, alpha=0.8)
    if len(x):
        ax.plot(x[-1], to_go[-1], "o", color=colour, markersize=4)


def _shown(lane: Lane) -> bool:
    return lane.shares_objective and bool(lane.points) and lane.ending not in BAD
