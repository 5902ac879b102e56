"""Counts with too many zeros: zero-inflated and hurdle models, Poisson and negative binomial.

    zero-inflated                            hurdle

       gate ()      rate ()                     positive ()      rate ()
         |            |                             |              |
    +----|------------|--- rows: N --+         +----|--------------|---- rows: N --+
    |    v            v              |         |    v              v               |
    | structural --> count, zero     |         | is_positive ---> count, truncation|
    +--------------------------------+         +-----------------------------------+

Zero-inflated: a row is structurally zero with probability `gate`, and else a count like any other, which may be zero
too: a point mass and a count distribution, two families in one mixture. Each family has its site, masked where the row
is the other's. Hurdle: whether a row is zero is seen; positive counts are truncated at zero, and nothing is latent.

Closed form: `gate` and `positive` (Bernoulli probs); the zero-inflated `rate` (Poisson rate), and `total_count` with
`probs` (one equation over the weighted rows). The truncated laws are for torch.

Data: simulated.

References:
    Lambert, D. (1992). Zero-inflated Poisson regression. Technometrics 34, 1-14.
    Mullahy, J. (1986). Specification and testing of some modified count data models. J. Econometrics 33, 341-365.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import real


def zero_inflated_poisson(counts: Tensor) -> None:
    """Mix zero with a Poisson count.

    Params: `gate` `()`, `rate` `()`. Sites: `structural` (latent), `count`, `zero`.

    Args:
        counts: shape `(N,)`.
    """
    counts = real(counts)
    rate = pyro.param("rate", counts.mean() + 0.5, constraint=constraints.positive)
    _zero_inflated(counts, dist.Poisson(rate))


def zero_inflated_negative_binomial(counts: Tensor) -> None:
    """Mix zero with a negative binomial count: params `gate`, `total_count`, `probs`, each `()`; sites as before."""
    counts = real(counts)
    _zero_inflated(counts, _negative_binomial(counts))


def hurdle_poisson(counts: Tensor) -> None:
    """Pass the hurdle to a positive count, Poisson truncated at zero.

    Params: `positive` `()`, `rate` `()`. Sites: `is_positive`, `count`, `truncation` (a factor). Nothing is latent.

    Args:
        counts: shape `(N,)`.
    """
    counts = real(counts)
    rate = pyro.param("rate", counts.mean() + 0.5, constraint=constraints.positive)
    _hurdle(counts, dist.Poisson(rate), log_zero=-rate)


def hurdle_negative_binomial(counts: Tensor) -> None:
    """Pass the hurdle to a truncated negative binomial: params `positive`, `total_count`, `probs`, each `()`."""
    counts = real(counts)
    count = _negative_binomial(counts)
    _hurdle(counts, count, log_zero=count.total_count * torch.log1p(-count.probs))


def simulate(n: int = 400, gate: float = 0.3, rate: float = 2.5, seed: int | torch.Generator = 0) -> Tensor:
    """Draw zero-inflated Poisson counts, shape `(n,)`."""
    with seeded(seed):
        return dist.Poisson(torch.full((n,), rate)).sample() * (torch.rand(n) >= gate)


def _zero_inflated(counts: Tensor, count: TorchDistributionMixin) -> None:
    zeros = (counts == 0).to(counts.dtype)
    gate = pyro.param("gate", 0.5 * (zeros.sum() + 1) / (len(zeros) + 1), constraint=constraints.unit_interval)
    with pyro.plate("rows", len(counts)):
        structural = pyro.sample("structural", dist.Bernoulli(gate)) == 1
        pyro.sample("count", count.mask(~structural), obs=counts)
        pyro.sample("zero", dist.Delta(torch.zeros_like(counts)).mask(structural), obs=counts)


def _hurdle(counts: Tensor, count: TorchDistributionMixin, log_zero: Tensor) -> None:
    seen = counts != 0  # what is no count at all is seen, so that the fit refuses it
    share = (seen.to(counts.dtype).sum() + 1) / (len(seen) + 2)
    positive = pyro.param("positive", share, constraint=constraints.unit_interval)
    with pyro.plate("rows", len(counts)):
        pyro.sample("is_positive", dist.Bernoulli(positive), obs=seen.to(counts.dtype))
        pyro.sample("count", count.mask(seen), obs=counts)
        pyro.factor("truncation", torch.where(seen, -torch.log(-torch.expm1(log_zero)), 0.0))


def _negative_binomial(counts: Tensor) -> dist.NegativeBinomial:
    mean = counts.mean() + 0.5
    total_count = pyro.param("total_count", torch.full_like(mean, 5.0), constraint=constraints.positive)
    probs = pyro.param("probs", mean / (mean + 5.0), constraint=constraints.unit_interval)
    return dist.NegativeBinomial(total_count, probs)
