"""EM for a mixture of multivariate normal distributions, with four kinds of covariance."""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from . import arguments
from .arguments import Array
from .mixture import mixture_path
from .path import ParameterPath, Params

Covariance = Literal["full", "tied", "diagonal", "spherical"]


def scatters(x: Array, gamma: Array, means: Array) -> Array:
    """Return `S_k = sum_n gamma_kn (x_n - mu_k)(x_n - mu_k)^T`, shape `(K, D, D)`, centred before it is squared."""
    centred = [np.sqrt(row)[:, None] * (x - mean) for row, mean in zip(gamma, means, strict=True)]
    return np.stack([c.T @ c for c in centred])


def from_scatters(scatter: Array, mass: Array, kind: Covariance) -> Array:
    """Return the covariances that maximise `-1/2 sum_k (N_k log |C_k| + tr(C_k^-1 S_k))` within their kind.

    Setting the derivative in `C_k^-1`, over the entries that the kind leaves free, to zero gives

        full       C_k = S_k / N_k                             shape `(K, D, D)`
        tied       C = sum_k S_k / N                           shape `(D, D)`
        diagonal   C_k = diag(S_k) / N_k                       shape `(K, D)`
        spherical  C_k = c_k I,  c_k = tr(S_k) / (D N_k)       shape `(K,)`

    References:
        Celeux & Govaert (1995) Pattern Recognition 28:781-793, section 3 and appendix.
    """
    if kind == "full":
        return scatter / mass[:, None, None]
    if kind == "tied":
        return np.asarray(scatter.sum(axis=0) / mass.sum())
    squares = np.diagonal(scatter, axis1=1, axis2=2)
    if kind == "diagonal":
        return squares / mass[:, None]
    return np.asarray(squares.mean(axis=1) / mass)


def as_matrices(covariances: Array, kind: Covariance, means: Array) -> Array:
    """Return the covariances of any kind as matrices, shape `(K, D, D)`."""
    components, dimension = means.shape
    if kind == "diagonal":
        covariances = covariances[:, :, None] * np.eye(dimension)
    if kind == "spherical":
        covariances = covariances[:, None, None] * np.eye(dimension)
    return np.broadcast_to(covariances, (components, dimension, dimension))


def log_density(x: Array, means: Array, matrices: Array) -> Array:
    """Return `log N(x_n | mu_k, C_k)`, shape `(K, N)`, by the Cholesky factor `C_k = L L^T`.

    `-1/2 (D log 2 pi + 2 sum_d log L_dd + |L^-1 (x_n - mu_k)|^2)`.

    Raises:
        ValueError: a covariance that is not positive definite.
    """
    rows = []
    for k, (mean, matrix) in enumerate(zip(means, matrices, strict=True)):
        try:
            factor = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            raise ValueError(f"The covariance of component {k} is not positive definite; start elsewhere.") from None
        whitened = np.linalg.solve(factor, (x - mean).T)
        log_det = 2 * np.log(np.diagonal(factor)).sum()
        rows.append(-0.5 * (x.shape[1] * np.log(2 * np.pi) + log_det + (whitened**2).sum(axis=0)))
    return np.stack(rows)


def gaussian_mixture(
    x: npt.ArrayLike,
    means: npt.ArrayLike,
    covariances: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    steps: int,
    covariance: Covariance = "full",
    estimate_weights: bool = True,
) -> ParameterPath:
    """Run EM on a mixture of `K` multivariate normals.

    The terms of `Q` in component `k`, with `N_k = sum_n gamma_kn`, are

        -1/2 sum_n gamma_kn (log |C_k| + (x_n - mu_k)^T C_k^-1 (x_n - mu_k)).

    Whatever `C_k` is, the mean that maximises them is `mu_k = sum_n gamma_kn x_n / N_k`. **At that new mean** they
    are `-1/2 (N_k log |C_k| + tr(C_k^-1 S_k))` with the scatter `S_k = sum_n gamma_kn (x_n - mu_k)(x_n - mu_k)^T`,
    which `from_scatters` maximises within each kind of covariance.

    Args:
        x: data, shape `(N, D)`.
        means: initial `mu`, shape `(K, D)`.
        covariances: initial `C`: full `(K, D, D)`, tied `(D, D)`; the variances where it is diagonal `(K, D)` or
            spherical `(K,)`.
        weights: `pi`, shape `(K,)`: the start, or known.
        steps: how many EM steps.
        covariance: the kind, "full", "tied", "diagonal" or "spherical".
        estimate_weights: whether `pi` is a parameter too.

    Returns:
        The path of "means", "covariances" and "weights", each with leading dimension `steps + 1`.

    Raises:
        ValueError: an argument of the wrong shape or outside its domain; a covariance that has become singular.

    References:
        Bishop (2006), equations (9.23) to (9.28); Celeux & Govaert (1995), models [lambda_k D_k A_k D_k^T],
        [lambda D A D^T], [lambda_k B_k] and [lambda_k I].
    """
    if covariance not in get_args(Covariance):
        raise ValueError(f"covariance: expected one of {get_args(Covariance)}, got {covariance!r}.")
    data = arguments.array("x", x, (None, None))
    mu = arguments.array("means", means, (None, data.shape[1]))
    start = _checked(covariances, covariance, *mu.shape)
    pi = arguments.simplex("weights", weights, (len(mu),))

    def maximise(gamma: Array, mass: Array) -> Params:
        new_means = gamma @ data / mass[:, None]
        scatter = scatters(data, gamma, new_means)
        return {"means": new_means, "covariances": from_scatters(scatter, mass, covariance)}

    return mixture_path(
        lambda p: log_density(data, p["means"], as_matrices(p["covariances"], covariance, mu)),
        maximise,
        {"means": mu, "covariances": start, "weights": pi},
        steps=steps,
        estimate_weights=estimate_weights,
    )


def _checked(covariances: npt.ArrayLike, kind: Covariance, components: int, dimension: int) -> Array:
    """The initial covariances, in the shape of their kind."""
    if kind in ("full", "tied"):
        shape = (components, dimension, dimension) if kind == "full" else (dimension, dimension)
        start = arguments.array("covariances", covariances, shape)
        skew = np.abs(start - np.swapaxes(start, -1, -2)) > 1e-8 * np.abs(start).max()
        arguments.refuse("covariances", skew, start, "symmetric matrices")
        return start
    return arguments.positive("covariances", covariances, (components, dimension)[: 2 if kind == "diagonal" else 1])
