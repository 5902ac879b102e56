"""EM for a mixture of univariate normal distributions."""

import numpy as np
import numpy.typing as npt

from . import arguments
from .arguments import Array
from .mixture import mixture_path
from .path import ParameterPath, Params


def squared_deviations(x: Array, gamma: Array, means: Array) -> Array:
    """Return `S_k = sum_n gamma_kn (x_n - mu_k)^2`, shape `(K,)`."""
    return np.asarray((gamma * (x - means[:, None]) ** 2).sum(axis=1))


def standard_deviations(squares: Array, mass: Array, *, tied: bool) -> Array:
    """Return `sqrt(S_k / N_k)`, shape `(K,)`, or where tied `sqrt(sum_k S_k / N)`, shape `()`.

    Raises:
        ValueError: a standard deviation of zero, where the likelihood is unbounded.
    """
    variances = np.asarray(squares.sum() / mass.sum()) if tied else squares / mass
    if (variances <= 0).any():
        raise ValueError(f"Component {int(np.argmax(variances <= 0))} has shrunk to a point; start elsewhere.")
    return np.sqrt(variances)


def normal_mixture(
    x: npt.ArrayLike,
    means: npt.ArrayLike,
    sds: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    steps: int,
    estimate_weights: bool = True,
    tied: bool = False,
) -> ParameterPath:
    """Run EM on a mixture of `K` univariate normals.

    The terms of `Q` in component `k` are `-sum_n gamma_kn (log sigma_k + (x_n - mu_k)^2 / (2 sigma_k^2))`. Whatever
    `sigma_k` is, the mean that maximises them is

        mu_k = sum_n gamma_kn x_n / N_k,    N_k = sum_n gamma_kn;

    what is left is maximised **at that new mean** by

        sigma_k^2 = sum_n gamma_kn (x_n - mu_k)^2 / N_k,    tied: sigma^2 = sum_k sum_n gamma_kn (x_n - mu_k)^2 / N.

    A variance taken about the old mean is larger by the square of the mean's move: it is not the maximum, and the path
    is another one, though it has the same fixed points.

    Args:
        x: data, shape `(N,)`.
        means: initial `mu`, shape `(K,)`.
        sds: initial `sigma`, shape `(K,)`; a number where tied.
        weights: `pi`, shape `(K,)`: the start, or known (two groups of known equal weight: `[0.5, 0.5]`).
        steps: how many EM steps.
        estimate_weights: whether `pi` is a parameter too.
        tied: whether all components have one standard deviation.

    Returns:
        The path of "means", `(steps + 1, K)`, "sds", `(steps + 1, K)` or tied `(steps + 1,)`, and "weights".

    Raises:
        ValueError: an argument of the wrong shape or outside its domain; a component that has shrunk to a point.

    References:
        Bishop (2006), equations (9.24) to (9.26) in one dimension.
    """
    data = arguments.array("x", x, (None,))
    mu = arguments.array("means", means, (None,))
    sigma = arguments.positive("sds", sds, () if tied else mu.shape)
    pi = arguments.simplex("weights", weights, mu.shape)

    def log_density(params: Params) -> Array:
        scale = np.broadcast_to(params["sds"], mu.shape)[:, None]
        standardised: Array = (data - params["means"][:, None]) / scale
        return np.asarray(-0.5 * np.log(2 * np.pi) - np.log(scale) - 0.5 * standardised**2)

    def maximise(gamma: Array, mass: Array) -> Params:
        new_means = gamma @ data / mass
        squares = squared_deviations(data, gamma, new_means)
        return {"means": new_means, "sds": standard_deviations(squares, mass, tied=tied)}

    start = {"means": mu, "sds": sigma, "weights": pi}
    return mixture_path(log_density, maximise, start, steps=steps, estimate_weights=estimate_weights)
