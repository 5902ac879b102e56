"""EM for a local level: a random walk that is observed with noise."""

import numpy as np
import numpy.typing as npt

from . import arguments
from .arguments import Array
from .latent_path import LatentPath, Moments
from .path import Params, climb

Smoothed = tuple[Array, Array, Array]


def smoother(y: Array, first: tuple[float, float], params: Params) -> tuple[float, Smoothed]:
    """Return the log-likelihood and the smoothed levels, by the filter forwards and the smoother backwards.

    With `a_t` and `P_t` mean and variance of level `t` given what was observed before it, `F_t = P_t + sigma^2` and
    `v_t = y_t - a_t`,

        m_t = a_t + P_t v_t / F_t,    C_t = P_t sigma^2 / F_t,    log L = -1/2 sum_t log(2 pi F_t) + v_t^2 / F_t,
        a_{t+1} = m_t,    P_{t+1} = C_t + eta^2;

    a missing observation leaves `m_t = a_t`, `C_t = P_t`. Then backwards, with `J_t = C_t / P_{t+1}`,

        E l_t = m_t + J_t (E l_{t+1} - a_{t+1}),    Var l_t = C_t + J_t^2 (Var l_{t+1} - P_{t+1}),
        Cov(l_{t+1}, l_t) = J_t Var l_{t+1}.

    Args:
        y: observations, NaN where missing, shape `(T,)`.
        first: mean and standard deviation of the first level.
        params: "step" `eta` and "scale" `sigma`.

    Returns:
        The log-likelihood; means and variances, shape `(T,)`, and covariances of neighbours, shape `(T - 1,)`.

    References:
        Shumway & Stoffer (1982), appendix; the covariances of neighbours are in closed form here.
    """
    length, noise, move = len(y), float(params["scale"]) ** 2, float(params["step"]) ** 2
    before, prior, mean, variance = (np.empty(length) for _ in range(4))
    log_likelihood, a, P = 0.0, float(first[0]), float(first[1] ** 2)
    for t in range(length):
        before[t], prior[t] = a, P
        if not np.isnan(y[t]):
            F, v = P + noise, float(y[t] - a)
            log_likelihood -= 0.5 * (np.log(2 * np.pi * F) + v**2 / F)
            a, P = a + P * v / F, P * noise / F
        mean[t], variance[t] = a, P
        P = P + move
    neighbours = np.empty(length - 1)
    for t in reversed(range(length - 1)):
        J = variance[t] / prior[t + 1]
        neighbours[t] = J * variance[t + 1]
        mean[t] += J * (mean[t + 1] - before[t + 1])
        variance[t] += J**2 * (variance[t + 1] - prior[t + 1])
    return float(log_likelihood), (mean, variance, neighbours)


def step_and_noise(y: Array, posterior: Smoothed) -> Params:
    """Return the parameters that maximise `Q`: expected squares of the steps, and of the noise where it was observed.

        eta^2 = 1/(T-1) sum_t E (l_{t+1} - l_t)^2,    sigma^2 = mean of E (y_t - l_t)^2 over observed t.

    References:
        Shumway & Stoffer (1982), for a transition of one.
    """  # fmt: skip
    mean, variance, neighbours = posterior
    seen = ~np.isnan(y)
    steps = np.diff(mean) ** 2 + variance[1:] + variance[:-1] - 2 * neighbours
    noise = (y[seen] - mean[seen]) ** 2 + variance[seen]
    return {"step": np.sqrt(steps.mean()), "scale": np.sqrt(noise.mean())}


def local_level(
    y: npt.ArrayLike,
    step: float,
    scale: float,
    *,
    first: tuple[float, float],
    steps: int,
) -> LatentPath:
    """Run EM on `y_t = l_t + noise`, `l_{t+1} = l_t + move`, noise `~ N(0, sigma^2)`, move `~ N(0, eta^2)`.

    Args:
        y: observations at equal intervals, NaN where one is missing, shape `(T,)`, two or more.
        step: initial `eta`, the standard deviation of the moves.
        scale: initial `sigma`, the standard deviation of the noise.
        first: mean and standard deviation of the first level, which are known.
        steps: how many EM steps.

    Returns:
        The path of "step" and "scale", shape `(steps + 1,)`; latents: the levels, shape `(T,)`.

    Raises:
        ValueError: an argument of the wrong shape or outside its domain.

    References:
        Shumway & Stoffer (1982) Journal of Time Series Analysis 3:253-264.
    """
    data = arguments.array("y", y, (None,), missing=True)
    if len(data) < 2:
        raise ValueError("y: expected two observations or more, got 1. One alone says nothing of moves.")
    if np.isnan(data).all():
        raise ValueError("y: expected an observation, got none that is not missing.")
    mean, sd = arguments.array("first", first, (2,))
    arguments.positive("first", sd, ())
    start = {"step": arguments.positive("step", step, ()), "scale": arguments.positive("scale", scale, ())}
    params, log_likelihood, (means, variances, _) = climb(
        start,
        lambda theta: smoother(data, (float(mean), float(sd)), theta),
        lambda found: step_and_noise(data, found),
        steps=steps,
    )
    return LatentPath(params, log_likelihood, Moments(means, variances))
