"""Mixtures of factor analysers: clusters in many dimensions, each flat in most of them.

    weights (K)     loadings (K, D, k), loc (K, D), scale (D)
       |                |
    +--|----------------|------- rows: N --+
    |  v                v                  |
    | component ------> x <----- factors   |
    +--------------------------------------+

A full covariance for every cluster has `D (D + 1) / 2` entries; here it is `loadings loadings' + scale^2`, with `k D`.
The factors are summed out for each component, and the components as in any mixture.

Closed form: `weights` (Categorical probs), `loc` and `loadings` (least squares on the expected factors), `scale`.

Data: simulated.

References:
    Ghahramani, Z. and Hinton, G. E. (1996). The EM algorithm for mixtures of factor analyzers. University of Toronto,
    CRG-TR-96-1.
    McLachlan, G. J. and Peel, D. (2000). Finite Mixture Models. Wiley. Chapter 8.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import axes, count, filled, real, spread_rows, uniform, usable


def mixture_of_factor_analysers(x: Tensor, K: int = 2, k: int = 1) -> None:
    """Mix `K` analyses by `k` factors, with noise in common.

    Params: `weights` `(K,)`, `loc` `(K, D)`, `loadings` `(K, D, k)`, `scale` `(D,)`. Sites: `component` (latent),
    `factors` (latent, a vector of `k`), `x`.

    Args:
        x: shape `(N, D)`.
        K: number of components.
        k: number of factors.
    """
    x, k = real(x), count(k)
    weights = pyro.param("weights", uniform(K, x), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: spread_rows(x, K))
    loadings = pyro.param("loadings", lambda: axes(filled(x), k).repeat(K, 1, 1) / K)
    scale = pyro.param("scale", lambda: 0.5 * usable(filled(x).std(0)), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        factors = pyro.sample("factors", dist.Normal(x.new_zeros(k), 1.0).to_event(1))
        mean = (loadings[component] @ factors[..., None])[..., 0] + loc[component]
        pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)


def simulate(
    n: int = 200, D: int = 5, K: int = 2, k: int = 1, seed: int | torch.Generator = 0
) -> tuple[Tensor, int, int]:
    """Draw from `K` equally common components, six apart, with loadings drawn anew for each and noise of 0.5.

    Returns:
        `x` `(n, D)`, `K`, `k`: the arguments of `mixture_of_factor_analysers`.
    """
    with seeded(seed):
        component, loadings = torch.randint(K, (n,)), torch.randn(K, D, k)
        mean = (loadings[component] @ torch.randn(n, k, 1))[..., 0] + 6.0 * component[:, None]
        return mean + 0.5 * torch.randn(n, D), K, k
