"""EM for a hidden Markov chain with Poisson counts (Baum-Welch), one sequence."""

import numpy as np
import numpy.typing as npt

from . import arguments
from .arguments import Array
from .counts import log_factorial, poisson_log_density
from .mixture import nonempty
from .path import ParameterPath, Params, climb

Posterior = tuple[Array, Array]


def forward_backward(log_initial: Array, log_transition: Array, log_emission: Array) -> tuple[float, Posterior]:
    """Return the log-likelihood, the posterior of each state and the expected number of each transition.

    With `b_j(t) = p(y_t | state j)`, the recursions, run in logarithms, are

        alpha_j(1) = delta_j b_j(1),    alpha_j(t) = sum_i alpha_i(t - 1) Gamma_ij b_j(t),
        beta_i(T) = 1,                  beta_i(t) = sum_j Gamma_ij b_j(t + 1) beta_j(t + 1),

    and then `L = sum_j alpha_j(T)`,

        gamma_j(t) = alpha_j(t) beta_j(t) / L,
        xi_ij(t) = alpha_i(t) Gamma_ij b_j(t + 1) beta_j(t + 1) / L,    t = 1 .. T - 1.

    Args:
        log_initial: `log delta`, shape `(S,)`: the law of the state at the first observation.
        log_transition: `log Gamma`, shape `(S, S)`, from row to column.
        log_emission: `log b`, shape `(S, T)`.

    Returns:
        `log L`; `gamma`, shape `(S, T)`; and `sum_t xi_ij(t)`, shape `(S, S)`.

    Raises:
        ValueError: no path of states can have produced the sequence.

    References:
        Rabiner (1989) Proceedings of the IEEE 77:257-286, equations (19), (20), (24), (25), (27) and (37).
    """
    emission = log_emission.T
    length = len(emission)
    alpha, beta = np.empty_like(emission), np.zeros_like(emission)
    alpha[0] = log_initial + emission[0]
    for t in range(1, length):
        alpha[t] = np.logaddexp.reduce(alpha[t - 1][:, None] + log_transition, axis=0) + emission[t]
    for t in reversed(range(length - 1)):
        beta[t] = np.logaddexp.reduce(log_transition + emission[t + 1] + beta[t + 1], axis=1)
    log_likelihood = float(np.logaddexp.reduce(alpha[-1]))
    if np.isneginf(log_likelihood):
        raise ValueError("The sequence has probability zero: no path of states can have produced it.")
    gamma = np.exp(alpha + beta - log_likelihood).T
    pairs = alpha[:-1, :, None] + log_transition + (emission + beta)[1:, None, :] - log_likelihood
    return log_likelihood, (gamma, np.exp(pairs).sum(axis=0))


def transition_rows(transitions: Array) -> Array:
    """Return each row of expected transitions divided by its sum, shape `(S, S)`: the departures, `t = 1 .. T - 1`."""
    return transitions / nonempty(transitions.sum(axis=1), "departures from state")[:, None]


def poisson_hmm(
    counts: npt.ArrayLike,
    rates: npt.ArrayLike,
    transition: npt.ArrayLike,
    initial: npt.ArrayLike,
    *,
    steps: int,
) -> ParameterPath:
    """Run Baum-Welch on one sequence of counts.

    State `c_1 ~ delta` belongs to the **first observation**; then `c_t` has law `Gamma[c_{t-1}, .]`, and `y_t` is
    Poisson with rate `lambda[c_t]`. The posterior mean of the complete-data log-likelihood falls into three parts,

        sum_j gamma_j(1) log delta_j + sum_ij (sum_t xi_ij(t)) log Gamma_ij
            + sum_j sum_t gamma_j(t) (y_t log lambda_j - lambda_j - log y_t!),

    the first two maximised on simplices by normalising the weights, the third as in a Poisson mixture:

        delta_j = gamma_j(1),    Gamma_ij = sum_t xi_ij(t) / sum_j sum_t xi_ij(t),
        lambda_j = sum_t gamma_j(t) y_t / sum_t gamma_j(t).

    A zero in `initial` or `transition` stays zero.

    Args:
        counts: `y`, shape `(T,)`, two or more.
        rates: initial `lambda`, shape `(S,)`.
        transition: initial `Gamma`, shape `(S, S)`, from row to column.
        initial: initial `delta`, shape `(S,)`; a free parameter, not the stationary law of `Gamma`.
        steps: how many EM steps.

    Returns:
        The path of "rates", "transition" and "initial"; the responsibilities are `gamma_j(t)`, shape `(S, T)`.
        `log_likelihood` includes `-sum_t log y_t!`, which is `log_constant`.

    Raises:
        ValueError: an argument of the wrong shape or outside its domain; a sequence that no path of states can produce.

    References:
        Zucchini & MacDonald (2009) Hidden Markov Models for Time Series, section 4.2; Rabiner (1989), equation (40).
    """
    y = arguments.counts("counts", counts, (None,))
    if len(y) < 2:
        raise ValueError("counts: expected two observations or more, got 1. One alone says nothing of transitions.")
    start = arguments.positive("rates", rates, (None,))
    gamma = arguments.simplex("transition", transition, start.shape * 2, zeros=True)
    delta = arguments.simplex("initial", initial, start.shape, zeros=True)

    def e_step(params: Params) -> tuple[float, Posterior]:
        with np.errstate(divide="ignore"):
            log_initial, log_transition = np.log(params["initial"]), np.log(params["transition"])
        return forward_backward(log_initial, log_transition, poisson_log_density(y, params["rates"]))

    theta = {"rates": start, "transition": gamma, "initial": delta}
    params, log_likelihood, (states, _) = climb(theta, e_step, lambda found: _maximised(y, found), steps=steps)
    return ParameterPath(params, log_likelihood, states, -float(log_factorial(y).sum()))


def _maximised(y: Array, posterior: Posterior) -> Params:
    """The M-step on counts `y`."""
    states, transitions = posterior
    return {
        "rates": states @ y / nonempty(states.sum(axis=1), "state"),
        "transition": transition_rows(transitions),
        "initial": states[:, 0] / states[:, 0].sum(),
    }
