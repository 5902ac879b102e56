"""Is one component more worth it? The likelihood ratio, against its distribution under the smaller model.

The ratio of mixtures with different numbers of components has no chi-square law: under the smaller model a parameter of
the larger is on its boundary, and others are not identified. So data are drawn from the smaller fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from numbers import Integral
from typing import Any

import pyro
import torch
from torch import Tensor

from ..after.drawn.simulate import Simulator, simulator
from ..after.fit import Fit
from ..em import EM
from ..errors import EMError, ObjectiveError, ParameterError
from ..fit.endings import BAD
from ..program.data.replaced import Call, Replacement, replacement
from ..program.handlers import alone
from ..records.frozen import frozen
from ..records.shown import Shown
from .checkpoints import check_none
from .passed import check_known
from .progress import followed
from .select import grown_fit

NOTICED = 1e-6  # of the log-likelihood, relative: a fit handed in that is so much higher than its refit is told of


@frozen
class LikelihoodRatio(Shown):
    """A parametric bootstrap of a likelihood ratio.

    Attributes:
        statistic: 2 (log-likelihood of the larger model - that of the smaller), in nats.
        draws: the same of data drawn from the smaller fit, shape `(draws,)`, without those where no fit succeeded.
        p_value: (1 + number of draws at least as large as the statistic) / (1 + number of draws).
        notes: what else there is to know.

    References:
        McLachlan, G. J. (1987). On bootstrapping the likelihood ratio test statistic for the number of components in a
        normal mixture. Applied Statistics 36, 318-324.
        Davison, A. C. and Hinkley, D. V. (1997). Bootstrap Methods and their Application, equation 4.11.
    """

    statistic: float
    draws: Tensor = field(repr=False)
    p_value: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line, and the notes."""
        low, high = (float(self.draws.quantile(level)) for level in (0.5, 0.95))
        said = f"likelihood ratio {self.statistic:.4f}, p-value {self.p_value:.3g}"
        drawn = f"{len(self.draws)} draws from the smaller model: median {low:.4f}, 95 % point {high:.4f}"
        return "\n".join([f"{said} ({drawn})", *self.notes])


@alone()
def bootstrap_lrt(
    small: Fit | Callable[..., Any],
    large: Fit | Callable[..., Any],
    *args: Any,
    draws: int = 99,
    seed: int = 0,
    starts: int = 1,
    progress: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> LikelihoodRatio:
    """Test a smaller model against a larger one: `bootstrap_lrt(selection[2], selection[3])`.

    Both models are fitted to the data, and to every set of data that is drawn from the smaller fit, by one rule: from
    so many `starts`, and the larger one from the smaller fit with a state split in two besides, so that of nested
    models the ratio is not negative. A rule that finds better maxima for the data than for the draws would make small
    p-values: so fits that are handed in are made again.

    Drawn values take the place of the arguments that are observed, so that initialisers see them; of what is observed
    from elsewhere (a closure), or is a covariate as well (a series and its past), only the observed values change.

    Args:
        small: a fit, or a model.
        large: likewise.
        args: go to both models; of fits, their own if there are none.
        draws: number of sets of data.
        seed: of the draws and of random starts.
        starts: of every fit, besides split ones.
        progress: show a progress bar.
        model_kwargs: go to both models by name.
        options: of `EM`; those of fits that say what is fitted (M-steps, priors) are kept.

    Raises:
        ParameterError: an option does not fit, or the second model has fewer parameters, or lacks a site of the first.
        ModelError: data cannot be drawn: rows have weights (a table of counts), or a site has no draws.
        EMError: the data cannot be fitted, or none of the draws.
    """
    _check(draws, starts, options)
    rule = {"seed": seed, "starts": int(starts), **options}
    given = args, dict(model_kwargs or {})
    calls, rules = [_call(one, *given) for one in (small, large)], [_rule(one, rule) for one in (small, large)]
    lower, upper = _both(calls, rules)
    source = simulator(lower._alive(), lower.params, (), {})
    seeds = torch.randint(2**62, (int(draws),), generator=torch.Generator().manual_seed(seed)).tolist()
    others = [_other(fit, first) for first in [_drawn(source, seeds[0])] for fit in (lower, upper)]
    _check_order(lower, upper)
    found, failed = list[float](), list[str]()
    for own in followed(seeds, "bootstrap", "draws", shown=progress):
        values = _drawn(source, own)
        try:
            found.append(_ratio(*_both([other(values) for other in others], rules)))
        except EMError as error:
            failed.append(str(error))
    if not found:
        raise ObjectiveError(f"bootstrap_lrt: expected draws that can be fitted, got none: {failed[0]}")
    statistic, ratios = _ratio(lower, upper), torch.tensor(found, dtype=torch.float64)
    p_value = (1 + int((ratios >= statistic).sum())) / (1 + len(ratios))
    return LikelihoodRatio(
        statistic, ratios, p_value, (*_lower(small, lower), *_lower(large, upper), *_left_out(failed))
    )


def _check(draws: Any, starts: Any, options: Mapping[str, Any]) -> None:
    """Refuse what are no numbers of at least one, and a file for all fits."""
    check_known("bootstrap_lrt", options)
    check_none("bootstrap_lrt", options)
    for name, number in (("draws", draws), ("starts", starts)):
        if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
            raise ParameterError(f"bootstrap_lrt: expected {name} to be a number of at least one, got {number!r}.")


def _check_order(lower: Fit, upper: Fit) -> None:
    """Refuse a first model of more parameters than the second."""
    if upper.num_parameters < lower.num_parameters:
        raise ParameterError(
            f"bootstrap_lrt: expected the smaller model first, got one of {lower.num_parameters} parameters before one "
            f"of {upper.num_parameters}. Exchange them."
        )


def _other(fit: Fit, values: Mapping[str, Tensor]) -> Replacement:
    """Return how values are put in the place of those that a fit has observed."""
    program = fit._alive().program
    if absent := [name for name in values if name not in program.upstream]:
        raise ParameterError(
            f'bootstrap_lrt: expected both models to observe the same sites, got "{absent[0]}" in the smaller alone. '
            f"Give it the same name."
        )
    with pyro.get_param_store().scope():
        return replacement(program, fit.params, values)


def _drawn(source: Simulator, seed: int) -> dict[str, Tensor]:
    with pyro.get_param_store().scope():  # the model is run
        return source.draw(seed)


def _both(calls: list[Call], rules: list[dict[str, Any]]) -> tuple[Fit, Fit]:
    """Fit the smaller model, and from it the larger.

    Raises:
        ObjectiveError: a fit ended at no maximum.
    """
    fits = list[Fit]()
    for (model, args, kwargs), rule in zip(calls, rules, strict=True):
        fits.append(grown_fit(EM(model, **rule), fits, args, kwargs))
        if fits[-1].outcome in BAD:
            why = "; ".join((fits[-1].outcome, *fits[-1].notes))
            raise ObjectiveError(
                f"bootstrap_lrt: expected a maximum from {len(fits[-1].starts)} starts, got none: {why}."
            )
    return fits[0], fits[1]


def _ratio(lower: Fit, upper: Fit) -> float:
    return 2 * (upper.log_likelihood - lower.log_likelihood)


def _call(one: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Return the model and the arguments of a fit, or of a model."""
    if isinstance(one, Fit):
        program = one._alive().program
        return (program.model, args, kwargs) if args or kwargs else (program.model, program.args, program.kwargs)
    if not callable(one):
        raise ParameterError(
            f"bootstrap_lrt: expected fits or models, got {type(one).__name__}. Pass EM(model).fit(x)."
        )
    return one, args, kwargs


def _rule(one: Any, rule: Mapping[str, Any]) -> dict[str, Any]:
    """Add what a fit says of how it was made."""
    if not isinstance(one, Fit):
        return dict(rule)
    problem = one._alive()
    kept = {"m_step": dict(problem.options), "prior_density": one.prior_density, "collapse": problem.collapse}
    if problem.program.by_row:
        kept["continuous"] = dict.fromkeys(problem.program.by_row, "maximise")
    return {**kept, **rule}


def _lower(one: Any, again: Fit) -> tuple[str, ...]:
    """Say that a fit which was handed in is higher than the rule leads."""
    if not isinstance(one, Fit) or one.log_likelihood <= again.log_likelihood + NOTICED * (
        1 + abs(again.log_likelihood)
    ):
        return ()
    both = f"{one.log_likelihood:.6f}, by the rule {again.log_likelihood:.6f}"
    return (f"a fit that was passed is higher than its starts lead here, {both}: take more starts",)


def _left_out(failed: list[str]) -> tuple[str, ...]:
    return (f"{len(failed)} draws are left out, since they could not be fitted: {failed[0]}",) if failed else ()
