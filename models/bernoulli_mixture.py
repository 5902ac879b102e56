"""A mixture of Bernoulli vectors: binary pictures, presence or absence of species, clicks.

    weights (K)       probs (K, D)
       |                |
    +--|----------------|---- rows: N --+
    |  v                v               |
    | component ------> x               |
    +-----------------------------------+

Closed form: `weights` (Categorical probs) and `probs` (Bernoulli probs).

Data: simulated.

References:
    Bishop, C. M. (2006). Pattern Recognition and Machine Learning, section 9.3.3. Springer.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import real, uniform


def bernoulli_mixture(x: Tensor, K: int = 2) -> None:
    """Mix `K` vectors of independent coins.

    Params: `weights` `(K,)`, `probs` `(K, D)`. Sites: `component` (latent), `x`.

    Args:
        x: zeros and ones, shape `(N, D)`.
        K: number of components.
    """
    x = real(x)
    weights = pyro.param("weights", uniform(K, x), constraint=constraints.simplex)
    mean = (x.sum(0) + 1) / (len(x) + 2)
    shift = torch.linspace(-1, 1, K, dtype=x.dtype, device=x.device)[:, None]
    probs = pyro.param("probs", lambda: torch.sigmoid(mean.logit() + shift), constraint=constraints.unit_interval)
    with pyro.plate("rows", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("x", dist.Bernoulli(probs[component]).to_event(1), obs=x)


def simulate(n: int = 300, D: int = 8, K: int = 2, seed: int | torch.Generator = 0) -> tuple[Tensor, int]:
    """Draw `n` binary vectors from `K` equally common components with probabilities of their own.

    Returns:
        `x`, shape `(n, D)`, and `K`.
    """
    with seeded(seed):
        probs = torch.rand(K, D)
        return dist.Bernoulli(probs[dist.Categorical(torch.ones(K)).sample((n,))]).sample(), K
