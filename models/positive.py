"""Mixtures of positive data: Gamma, Weibull, inverse Gamma, log-normal, exponential; of shares: Beta, Dirichlet.

    weights (K)       parameters (K)
       |                |
    +--|----------------|---- rows: N --+
    |  v                v               |
    | component ------> x               |
    +-----------------------------------+

Closed form: `weights` (Categorical probs); `loc` and `scale` of the log-normal; `rate` of the exponential. The shapes
of the others solve an equation in digammas each, on the statistics, or for the Weibull one in powers, on the rows.

Data: simulated.

References:
    McLachlan, G. and Peel, D. (2000). Finite Mixture Models, chapter 10 (survival data). Wiley.
    Minka, T. (2000). Estimating a Dirichlet distribution. Technical report, MIT.
    Ma, Z. and Leijon, A. (2011). Bayesian estimation of Beta mixture models with variational inference. IEEE PAMI 33.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import real, spread, tilt, uniform, usable


def gamma(x: Tensor, K: int = 2) -> None:
    """Mix Gammas: params `weights`, `concentration`, `rate`, each `(K,)`; data `x` `(N,)`, positive."""
    x = real(x)
    concentration = _positive("concentration", torch.full_like(x[:1], 4.0).repeat(K))
    rate = _positive("rate", 4.0 / spread(x, K))
    _mixture(x, K, lambda k: dist.Gamma(concentration[k], rate[k]))


def weibull(x: Tensor, K: int = 2) -> None:
    """Mix Weibulls: params `weights`, `scale`, `concentration`, each `(K,)`; data `x` `(N,)`, positive."""
    x = real(x)
    scale = _positive("scale", spread(x, K))
    concentration = _positive("concentration", torch.full_like(x[:1], 2.0).repeat(K))
    _mixture(x, K, lambda k: dist.Weibull(scale[k], concentration[k]))


def inverse_gamma(x: Tensor, K: int = 2) -> None:
    """Mix inverse Gammas: params `weights`, `concentration`, `rate`, each `(K,)`; data `x` `(N,)`, positive."""
    x = real(x)
    concentration = _positive("concentration", torch.full_like(x[:1], 4.0).repeat(K))
    rate = _positive("rate", 3.0 * spread(x, K))
    _mixture(x, K, lambda k: dist.InverseGamma(concentration[k], rate[k]))


def log_normal(x: Tensor, K: int = 2) -> None:
    """Mix log-normals: params `weights`, `loc`, `scale`, each `(K,)`; data `x` `(N,)`, positive."""
    x = real(x)
    loc = pyro.param("loc", lambda: spread(x.log(), K))
    scale = _positive("scale", usable(x.log().std() / K).repeat(K))
    _mixture(x, K, lambda k: dist.LogNormal(loc[k], scale[k]))


def exponential(x: Tensor, K: int = 2) -> None:
    """Mix exponentials: params `weights`, `rate`, each `(K,)`; data `x` `(N,)`, positive."""
    x = real(x)
    rate = _positive("rate", 1.0 / spread(x, K))
    _mixture(x, K, lambda k: dist.Exponential(rate[k]))


def beta(x: Tensor, K: int = 2) -> None:
    """Mix Betas: params `weights`, `concentration1`, `concentration0`, each `(K,)`; data `x` `(N,)`, in (0, 1)."""
    x = real(x)
    mean = spread(x, K)
    concentration1 = _positive("concentration1", 8.0 * mean)
    concentration0 = _positive("concentration0", 8.0 * (1 - mean))
    _mixture(x, K, lambda k: dist.Beta(concentration1[k], concentration0[k]))


def dirichlet(x: Tensor, K: int = 2) -> None:
    """Mix Dirichlets: params `weights` `(K,)`, `concentration` `(K, C)`; data `x` `(N, C)`, rows sum to one."""
    x = real(x)
    concentration = _positive("concentration", 8.0 * tilt(x.mean(0), K))
    _mixture(x, K, lambda k: dist.Dirichlet(concentration[k]))


def simulate(
    n: int = 400,
    mean: tuple[float, ...] = (1.0, 6.0),
    concentration: float = 5.0,
    seed: int | torch.Generator = 0,
) -> Tensor:
    """Draw positive data `(n,)` from equally common Gammas with the given means."""
    with seeded(seed):
        rate = concentration / torch.tensor(mean)[torch.randint(len(mean), (n,))]
        return dist.Gamma(torch.tensor(concentration), rate).sample()


def simulate_shares(n: int = 400, C: int = 3, seed: int | torch.Generator = 0) -> Tensor:
    """Draw shares `(n, C)` from two equally common Dirichlets; a single column of them suits `beta`."""
    with seeded(seed):
        concentration = torch.stack([torch.arange(1.0, C + 1), torch.arange(C, 0.0, -1)])
        return dist.Dirichlet(2.0 * concentration[torch.randint(2, (n,))]).sample()


def _positive(name: str, start: Tensor) -> Tensor:
    return pyro.param(name, start, constraint=constraints.positive)


def _mixture(x: Tensor, K: int, law: Callable[[Tensor], TorchDistributionMixin]) -> None:
    """Sample the site `component` (latent) and the site `x` from `law(component)`."""
    weights = pyro.param("weights", uniform(K, x), constraint=constraints.simplex)
    with pyro.plate("rows", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("x", law(component), obs=x)
