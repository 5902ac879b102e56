"""Every model of the zoo, with a simulation of its arguments; those with Gaussian latents have a table of their own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from em_pyro.models import (
    abo,
    bernoulli_mixture,
    coins,
    discrete_hmm,
    factor_analysis,
    factorial_hidden_markov,
    gaussian_mixture,
    genetic_linkage,
    heavy_tailed,
    hidden_markov,
    item_response,
    latent_classes,
    markov_switching,
    missing_normal,
    mixture_of_factor_analysers,
    neural_em,
    poisson_mixture,
    positive,
    random_effects,
    regressions,
    state_space,
    tomography,
    topics,
    transcripts,
    zero_inflated,
)
from pyro import poutine
from torch import Tensor

Model = Callable[..., None]
Case = tuple[Model, Callable[..., Any]]
one_coordinate = partial(gaussian_mixture.simulate, D=0)
poissons = partial(hidden_markov.simulate, family="poisson")
symbols = partial(hidden_markov.simulate, family="categorical")


def two_fields(**options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Reaction times, answers and lengths."""
    time, lengths = hidden_markov.simulate(**options)
    return time, (time > 3).double(), lengths


def correlated(**options: Any) -> tuple[Tensor, Tensor]:
    """Two coordinates that move together."""
    y, lengths = hidden_markov.simulate(**options)
    return torch.stack([y, 0.5 * y + y.sin()], -1), lengths


def tosses(**options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Heads of ten tosses."""
    y, lengths = symbols(**options)
    return y, torch.full_like(y, 10), lengths


ZOO: dict[str, Case] = {
    "coins": (coins.coins, coins.simulate),
    "coins-equal": (coins.equal_coins, coins.simulate),
    "gaussian-univariate": (gaussian_mixture.univariate, one_coordinate),
    "gaussian-univariate-tied": (partial(gaussian_mixture.univariate, tied=True), one_coordinate),
    "gaussian-two-groups": (gaussian_mixture.two_groups, one_coordinate),
    "gaussian-full": (gaussian_mixture.full, gaussian_mixture.simulate),
    "gaussian-full-covariance": (gaussian_mixture.full_covariance, gaussian_mixture.simulate),
    "gaussian-tied": (gaussian_mixture.tied, gaussian_mixture.simulate),
    "gaussian-diagonal": (gaussian_mixture.diagonal, gaussian_mixture.simulate),
    "gaussian-spherical": (gaussian_mixture.spherical, gaussian_mixture.simulate),
    "gaussian-diagonal-tied": (partial(gaussian_mixture.diagonal, tied=True), gaussian_mixture.simulate),
    "gaussian-spherical-tied": (partial(gaussian_mixture.spherical, tied=True), gaussian_mixture.simulate),
    "latent-classes": (latent_classes.latent_classes, latent_classes.simulate),
    "latent-classes-missing": (latent_classes.latent_classes, partial(latent_classes.simulate, missing=0.2)),
    "bernoulli": (bernoulli_mixture.bernoulli_mixture, bernoulli_mixture.simulate),
    "poisson": (poisson_mixture.poisson_mixture, poisson_mixture.simulate),
    "negative-binomial": (poisson_mixture.negative_binomial_mixture, poisson_mixture.simulate),
    "zero-inflated-poisson": (zero_inflated.zero_inflated_poisson, zero_inflated.simulate),
    "zero-inflated-negative-binomial": (zero_inflated.zero_inflated_negative_binomial, zero_inflated.simulate),
    "hurdle-poisson": (zero_inflated.hurdle_poisson, zero_inflated.simulate),
    "hurdle-negative-binomial": (zero_inflated.hurdle_negative_binomial, zero_inflated.simulate),
    "linkage-five-cells": (genetic_linkage.five_cells, genetic_linkage.simulate),
    "linkage-two-coins": (genetic_linkage.two_coins, genetic_linkage.simulate),
    "abo": (abo.abo, abo.simulate),
    "plsa": (topics.plsa, topics.simulate),
    "unigrams": (topics.unigrams, topics.simulate_unigrams),
    "transcripts": (transcripts.transcripts, transcripts.simulate),
    "regression-linear": (regressions.linear, regressions.simulate),
    "regression-parallel": (regressions.parallel, regressions.simulate_parallel),
    "regression-logistic": (regressions.logistic, partial(regressions.simulate, link="logit")),
    "regression-poisson": (regressions.poisson, partial(regressions.simulate, link="log")),
    "regression-experts": (regressions.experts, regressions.simulate),
    "hmm-gaussian": (hidden_markov.gaussian, hidden_markov.simulate),
    "hmm-gaussian-diagonal": (hidden_markov.gaussian, correlated),
    "hmm-multivariate": (hidden_markov.multivariate, correlated),
    "hmm-multivariate-tied": (partial(hidden_markov.multivariate, tied=True), correlated),
    "hmm-poisson": (hidden_markov.poisson, poissons),
    "hmm-poisson-stationary": (partial(hidden_markov.poisson, stationary=True), poissons),
    "hmm-categorical": (hidden_markov.categorical, symbols),
    "hmm-binomial": (hidden_markov.binomial, tosses),
    "hmm-time-and-accuracy": (hidden_markov.time_and_accuracy, two_fields),
    "hmm-with-covariate": (hidden_markov.with_covariate, two_fields),
    "hmm-left-to-right": (hidden_markov.left_to_right, hidden_markov.simulate_left_to_right),
    "discrete-hmm-gaussian": (discrete_hmm.gaussian, hidden_markov.simulate),
    "discrete-hmm-gaussian-diagonal": (discrete_hmm.gaussian, correlated),
    "discrete-hmm-poisson": (discrete_hmm.poisson, poissons),
    "discrete-hmm-categorical": (discrete_hmm.categorical, symbols),
    "hmm-factorial": (factorial_hidden_markov.factorial, factorial_hidden_markov.simulate),
    "hmm-switching": (markov_switching.switching, markov_switching.simulate),
    "irt-rasch": (item_response.rasch, item_response.simulate),
    "irt-two-parameters": (item_response.two_parameters, item_response.simulate),
    "irt-normal-ogive": (item_response.normal_ogive, item_response.simulate),
    "irt-three-parameters": (
        poutine.condition(item_response.three_parameters, data={"guess": torch.full((5,), 0.2, dtype=torch.float64)}),
        partial(item_response.simulate, guess=0.2),
    ),
    "gamma": (positive.gamma, positive.simulate),
    "weibull": (positive.weibull, positive.simulate),
    "inverse-gamma": (positive.inverse_gamma, positive.simulate),
    "log-normal": (positive.log_normal, positive.simulate),
    "exponential": (positive.exponential, positive.simulate),
    "beta": (positive.beta, lambda seed=0: positive.simulate_shares(seed=seed)[:, 0]),
    "dirichlet": (positive.dirichlet, positive.simulate_shares),
    "laplace": (heavy_tailed.laplace, heavy_tailed.simulate_clusters),
    "student": (heavy_tailed.student, heavy_tailed.simulate_clusters),
    "von-mises": (heavy_tailed.von_mises, heavy_tailed.simulate_angles),
    "outliers": (heavy_tailed.outliers, heavy_tailed.simulate),
    "tomography": (tomography.tomography, tomography.simulate),
    "neural-em": (neural_em.neural_em, neural_em.simulate),
}

GAUSSIAN: dict[str, Case] = {
    "factors": (factor_analysis.factor_analysis, factor_analysis.simulate),
    "factors-missing": (factor_analysis.factor_analysis, partial(factor_analysis.simulate, missing=0.2)),
    "factors-spherical": (factor_analysis.probabilistic_pca, factor_analysis.simulate),
    "factors-confirmatory": (factor_analysis.confirmatory, factor_analysis.simulate_confirmatory),
    "effects-intercepts": (random_effects.intercepts, random_effects.simulate),
    "effects-slopes": (random_effects.slopes, random_effects.simulate_slopes),
    "effects-nested": (random_effects.nested, random_effects.simulate_nested),
    "effects-crossed": (random_effects.crossed, random_effects.simulate_crossed),
    "local-level": (state_space.local_level, state_space.simulate),
    "local-level-missing": (state_space.local_level, partial(state_space.simulate, missing=0.2)),
    "local-trend": (state_space.local_linear_trend, state_space.simulate_trend),
    "linear-system": (state_space.linear_dynamical_system, state_space.simulate_system),
    "missing-normal": (missing_normal.missing_normal, missing_normal.simulate),
    "missing-mixture": (missing_normal.mixture, partial(missing_normal.simulate, K=2)),
    "factors-mixture": (
        mixture_of_factor_analysers.mixture_of_factor_analysers,
        mixture_of_factor_analysers.simulate,
    ),
}
"""Models of which latents are Gaussian: they are summed out by formulas, where those of `ZOO` are enumerated."""


STEPS = 8
"""Of a chain that is written as a loop: enough for the loop to be run as one unit; every step is two sites to plan."""


def simulated(name: str, **options: Any) -> tuple[Model, tuple[Any, ...]]:
    """Return a model of the zoo and arguments that it simulated itself; loops are short unless `T` is given."""
    model, simulate = (ZOO | GAUSSIAN)[name]
    if name.startswith("hmm-"):
        options = {"T": STEPS, **options}
    data = simulate(**options)
    return model, data if isinstance(data, tuple) else (data,)
