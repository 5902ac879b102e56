"""Mixtures of discrete distributions: coins (binomial), Poisson counts, and binary items (latent classes)."""

import math

import numpy as np
import numpy.typing as npt

from . import arguments
from .arguments import Array
from .mixture import mixture_path, nonempty
from .path import ParameterPath, Params


def xlogy(x: Array, y: Array) -> Array:
    """Return `x log y` with `0 log 0 = 0`, so that probabilities of exactly 0 and 1 are ordinary values."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x == 0, 0.0, x * np.log(y))


def log_factorial(counts: Array) -> Array:
    """Return `log(n!)` entry by entry."""
    distinct, place = np.unique(counts, return_inverse=True)
    values = np.array([math.lgamma(n + 1) for n in distinct])
    return values[place].reshape(counts.shape)


def poisson_log_density(counts: Array, rates: Array) -> Array:
    """Return `log Poisson(y_n | lambda_k) = y_n log lambda_k - lambda_k - log y_n!`, shape `(K, N)`."""
    return xlogy(counts, rates[:, None]) - rates[:, None] - log_factorial(counts)


def pooled_bias(gamma: Array, heads: Array, flips: Array) -> Array:
    """Return expected heads over expected tosses of each coin, shape `(K,)`: a ratio of sums, not a mean of ratios."""
    return gamma @ heads / nonempty(gamma @ flips, "coin")


def coin_mixture(
    heads: npt.ArrayLike,
    flips: npt.ArrayLike,
    bias: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    steps: int,
    estimate_weights: bool,
) -> ParameterPath:
    """Run EM on sequences of tosses, each made with one of `K` coins and nobody having noted which.

    With `h_n` heads in `m_n` tosses and coin `z_n ~ pi`, the complete-data log-likelihood is

        sum_n log pi_{z_n} + h_n log theta_{z_n} + (m_n - h_n) log(1 - theta_{z_n}) + log C(m_n, h_n).

    Taking the posterior mean replaces the indicator of `z_n = k` by `gamma_kn`; setting the derivative in `theta_k` to
    zero gives `(1 - theta_k) sum_n gamma_kn h_n = theta_k sum_n gamma_kn (m_n - h_n)`, that is

        theta_k = sum_n gamma_kn h_n / sum_n gamma_kn m_n.

    `log_likelihood` includes the binomial coefficients `log C(m_n, h_n)`, as `dist.Binomial` does; their sum is
    `log_constant`, and subtracting it leaves the log-likelihood of the sequences in the order they were tossed.

    Args:
        heads: `h`, shape `(N,)`.
        flips: `m`, a number or shape `(N,)`.
        bias: initial `theta`, shape `(K,)`.
        weights: `pi`, shape `(K,)`: known, or the start.
        steps: how many EM steps.
        estimate_weights: whether `pi` is a parameter too (`pi_k = mean_n gamma_kn`).

    Returns:
        The path of "bias" and "weights", each `(steps + 1, K)`.

    Raises:
        ValueError: an argument of the wrong shape or outside its domain; an observation impossible under every coin.

    References:
        Do & Batzoglou (2008) Nature Biotechnology 26:897-899, figure 1b.
    """
    h = arguments.counts("heads", heads, (None,))
    m = arguments.counts("flips", flips, () if np.ndim(flips) == 0 else h.shape) + np.zeros_like(h)
    arguments.refuse("heads", h > m, h, "no more heads than flips")
    arguments.refuse("flips", np.array(m.sum() == 0), m.sum(), "at least one toss")
    theta = arguments.probabilities("bias", bias, (None,))
    pi = arguments.simplex("weights", weights, theta.shape)
    log_choose = log_factorial(m) - log_factorial(h) - log_factorial(m - h)

    def log_density(params: Params) -> Array:
        theta = params["bias"][:, None]
        return xlogy(h, theta) + xlogy(m - h, 1 - theta) + log_choose

    return mixture_path(
        log_density,
        lambda gamma, _: {"bias": pooled_bias(gamma, h, m)},
        {"bias": theta, "weights": pi},
        steps=steps,
        estimate_weights=estimate_weights,
        log_constant=float(log_choose.sum()),
    )


def poisson_mixture(
    counts: npt.ArrayLike,
    rates: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    steps: int,
    estimate_weights: bool = True,
) -> ParameterPath:
    """Run EM on a mixture of `K` Poisson distributions.

    The terms of `Q` in `lambda_k` are `sum_n gamma_kn (y_n log lambda_k - lambda_k)`, so

        lambda_k = sum_n gamma_kn y_n / sum_n gamma_kn.

    `log_likelihood` includes `-sum_n log y_n!`, as `dist.Poisson` does; that sum is `log_constant`.

    Args:
        counts: `y`, shape `(N,)`.
        rates: initial `lambda`, shape `(K,)`.
        weights: `pi`, shape `(K,)`: the start, or known.
        steps: how many EM steps.
        estimate_weights: whether `pi` is a parameter too.

    Returns:
        The path of "rates" and "weights", each `(steps + 1, K)`.

    Raises:
        ValueError: an argument of the wrong shape or outside its domain.

    References:
        Hasselblad (1969) JASA 64:1459-1471.
    """
    y = arguments.counts("counts", counts, (None,))
    start = arguments.positive("rates", rates, (None,))
    pi = arguments.simplex("weights", weights, start.shape)
    return mixture_path(
        lambda params: poisson_log_density(y, params["rates"]),
        lambda gamma, mass: {"rates": gamma @ y / mass},
        {"rates": start, "weights": pi},
        steps=steps,
        estimate_weights=estimate_weights,
        log_constant=-float(log_factorial(y).sum()),
    )


def item_probabilities(gamma: Array, yes: Array, answered: Array) -> Array:
    """Return expected yeses over expected answers for each class and item, shape `(K, D)`."""
    return gamma @ yes / nonempty(gamma @ answered, "class")


def bernoulli_mixture(
    items: npt.ArrayLike,
    probs: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    steps: int,
    estimate_weights: bool = True,
) -> ParameterPath:
    """Run EM on a mixture of products of Bernoulli distributions: latent classes with binary items.

    Given its class `k`, a respondent says yes to item `d` with probability `mu_kd`, independently over items. A missing
    answer sums to one over its two values and drops out of likelihood and `Q` alike, so with `o_nd = 1` where the
    answer is there and 0 where it is missing

        mu_kd = sum_n gamma_kn o_nd x_nd / sum_n gamma_kn o_nd.

    Args:
        items: `x`, shape `(N, D)`, of 0, 1 and NaN (missing at random).
        probs: initial `mu`, shape `(K, D)`.
        weights: `pi`, shape `(K,)`: the start, or known.
        steps: how many EM steps.
        estimate_weights: whether `pi` is a parameter too.

    Returns:
        The path of "probs", `(steps + 1, K, D)`, and "weights", `(steps + 1, K)`.

    Raises:
        ValueError: an argument of the wrong shape or outside its domain; an item that nobody answered.

    References:
        Goodman (1974) Biometrika 61:215-231; Bishop (2006), equations (9.56) to (9.60).
    """
    x = arguments.array("items", items, (None, None), missing=True)
    arguments.refuse("items", ~(np.isnan(x) | (x == 0) | (x == 1)), x, "0, 1 or NaN")
    answered = (~np.isnan(x)).astype(np.float64)
    if (answered.sum(axis=0) == 0).any():
        raise ValueError(f"items: item {int(np.argmax(answered.sum(axis=0) == 0))} has no answers; leave it out.")
    yes = np.where(np.isnan(x), 0.0, x)
    mu = arguments.probabilities("probs", probs, (None, x.shape[1]))
    pi = arguments.simplex("weights", weights, mu.shape[:1])

    def log_density(params: Params) -> Array:
        mu = params["probs"][:, None, :]
        return np.asarray((xlogy(yes, mu) + xlogy(answered - yes, 1 - mu)).sum(axis=2))

    return mixture_path(
        log_density,
        lambda gamma, _: {"probs": item_probabilities(gamma, yes, answered)},
        {"probs": mu, "weights": pi},
        steps=steps,
        estimate_weights=estimate_weights,
    )
