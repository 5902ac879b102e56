"""What all mixtures share: the responsibilities and the mixing weights."""

from collections.abc import Callable

import numpy as np

from .arguments import Array
from .path import ParameterPath, Params, climb


def responsibilities(log_joint: Array) -> tuple[float, Array]:
    """Return the log-likelihood and the posterior over components.

    `gamma_kn = pi_k p(x_n | theta_k) / sum_j pi_j p(x_n | theta_j)`, by log-sum-exp.

    Args:
        log_joint: `log pi_k + log p(x_n | theta_k)`, shape `(K, N)`.

    Raises:
        ValueError: an observation has probability zero under every component.

    References:
        Bishop (2006) Pattern Recognition and Machine Learning, equations (9.23) and (9.28).
    """
    log_evidence = np.logaddexp.reduce(log_joint, axis=0)
    if np.isneginf(log_evidence).any():
        row = int(np.argmax(np.isneginf(log_evidence)))
        raise ValueError(f"Observation {row} has probability zero under every component.")
    return float(log_evidence.sum()), np.exp(log_joint - log_evidence)


def nonempty(mass: Array, what: str = "component") -> Array:
    """Return `mass`, an expected number of observations for each component along its first axis.

    Raises:
        ValueError: one of them is zero: the parameters that it weighs do not enter `Q`, which has no single maximum.
    """
    if (mass <= 0).any():
        raise ValueError(f"The weight of {what} {np.argwhere(mass <= 0)[0, 0]} has fallen to zero; start elsewhere.")
    return mass


def mixture_path(
    log_density: Callable[[Params], Array],
    maximise: Callable[[Array, Array], Params],
    start: Params,
    *,
    steps: int,
    estimate_weights: bool,
    log_constant: float = 0.0,
) -> ParameterPath:
    """Run EM on `p(x) = sum_k pi_k p(x | theta_k)`.

    The weights maximise `sum_k N_k log pi_k` on the simplex, so `pi_k = N_k / N`; they need no knowledge of the family.

    Args:
        log_density: from parameters to `log p(x_n | theta_k)`, shape `(K, N)`.
        maximise: from the responsibilities, shape `(K, N)`, and their sums `N_k`, shape `(K,)`, to the new `theta`.
        start: the initial `theta`, and the mixing weights under the name "weights".
        steps: how many EM steps.
        estimate_weights: whether the mixing weights are parameters or known.
        log_constant: what `log_density` adds over all data whatever the parameters.

    References:
        Bishop (2006), equation (9.26).
    """

    def e_step(theta: Params) -> tuple[float, Array]:
        return responsibilities(np.log(theta["weights"])[:, None] + log_density(theta))

    def m_step(gamma: Array) -> Params:
        mass = nonempty(gamma.sum(axis=1))
        weights = mass / gamma.shape[1] if estimate_weights else start["weights"]
        return {**maximise(gamma, mass), "weights": weights}

    params, log_likelihood, gamma = climb(start, e_step, m_step, steps=steps)
    return ParameterPath(params, log_likelihood, gamma, log_constant)
