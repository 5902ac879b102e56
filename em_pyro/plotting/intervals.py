"""How sure a fit is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ParameterError
from .canvas import COLOURS, axes, check_drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..after.information.record import Information


def intervals(
    information: Information, names: str | Sequence[str] | None = None, level: float = 0.95, ax: Axes | None = None
) -> Axes:
    """Draw every entry of some parameters with its interval, one below the other.

    An entry without a standard error is an open point, with the reason beside it.

    Args:
        information: what `Fit.information` returned.
        names: which parameters; all that were fitted if not given.
        level: of the intervals.
        ax: axes to draw into; new ones if not given.

    Raises:
        ParameterError: this is no information; no such parameter, a fixed one, or a level that is none.
    """
    check_drawn("intervals", information, "slopes", "what Fit.information returns")
    chosen = tuple(information.se) if names is None else (names,) if isinstance(names, str) else tuple(names)
    if unknown := [name for name in chosen if name not in information.se]:
        raise ParameterError(f"intervals: expected some of {sorted(information.se)}, got {unknown}.")
    ax = axes(ax)
    rows = [row for row in information.rows(level) if row.name.split("[")[0] in chosen]
    places = np.arange(len(rows))
    for place, row in zip(places, rows, strict=True):
        if row.se != row.se:
            ax.plot(row.value, place, "o", color=COLOURS[0], markerfacecolor="white")
            ax.annotate(f"  {row.note}", (row.value, place), va="center", color="0.4", fontsize="small")
            continue
        ax.plot([row.lower, row.upper], [place, place], color=COLOURS[0], linewidth=2.5, solid_capstyle="butt")
        ax.plot(row.value, place, "o", color=COLOURS[0])
    ax.set_yticks(places, [row.name for row in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"{100 * level:g} % interval")
    ax.grid(axis="x", alpha=0.3)
    return ax
