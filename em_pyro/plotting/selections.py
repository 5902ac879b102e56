"""Models beside one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import axes, check_drawn, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("aic", "bic", "icl")


def criteria(selection: Any, ax: Axes | None = None) -> Axes:
    """Draw information criteria over the values of a sweep, smaller is better; a ring marks the best.

    Of models without variants AIC, BIC and ICL are drawn, and the criterion of the selection if it is another; of
    variants this criterion alone, a line a variant. Models without a maximum are left out; an open marker is one with a
    component that is narrow beside the data.

    Args:
        selection: what `em_pyro.select` returned.
        ax: axes to draw into; new ones if not given.

    Raises:
        ParameterError: this is no selection.
    """
    check_drawn("criteria", selection, "candidates", "what select returns")
    ax, own = axes(ax), selection.criterion
    shown = list(dict.fromkeys(one.value for one in selection.candidates))
    variants = list(dict.fromkeys(one.variant for one in selection.candidates))
    own_name = own.upper() if isinstance(own, str) else getattr(own, "__name__", "score")
    kinds = [(own, variant, str(variant)) for variant in variants]
    if variants == [None]:
        kinds = [(name, None, name.upper()) for name in SHOWN] + ([] if own in SHOWN else [(own, None, own_name)])
    best: tuple[int, float] | None = None
    for k, (criterion, variant, label) in enumerate(kinds):
        found = [one for one in selection.candidates if one.variant == variant and one.is_maximum]
        places, scores = [shown.index(one.value) for one in found], [one.score(criterion) for one in found]
        ax.plot(places, scores, color=colour(k), label=label)
        for place, score, one in zip(places, scores, found, strict=True):
            inside = "white" if one.is_sliver else colour(k)
            ax.plot(place, score, "o", color=colour(k), markerfacecolor=inside, markersize=6)
            if one.key == selection.best_value and criterion == own:
                best = place, score
    if best is not None:  # last, and last in the legend
        ax.plot(*best, "o", color="black", markerfacecolor="none", markersize=13, label="best")
    ax.set_xticks(np.arange(len(shown)), [str(value) for value in shown])
    ax.set(
        xlabel="model",
        ylabel="criterion (smaller is better)" if variants == [None] else f"{own_name} (smaller is better)",
    )
    ax.legend(frameon=False)
    return ax
