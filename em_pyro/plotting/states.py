"""The states of a chain, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import ParameterError
from .canvas import Array, array, axes, check_drawn, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..posterior.posterior import Posterior


def states(
    posterior: Posterior, sites: str | Sequence[str] | None = None, *, sequence: int = 0, ax: Axes | None = None
) -> Axes:
    """Draw the posterior probability of every state at every step, one above the other, so that they fill the height.

    Args:
        posterior: of a chain; of a sequence cut at a step its last states are the filtered ones.
        sites: the steps in order, or the name of a `DiscreteHMM`; not given, all latents, if they are of one kind.
        sequence: which of several sequences, counted through all plates.
        ax: axes to draw into; new ones if not given.

    Raises:
        ParameterError: this is no posterior; `sites` is not given, and there are latents of several kinds, or none; or
            there is no such sequence.
    """
    check_drawn("states", posterior, "engine", "a posterior, as Fit.posterior is")
    law = array(_law(posterior, _steps(posterior) if sites is None else sites))
    law = law.reshape((-1, *law.shape[-2:]))
    if not -len(law) <= sequence < len(law):
        raise ParameterError(f"states: expected the number of one of {len(law)} sequences, got {sequence}.")
    ax = axes(ax)
    steps, tops = np.arange(law.shape[1]), law[sequence].cumsum(-1).T
    for k, top in enumerate(tops):
        below = tops[k - 1] if k else np.zeros_like(top)
        ax.fill_between(steps, below, top, color=colour(k), linewidth=0, label=f"state {k}")
    ax.set(xlabel="step", ylabel="posterior probability", ylim=(0, 1), xlim=(0, max(1, law.shape[1] - 1)))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(len(tops), 6), frameon=False)
    return ax


def _law(posterior: Posterior, sites: str | Sequence[str]) -> Array:
    """Return the probabilities, the steps and the states last."""
    if isinstance(sites, str):
        return array(posterior.marginal(sites))
    return array(torch.stack([posterior.marginal(site) for site in sites], -2))


def _steps(posterior: Posterior) -> str | list[str]:
    """Return the steps of the only chain that there is."""
    latents, hidden = posterior.engine.program.latents, list(posterior.engine.inner)
    if len(hidden) == 1 and not latents:
        return hidden[0]
    kinds = {(latent.plates, latent.size) for latent in latents.values()}
    if hidden or len(kinds) != 1:
        raise ParameterError(
            f"states: expected latents of one kind, the steps of a chain, got {[*latents, *hidden][:6]}. Name those of "
            f"one chain: states(posterior, [...])."
        )
    return list(latents)
