"""EM for a random intercept: groups whose means are drawn from a normal law."""

import numpy as np
import numpy.typing as npt

from . import arguments
from .arguments import Array
from .latent_path import LatentPath, Moments
from .path import Params, climb


def intercept_posterior(y: Array, group: npt.NDArray[np.int64], params: Params) -> tuple[float, Moments]:
    """Return the log-likelihood and the law of each group's intercept.

    With `r_n = y_n - mu`, sums `s_g` of `r_n` over the `n_g` rows of a group, and `v_g = 1 / (n_g / sigma^2 + 1 /
    tau^2)`,

        E b_g = v_g s_g / sigma^2,    Var b_g = v_g,

    and by the matrix determinant and Woodbury identities for `sigma^2 I + tau^2 1 1^T`

        log L = -1/2 (N log 2 pi + sum_n r_n^2 / sigma^2
                      + sum_g n_g log sigma^2 + log(1 + n_g tau^2 / sigma^2) - v_g s_g^2 / sigma^4).

    Returns:
        The log-likelihood; means and variances of the intercepts, shape `(G,)` each.
    """
    residual, noise, between = y - params["mean"], params["scale"] ** 2, params["spread"] ** 2
    n, s = np.bincount(group), np.bincount(group, residual)
    variance = 1 / (n / noise + 1 / between)
    log_det = (n * np.log(noise) + np.log1p(n * between / noise)).sum()
    squares = (residual**2).sum() / noise - (variance * s**2).sum() / noise**2
    return float(-0.5 * (len(y) * np.log(2 * np.pi) + log_det + squares)), Moments(variance * s / noise, variance)


def variance_components(y: Array, group: npt.NDArray[np.int64], posterior: Moments) -> Params:
    """Return the parameters that maximise `Q`.

        mu = 1/N sum_n (y_n - E b_g(n)),
        sigma^2 = 1/N sum_n (y_n - mu - E b_g(n))^2 + Var b_g(n),    at the **new** `mu`,
        tau^2 = 1/G sum_g (E b_g)^2 + Var b_g.

    References:
        Laird & Ware (1982), for one random effect of mean zero.
    """  # fmt: skip
    means, variances = posterior
    left = y - means[group]
    mean = left.mean()
    noise = ((left - mean) ** 2 + variances[group]).mean()
    between = (means**2 + variances).mean()
    return {"mean": mean, "spread": np.sqrt(between), "scale": np.sqrt(noise)}


def random_intercept(
    y: npt.ArrayLike,
    group: npt.ArrayLike,
    mean: float,
    spread: float,
    scale: float,
    *,
    steps: int,
) -> LatentPath:
    """Run EM on `y_n = mu + b_g(n) + noise`, `b_g ~ N(0, tau^2)`, noise `~ N(0, sigma^2)`: ML, not REML.

    Args:
        y: data, shape `(N,)`.
        group: of each row, 0 to G - 1, shape `(N,)`; each has a row.
        mean: initial `mu`.
        spread: initial `tau`, the standard deviation of the intercepts.
        scale: initial `sigma`, the standard deviation within groups.
        steps: how many EM steps.

    Returns:
        The path of "mean", "spread" and "scale", shape `(steps + 1,)`; latents: the intercepts, shape `(G,)`.

    Raises:
        ValueError: an argument of the wrong shape or outside its domain, or a group without rows.

    References:
        Laird & Ware (1982) Biometrics 38:963-974.
    """
    data = arguments.array("y", y, (None,))
    of = arguments.counts("group", group, data.shape).astype(np.int64)
    if (np.bincount(of) == 0).any():
        raise ValueError(f"group: expected rows of each group, got none of {int(np.argmin(np.bincount(of)))}.")
    start = {
        "mean": arguments.array("mean", mean, ()),
        "spread": arguments.positive("spread", spread, ()),
        "scale": arguments.positive("scale", scale, ()),
    }
    params, log_likelihood, latents = climb(
        start,
        lambda theta: intercept_posterior(data, of, theta),
        lambda found: variance_components(data, of, found),
        steps=steps,
    )
    return LatentPath(params, log_likelihood, latents)
