"""The multivariate normal, and mixtures of it, where entries of a row are missing.

       loc (D), scale_tril (D, D)
             |
    +--------|-------- rows: N --+
    |        v                   |
    |       row ----> x          |
    +----------------------------+

The row is latent. What was seen of it is exactly `x`: a `Delta`, masked where nothing was seen. Entries that were not
seen are inferred from those of the same row that were, and their uncertainty counts in the covariance: to fill holes
with their expectations, or to leave incomplete rows out, does not give these estimates.

That an entry is missing must not depend on its value, once the entries that were seen are known (missing at random).

Closed form: `weights` (Categorical probs), `loc` and `scale_tril` (MultivariateNormal).

Data: simulated.

References:
    Little, R. J. A. and Rubin, D. B. (2019). Statistical Analysis with Missing Data. Wiley. Section 11.2.
    Ghahramani, Z. and Jordan, M. I. (1994). Supervised learning from incomplete data via an EM approach. NIPS 6.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import filled, real, spread_rows, uniform, usable


def missing_normal(x: Tensor, seen: Tensor) -> None:
    """Estimate mean and covariance from rows with holes.

    Params: `loc` `(D,)`, `scale_tril` `(D, D)`. Sites: `row` (latent, a vector of `D`), `x`.

    Args:
        x: shape `(N, D)`; any number, or NaN, where nothing was seen.
        seen: which entries were seen, shape `(N, D)`, bool.
    """
    x = real(x)
    loc = pyro.param("loc", lambda: filled(x, seen).mean(0))
    scale_tril = pyro.param("scale_tril", lambda: _root(x, seen), constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(x)):
        row = pyro.sample("row", dist.MultivariateNormal(loc, scale_tril=scale_tril))
        pyro.sample("x", dist.Delta(row).mask(seen).to_event(1), obs=torch.where(seen, x, 0.0))


def mixture(x: Tensor, seen: Tensor, K: int = 2) -> None:
    """Mix `K` multivariate normals.

    Params: `weights` `(K,)`, `loc` `(K, D)`, `scale_tril` `(K, D, D)`. Sites: `component` and `row` (latent), `x`. Args
    as `missing_normal`.
    """
    x = real(x)
    weights = pyro.param("weights", uniform(K, x), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: spread_rows(filled(x, seen), K))
    scale_tril = pyro.param(
        "scale_tril", lambda: _root(x, seen).repeat(K, 1, 1) / K, constraint=constraints.lower_cholesky
    )
    with pyro.plate("rows", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        row = pyro.sample("row", dist.MultivariateNormal(loc[component], scale_tril=scale_tril[component]))
        pyro.sample("x", dist.Delta(row).mask(seen).to_event(1), obs=torch.where(seen, x, 0.0))


def _root(x: Tensor, seen: Tensor) -> Tensor:
    """Return independent entries: a matrix of covariances of pairs need not be one of a row."""
    return torch.diag(usable(filled(x, seen).std(0)))


def simulate(
    n: int = 200, D: int = 3, missing: float = 0.2, K: int = 1, seed: int | torch.Generator = 0
) -> tuple[Tensor, Tensor]:
    """Draw rows of `K` equally common normals, six apart, with correlations of 0.7.

    Args:
        n: number of rows.
        D: number of entries of a row.
        missing: probability that an entry is missing; it is NaN then.
        K: number of components.
        seed: a seed or a generator.

    Returns:
        `x` `(n, D)` and which entries were `seen` `(n, D)`.
    """
    with seeded(seed):
        covariance = torch.full((D, D), 0.7) + 0.3 * torch.eye(D)
        level = 6.0 * torch.randint(K, (n,))[:, None] + torch.arange(D)
        x = dist.MultivariateNormal(level, covariance).sample()
        seen = torch.rand(n, D) >= missing
        return x.masked_fill(~seen, torch.nan), seen
