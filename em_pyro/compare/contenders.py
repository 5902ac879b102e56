"""Who may enter a race: a name for the kind of optimiser, and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from pyro.infer.autoguide import AutoNormal
from pyro.optim import PyroOptim

from ..errors import ParameterError
from ..records.frozen import frozen

OURS = ("starts", "seed", "prior_density", "continuous", "progress", "callback")  # options of EM for a whole race


@frozen
class Contender:
    """One way to fit a model.

    Attributes:
        kind: "em", "lbfgs", "svi" (empty guide), "svi_map" (`AutoDelta`) or "svi_bayes" (any other guide).
        options: what it was given.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shares_objective(self) -> bool:
        """Whether it ascends log evidence plus log prior; a full Bayesian fit does not."""
        return self.kind != "svi_bayes"


def em(**options: Any) -> Contender:
    """EM with options of `em_pyro.EM`: `em()`, `em(acceleration=None)`, `em(tol=0)`.

    Raises:
        ParameterError: an option that belongs to the race: starts, seed, densities, progress or callback.
    """
    for name in OURS:
        if name in options:
            raise ParameterError(f"em: expected options of one fit, got {name}=. Give those of the race to compare().")
    return Contender("em", options)


def lbfgs(*, history_size: int = 20) -> Contender:
    """Direct ascent of the same objective: torch's L-BFGS with strong Wolfe in unconstrained space.

    Value and gradient come from the same E-step as EM's, by Fisher's identity: each evaluation is one E-step and one
    gradient.
    """
    if history_size < 1:
        raise ParameterError(f"lbfgs: expected a history_size of at least 1, got {history_size}.")
    return Contender("lbfgs", {"history_size": history_size})


def svi(optim: PyroOptim, *, guide: Callable[[Any], Any] | None = None) -> Contender:
    """SVI with `TraceEnum_ELBO`, which enumerates the latents, and an empty guide: the exact objective as a loss.

    Args:
        optim: of `pyro.optim`; every start gets a fresh copy.
        guide: a factory of guides, such as `AutoNormal`, called with the model blocked to its sites with a prior; the
            contender is then a full Bayesian one, see `svi_bayes`.
    """
    return Contender("svi", {"optim": _checked(optim)}) if guide is None else svi_bayes(optim, guide=guide)


def svi_map(optim: PyroOptim) -> Contender:
    """SVI with `AutoDelta` over the sites with a prior, initialised to the start: MAP, the objective of EM."""
    return Contender("svi_map", {"optim": _checked(optim)})


def svi_bayes(optim: PyroOptim, *, guide: Callable[..., Any] = AutoNormal, draws: int = 100) -> Contender:
    """SVI with a guide over the sites with a prior: its objective is another, so it is compared on held-out data.

    Args:
        optim: of `pyro.optim`.
        guide: called as `guide(model)`, or as `guide(model, init_loc_fn=...)` where it takes that, so that it is
            centred at the start; `model` has its enumerated latents hidden.
        draws: from the guide, over which the held-out predictive density is averaged.
    """
    if draws < 1:
        raise ParameterError(f"svi_bayes: expected at least one draw, got {draws}.")
    return Contender("svi_bayes", {"optim": _checked(optim), "guide": guide, "draws": draws})


def _checked(optim: Any) -> PyroOptim:
    if not isinstance(optim, PyroOptim):
        raise ParameterError(f"svi: expected an optimiser of pyro.optim, got {type(optim).__name__}.")
    return optim
