"""Mixtures of Gaussians, in one dimension and in many.

    weights (K)       loc (K, D)    scale, one of:  univariate   scale (K) or ()
       |                |              |            full         scale_tril (K, D, D)
    +--|----------------|--------------|--+         tied         scale_tril (D, D)
    |  v                v              v  |         diagonal     scale (K, D) or (D)
    | component ------> x <---------------|         spherical    scale (K) or ()
    +---------------------- points: N ----+         two_groups   scale (2), weights known

Closed form: everything (Categorical probs, Normal loc and scale, MultivariateNormal loc and scale_tril).

The likelihood is unbounded where a component shrinks onto one point, except in the tied forms; the maxima one wants are
interior (Day, 1969).

Data: `load("faithful")`, eruptions of Old Faithful (Azzalini & Bowman, 1990); `load("galaxies")`, velocities of 82
galaxies (Roeder, 1990).

References:
    Day, N. E. (1969). Estimating the components of a mixture of normal distributions. Biometrika 56, 463-474.
    McLachlan, G. and Peel, D. (2000). Finite Mixture Models, section 3. Wiley.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import spread, spread_rows, thin, uniform, usable


def univariate(x: Tensor, K: int = 2, *, tied: bool = False) -> None:
    """Mix `K` normals on the line.

    Params: `weights` `(K,)`, `loc` `(K,)`, `scale` `(K,)` or, tied, `()`. Sites: `component` (latent), `x`.

    Args:
        x: data, shape `(N,)`.
        K: number of components.
        tied: all components have one scale.
    """
    weights = _weights(x, K)
    loc = pyro.param("loc", lambda: spread(x, K))
    start = _within(x, K)
    scale = pyro.param("scale", start if tied else start.repeat(K), constraint=constraints.positive)
    with pyro.plate("points", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[component], scale if tied else scale[component]), obs=x)


def two_groups(x: Tensor) -> None:
    """Mix two normals on the line with known equal weights and unknown means and standard deviations.

    Params: `loc` `(2,)`, `scale` `(2,)`. Sites: `group` (latent), `x`.

    Args:
        x: data, shape `(N,)`.
    """
    loc = pyro.param("loc", lambda: spread(x, 2))
    scale = pyro.param("scale", lambda: _within(x, 2).repeat(2), constraint=constraints.positive)
    with pyro.plate("points", len(x)):
        group = pyro.sample("group", dist.Categorical(uniform(2, x)))
        pyro.sample("x", dist.Normal(loc[group], scale[group]), obs=x)


def full(x: Tensor, K: int = 2) -> None:
    """Mix `K` normals, each with its own covariance.

    Params: `weights` `(K,)`, `loc` `(K, D)`, `scale_tril` `(K, D, D)`. Sites: `component` (latent), `x`.

    Args:
        x: data, shape `(N, D)`.
        K: number of components.
    """
    weights, loc = _weights(x, K), _locations(x, K)
    start = torch.diag(_within(x, K)).repeat(K, 1, 1)
    scale_tril = pyro.param("scale_tril", start, constraint=constraints.lower_cholesky)
    with pyro.plate("points", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("x", dist.MultivariateNormal(loc[component], scale_tril=scale_tril[component]), obs=x)


def full_covariance(x: Tensor, K: int = 2) -> None:
    """Mix as `full` does, written with `covariance`, shape `(K, D, D)`, in place of its Cholesky factor."""
    weights, loc = _weights(x, K), _locations(x, K)
    start = torch.diag(_within(x, K) ** 2).repeat(K, 1, 1)
    covariance = pyro.param("covariance", start, constraint=constraints.positive_definite)
    with pyro.plate("points", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("x", dist.MultivariateNormal(loc[component], covariance[component]), obs=x)


def tied(x: Tensor, K: int = 2) -> None:
    """Mix `K` normals that share one covariance: params and sites as in `full`, but `scale_tril` is `(D, D)`."""
    weights, loc = _weights(x, K), _locations(x, K)
    scale_tril = pyro.param("scale_tril", lambda: torch.diag(_within(x, K)), constraint=constraints.lower_cholesky)
    with pyro.plate("points", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("x", dist.MultivariateNormal(loc[component], scale_tril=scale_tril), obs=x)


def diagonal(x: Tensor, K: int = 2, *, tied: bool = False) -> None:
    """Mix `K` normals with independent coordinates: `scale` is `(K, D)` or, tied, `(D,)`; else as in `full`."""
    weights, loc = _weights(x, K), _locations(x, K)
    start = _within(x, K)
    scale = pyro.param("scale", start if tied else start.repeat(K, 1), constraint=constraints.positive)
    with pyro.plate("points", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[component], scale if tied else scale[component]).to_event(1), obs=x)


def spherical(x: Tensor, K: int = 2, *, tied: bool = False) -> None:
    """Mix `K` round normals: `scale` is `(K,)` or, tied, `()`, the same in every direction; else as in `full`."""
    weights, loc = _weights(x, K), _locations(x, K)
    start = _within(x, K).mean()
    scale = pyro.param("scale", start if tied else start.repeat(K), constraint=constraints.positive)
    with pyro.plate("points", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        width = scale if tied else scale[component].unsqueeze(-1)
        pyro.sample("x", dist.Normal(loc[component], width).to_event(1), obs=x)


def simulate(n: int = 200, D: int = 2, K: int = 2, seed: int | torch.Generator = 0) -> Tensor:
    """Draw from a mixture with equal weights, unit correlated noise and means four standard deviations apart.

    Returns:
        Data, shape `(n, D)`, or `(n,)` if `D` is 0.
    """
    with seeded(seed):
        loc = 4.0 * torch.arange(K)
        component = dist.Categorical(torch.ones(K)).sample((n,))
        if D == 0:
            return dist.Normal(loc[component], 1.0).sample()
        covariance = 0.7 * torch.eye(D) + 0.3
        return dist.MultivariateNormal(loc[component, None].repeat(1, D), covariance).sample()


def _weights(x: Tensor, K: int) -> Tensor:
    return pyro.param("weights", uniform(K, x), constraint=constraints.simplex)


def _locations(x: Tensor, K: int) -> Tensor:
    return pyro.param("loc", lambda: spread_rows(x, K))


def _within(x: Tensor, K: int) -> Tensor:
    """Guess the standard deviation within a component: that of all data, divided by `K`; shape `()` or `(D,)`."""
    return usable(thin(x).std(0, correction=0) / K)
