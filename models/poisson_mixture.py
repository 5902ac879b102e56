"""Mixtures of counts: days, or people, of `K` kinds with a rate each.

    weights (K)       rate (K)
       |                |
    +--|----------------|---- days: N --+
    |  v                v               |
    | kind -----------> count           |
    +-----------------------------------+

Closed form: `weights` (Categorical probs) and `rate` (Poisson rate). The negative binomial's `total_count` solves one
equation over the weighted rows.

Data: `load("london_deaths")`, deaths of women of 80 and over in The Times, 1910-1912, a table of 1096 days. The two
kinds are summer and winter. EM converges at the rate 0.99567 there, a classic of the acceleration literature.

References:
    Hasselblad, V. (1969). Estimation of finite mixtures of distributions from the exponential family. JASA 64,
    1459-1471.
    Titterington, D. M., Smith, A. F. M. and Makov, U. E. (1985). Statistical Analysis of Finite Mixture Distributions.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import real, spread, uniform


def poisson_mixture(counts: Tensor, K: int = 2) -> None:
    """Mix `K` Poisson distributions.

    Params: `weights` `(K,)`, `rate` `(K,)`. Sites: `kind` (latent), `count`.

    Args:
        counts: shape `(N,)`.
        K: number of kinds.
    """
    counts = real(counts)
    weights = pyro.param("weights", uniform(K, counts), constraint=constraints.simplex)
    rate = pyro.param("rate", lambda: spread(counts, K), constraint=constraints.positive)
    with pyro.plate("days", len(counts)):
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("count", dist.Poisson(rate[kind]), obs=counts)


def negative_binomial_mixture(counts: Tensor, K: int = 2) -> None:
    """Mix `K` negative binomial distributions, for counts that vary more than Poisson counts do.

    Params: `weights` `(K,)`, `total_count` `(K,)`, `probs` `(K,)`. Sites: `kind` (latent), `count`.

    Args:
        counts: shape `(N,)`.
        K: number of kinds.
    """
    counts = real(counts)
    weights = pyro.param("weights", uniform(K, counts), constraint=constraints.simplex)
    mean, size = spread(counts, K), torch.full((K,), 5.0, dtype=counts.dtype, device=counts.device)
    total_count = pyro.param("total_count", size, constraint=constraints.positive)
    probs = pyro.param("probs", mean / (mean + size), constraint=constraints.unit_interval)
    with pyro.plate("days", len(counts)):
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("count", dist.NegativeBinomial(total_count[kind], probs[kind]), obs=counts)


def simulate(
    n: int = 500,
    rate: tuple[float, ...] = (1.5, 6.0),
    weights: tuple[float, ...] = (0.4, 0.6),
    seed: int | torch.Generator = 0,
) -> Tensor:
    """Draw counts, shape `(n,)`, from a Poisson mixture."""
    with seeded(seed):
        return dist.Poisson(torch.tensor(rate)[dist.Categorical(torch.tensor(weights)).sample((n,))]).sample()
