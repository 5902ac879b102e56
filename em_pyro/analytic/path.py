"""The record that every hand-derived EM returns, and the alternation of E-step and M-step that fills it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .arguments import Array, whole

Params = dict[str, Array]
Posterior = TypeVar("Posterior")


@dataclass(frozen=True)
class ParameterPath:
    """The whole path of an EM run of `steps` steps.

    Attributes:
        params: the path of each parameter by name, shape `(steps + 1, ...)`; entry 0 is the start.
        log_likelihood: log evidence of the data at each of these parameters, shape `(steps + 1,)`.
        responsibilities: posterior over the hidden state at the last parameters, shape `(K, N)`, summing to one over
            `K`.
        log_constant: the part of `log_likelihood` that depends on the data alone (binomial coefficients, factorials).
    """

    params: dict[str, Array]
    log_likelihood: Array
    responsibilities: Array
    log_constant: float = 0.0

    def at(self, step: int) -> Params:
        """Return the parameters after `step` steps: 0 is the start, -1 the end."""
        return {name: values[step] for name, values in self.params.items()}


def climb(
    start: Params,
    e_step: Callable[[Params], tuple[float, Posterior]],
    m_step: Callable[[Posterior], Params],
    *,
    steps: int,
) -> tuple[Params, Array, Posterior]:
    """Alternate the two steps: `theta[i + 1] = argmax over theta of Q(theta | theta[i])`.

    Args:
        start: `theta[0]`.
        e_step: from parameters to the log-likelihood there and the posterior of what is hidden.
        m_step: from that posterior to the parameters that maximise the expected complete-data log-likelihood `Q`.
        steps: how many M-steps.

    Returns:
        The parameters and the log-likelihoods, each with leading dimension `steps + 1`, and the posterior at the last
        parameters.
    """
    theta = start
    log_likelihood, posterior = e_step(theta)
    thetas, log_likelihoods = [theta], [log_likelihood]
    for _ in range(whole("steps", steps)):
        theta = m_step(posterior)
        log_likelihood, posterior = e_step(theta)
        thetas.append(theta)
        log_likelihoods.append(log_likelihood)
    stacked = {name: np.stack([theta[name] for theta in thetas]) for name in start}
    return stacked, np.array(log_likelihoods), posterior
