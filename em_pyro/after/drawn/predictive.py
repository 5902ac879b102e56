"""Whether data look like those of the fitted model: any statistic of them, beside the same of data that it draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import pyro
import torch
from torch import Tensor

from ...errors import ParameterError
from ...program.handlers import alone
from ...records.shown import Shown
from ..fit import Fit
from .simulate import simulator

Statistic = Callable[[dict[str, Tensor]], Any]
"""From the observed sites by name to a number."""


@dataclass(frozen=True)
class PredictiveCheck(Shown):
    """A statistic of the data among those of data drawn at the fitted values.

    Attributes:
        observed: of the data.
        draws: of each set of drawn data.
        p_value: the chance of one at least as large under the fitted model,
            `(1 + #{draws >= observed}) / (1 + #draws)`. It is small where the data have more of it than the model
            gives, near one where they have less.
    """

    observed: float
    draws: tuple[float, ...] = field(repr=False)
    p_value: float

    def __str__(self) -> str:
        """One line: the statistic, its range over the draws, and the p-value."""
        ranked, last = sorted(self.draws), len(self.draws) - 1
        low, middle, high = (ranked[round(share * last)] for share in (0.05, 0.5, 0.95))
        return (
            f"observed {self.observed:.6g}; {len(self.draws)} draws of the model: median {middle:.6g}, 90 % of them "
            f"from {low:.6g} to {high:.6g}; p-value {self.p_value:.3g} (of one at least as large)"
        )


@alone()
def predictive_check(
    fit: Fit, statistic: Statistic, *args: Any, draws: int = 200, seed: int = 0, **kwargs: Any
) -> PredictiveCheck:
    """Compare a statistic of the data with those of data drawn at the fitted values (a parametric bootstrap).

    Nothing is fitted again: where the parameters were fitted to the statistic, p-values are nearer to a half than a
    uniform law has them, so that a small one is small all the same.

    Args:
        fit: a fit, with its model and data.
        statistic: of a dict of the observed sites, as `Fit.simulate` returns it, to a number. Entries under a mask are
            the same in the data and in every draw.
        args: arguments of the model with data to be checked; none: those of the fit.
        draws: how many sets of data are drawn.
        seed: of the draws; no global generator moves.
        kwargs: arguments by name.

    Raises:
        ParameterError: this is no `Fit`; the statistic is no function, no number or not a number (nan); or `draws` is
            no number of at least one.
        ModelError: the model cannot be drawn from: see `Fit.simulate`.
        DataError: there are no data, or those of the fit have changed.

    References: Davison & Hinkley (1997), section 4.2.
    """
    if not isinstance(draws, Integral) or isinstance(draws, bool) or draws < 1:
        raise ParameterError(f"predictive_check: expected draws to be a number of at least one, got {draws!r}.")
    if not isinstance(fit, Fit):
        raise ParameterError(f"predictive_check: expected a Fit, as EM.fit returns it, got {type(fit).__name__}.")
    if not callable(statistic):
        raise ParameterError(
            f"statistic: expected a function of the sites, as lambda sites: sites[...].mean(), got {statistic!r}."
        )
    with pyro.get_param_store().scope():
        source = simulator(fit._alive(), fit.params, args, kwargs)
        observed = _number(statistic, source.observed(), "the data")
        seeds = torch.randint(2**62, (int(draws),), generator=_seeded(seed)).tolist()
        found = tuple(_number(statistic, source.draw(s), f"draw {k}") for k, s in enumerate(seeds))
    larger = sum(value >= observed for value in found)
    return PredictiveCheck(observed, found, (1 + larger) / (1 + len(found)))


def _number(statistic: Statistic, sites: Mapping[str, Tensor], of: str) -> float:
    """Return the statistic of copies of the sites, as a number."""
    found = statistic({name: value.clone() for name, value in sites.items()})
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"shape {tuple(found.shape)}" if hasattr(found, "shape") else type(found).__name__
        raise ParameterError(
            f"statistic: expected a number of {of}, got {got}. Return one, as lambda sites: sites[...].mean() does."
        ) from error
    if value != value:
        raise ParameterError(
            f"statistic: expected a number of {of}, got nan. Leave out what is not there, or choose one that is "
            f"defined for all data of the model."
        )
    return value


def _seeded(seed: Any) -> torch.Generator:
    if not isinstance(seed, Integral):
        raise ParameterError(f"predictive_check: expected seed to be an integer, got {seed!r}.")
    return torch.Generator().manual_seed(int(seed))
