"""Which coin was tossed? A mixture of binomials, the founding example of every EM tutorial.

    weights (K)       bias (K)
       |                |
    +--|----------------|----- sequence: N --+
    |  v                v                    |
    | coin ---------> heads <--- flips       |
    +----------------------------------------+

Sequence `n` is tossed `flips[n]` times with one of `K` coins; nobody wrote down which. The lengths may be equal or not.

Closed form: `bias` (Binomial probs) and, where they are estimated, `weights` (Categorical probs).

Data: `load("coins")`, five sequences of ten tosses typed from figure 1b of Do & Batzoglou.

References:
    Do, C. B. and Batzoglou, S. (2008). What is the expectation maximization algorithm? Nature Biotechnology 26,
    897-899.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import real, some_rows, spread, uniform


def coins(heads: Tensor, flips: Tensor | int, K: int = 2, weights: Tensor | None = None) -> None:
    """Toss `N` sequences, each with one of `K` coins.

    Params: `bias`, shape `(K,)`; `weights`, shape `(K,)`, unless they are known. Sites: `coin` (latent), `heads`.

    Args:
        heads: number of heads in each sequence, shape `(N,)`.
        flips: number of tosses in each sequence, shape `(N,)`, or one number for all.
        K: number of coins.
        weights: known mixing weights, shape `(K,)`; estimated if not given.
    """
    heads = real(heads)
    if weights is None:
        weights = pyro.param("weights", uniform(K, heads), constraint=constraints.simplex)
    some = some_rows(flips) if isinstance(flips, Tensor) and flips.dim() else flips
    bias = pyro.param(
        "bias", lambda: spread((some_rows(heads) + 1) / (some + 2), K), constraint=constraints.unit_interval
    )
    with pyro.plate("sequence", len(heads)):
        coin = pyro.sample("coin", dist.Categorical(weights))
        pyro.sample("heads", dist.Binomial(flips, bias[coin]), obs=heads)


def equal_coins(heads: Tensor, flips: Tensor | int, K: int = 2) -> None:
    """Toss coins that are picked with known equal weights, as Do & Batzoglou do; see `coins`."""
    coins(heads, flips, K, weights=uniform(K, heads))


def simulate(
    flips: Tensor | None = None,
    bias: tuple[float, ...] = (0.8, 0.45),
    weights: tuple[float, ...] = (0.5, 0.5),
    seed: int | torch.Generator = 0,
) -> tuple[Tensor, Tensor]:
    """Toss coins.

    Args:
        flips: number of tosses in each sequence, shape `(N,)`; 100 sequences of 5 to 20 tosses if not given.
        bias: probability of a head for each coin.
        weights: probability that a coin is picked.
        seed: a seed or a generator.

    Returns:
        `heads` and `flips`, each of shape `(N,)`.
    """
    with seeded(seed):
        flips = torch.randint(5, 21, (100,)).to(torch.get_default_dtype()) if flips is None else real(flips)
        coin = dist.Categorical(torch.tensor(weights)).sample(flips.shape)
        return dist.Binomial(flips, torch.tensor(bias, dtype=flips.dtype)[coin]).sample(), flips
