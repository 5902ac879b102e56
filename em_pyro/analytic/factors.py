"""EM for factor analysis, and for probabilistic principal components, which is the same with one scale for all."""

import numpy as np
import numpy.typing as npt

from . import arguments
from .arguments import Array
from .latent_path import LatentPath, Moments
from .path import Params, climb


def factor_posterior(x: Array, params: Params) -> tuple[float, Moments]:
    """Return the log-likelihood and the law of the factors of each row.

    With `Psi = diag(sigma^2)` and `A = I + Lambda^T Psi^-1 Lambda`, row `n` has

        E z_n = A^-1 Lambda^T Psi^-1 (x_n - mu),    Cov z_n = A^-1,

    and marginally `x_n ~ N(mu, Lambda Lambda^T + Psi)`.

    Args:
        x: data, shape `(N, D)`.
        params: "mean" `(D,)`, "loadings" `(D, k)` and "scale" `(D,)` or `()`.

    Returns:
        The log-likelihood; means `(N, k)` and covariance `(k, k)`, which all rows have in common.
    """
    loadings, centred = params["loadings"], x - params["mean"]
    variance = np.broadcast_to(params["scale"] ** 2, x.shape[1:])
    scaled = loadings / variance[:, None]
    covariance = np.asarray(np.linalg.inv(np.eye(loadings.shape[1]) + scaled.T @ loadings), dtype=np.float64)
    root = np.linalg.cholesky(loadings @ loadings.T + np.diag(variance))
    white = np.linalg.solve(root, centred.T)
    log_det = 2 * np.log(np.diagonal(root)).sum()
    log_likelihood = -0.5 * (len(x) * (x.shape[1] * np.log(2 * np.pi) + log_det) + (white**2).sum())
    means: Array = np.asarray(centred @ scaled @ covariance, dtype=np.float64)
    return float(log_likelihood), Moments(means, np.asarray(covariance, dtype=np.float64))


def regression_on_factors(x: Array, posterior: Moments, *, tied: bool) -> Params:
    """Return the parameters that maximise `Q`: an expected regression of each column on `u_n = (1, z_n)`.

    `Q` is a sum over columns `d` of `-N log sigma_d - E sum_n (x_nd - beta_d^T u_n)^2 / (2 sigma_d^2)` with `beta_d =
    (mu_d, Lambda_d)`, so that

        beta = (sum_n x_n E[u_n]^T) (sum_n E[u_n u_n^T])^-1,
        sigma_d^2 = 1/N sum_n (x_nd - beta_d^T E[u_n])^2 + Lambda_d Cov(z) Lambda_d^T,

    at the **new** coefficients; tied, `sigma^2` is the mean of these over `d`.
    """
    means, covariance = posterior
    design = np.concatenate([np.ones((len(x), 1)), means], axis=1)
    products = design.T @ design
    products[1:, 1:] += len(x) * covariance
    beta = np.linalg.solve(products, design.T @ x).T
    mean, loadings = beta[:, 0], beta[:, 1:]
    squares = ((x - design @ beta.T) ** 2).mean(axis=0) + ((loadings @ covariance) * loadings).sum(axis=1)
    if (squares <= 0).any():
        raise ValueError(f"The variance of column {int(np.argmax(squares <= 0))} has fallen to zero; start elsewhere.")
    return {"mean": mean, "loadings": loadings, "scale": np.sqrt(np.asarray(squares.mean() if tied else squares))}


def factor_analysis(
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    loadings: npt.ArrayLike,
    scale: npt.ArrayLike,
    *,
    steps: int,
    tied: bool = False,
) -> LatentPath:
    """Run EM on `x_n = mu + Lambda z_n + noise`, `z_n ~ N(0, I)`, noise `~ N(0, diag(sigma^2))`.

    The mean is a parameter like any other. From the mean of the data it does not move, and the rest is the algorithm of
    Rubin and Thayer, who centre the data; from elsewhere it comes there, and loadings and scales have the same path.

    Args:
        x: data, shape `(N, D)`.
        mean: initial `mu`, shape `(D,)`.
        loadings: initial `Lambda`, shape `(D, k)`; zero is a stationary point.
        scale: initial `sigma`, standard deviations, shape `(D,)`; a number where tied.
        steps: how many EM steps.
        tied: whether all columns have one scale: probabilistic principal components.

    Returns:
        The path of "mean", "loadings" and "scale"; latents `(N, k)`, their common covariance `(k, k)`.

    Raises:
        ValueError: an argument of the wrong shape or outside its domain; a variance that has fallen to zero.

    References:
        Rubin & Thayer (1982) Psychometrika 47:69-76; tied: Tipping & Bishop (1999) JRSS B 61:611-622.
    """
    data = arguments.array("x", x, (None, None))
    width = data.shape[1]
    start = {
        "mean": arguments.array("mean", mean, (width,)),
        "loadings": arguments.array("loadings", loadings, (width, None)),
        "scale": arguments.positive("scale", scale, () if tied else (width,)),
    }
    params, log_likelihood, latents = climb(
        start,
        lambda theta: factor_posterior(data, theta),
        lambda found: regression_on_factors(data, found, tied=tied),
        steps=steps,
    )
    return LatentPath(params, log_likelihood, latents)
