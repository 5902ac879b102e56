"""Factor analysis: a few factors that nobody measured explain why many measurements go together.

               loadings (D, k)   loc (D), scale (D)
                     |             |
    +----------------|-------------|-- rows: N --+
    |                v             v             |
    | factors ----------> x                      |
    +--------------------------------------------+

Given the factors `z`, standard normal, the measurements are independent: `x = loc + loadings z + noise`. With noise of
one size for all it is probabilistic principal components. In a confirmatory analysis each measurement belongs to one
factor that is known, and the factors are correlated.

Measurements may be missing (at random): the factors are then inferred from those that were made. Loadings are
determined up to a rotation of the factors, so that `loadings @ loadings.T` is what to compare, except in a
confirmatory analysis.

Closed form: `loc` and `loadings` together (least squares on the expected factors), `scale`, and the `root` of the
covariance of the factors.

Data: `load("elnino")`, the temperature of the sea in each month of 61 years; simulated.

References:
    Rubin, D. B. and Thayer, D. T. (1982). EM algorithms for ML factor analysis. Psychometrika 47, 69-76.
    Tipping, M. E. and Bishop, C. M. (1999). Probabilistic principal component analysis. JRSS B 61, 611-622.
    Joreskog, K. G. (1969). A general approach to confirmatory maximum likelihood factor analysis. Psychometrika 34.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import axes, categories_of, count, filled, real, usable


def factor_analysis(x: Tensor, k: int = 1, seen: Tensor | None = None) -> None:
    """Explain `D` measurements by `k` factors, each with noise of its own.

    Params: `loc` `(D,)`, `loadings` `(D, k)`, `scale` `(D,)`. Sites: `factors` (latent, a vector of `k`), `x`.

    Args:
        x: measurements, shape `(N, D)`.
        k: number of factors.
        seen: which measurements were made, shape `(N, D)`, bool; all if not given. The others may hold any number, or
            NaN.
    """
    x = real(x)
    scale = pyro.param("scale", lambda: 0.5 * usable(filled(x, seen).std(0)), constraint=constraints.positive)
    _measure(x, count(k), seen, scale)


def probabilistic_pca(x: Tensor, k: int = 1, seen: Tensor | None = None) -> None:
    """Explain `D` measurements by `k` factors, with noise of one size: `scale` is `()`; else as `factor_analysis`."""
    x = real(x)
    scale = pyro.param("scale", lambda: 0.5 * usable(filled(x, seen).std()), constraint=constraints.positive)
    _measure(x, count(k), seen, scale)


def confirmatory(x: Tensor, factor: Tensor, seen: Tensor | None = None) -> None:
    """Let each measurement belong to one of several correlated factors.

    The unit of a factor is that of the first measurement that belongs to it, whose loading is one.

    Params: `loc` `(D,)`, `loadings` `(D - k,)`, of all measurements that are not the first of their factor, `scale`
    `(D,)`, `root` `(k, k)`, the Cholesky factor of the covariance of the factors. Sites: `factors` (latent, a vector of
    `k`), `x`.

    Args:
        x: measurements, shape `(N, D)`.
        factor: to which factor each belongs, shape `(D,)`, integers counted from 0.
        seen: which measurements were made, shape `(N, D)`, bool; all if not given.
    """
    x, k = real(x), categories_of(factor)
    free = torch.tensor([bool((factor[:d] == factor[d]).any()) for d in range(len(factor))], device=x.device)
    loc = pyro.param("loc", lambda: filled(x, seen).mean(0))
    some = pyro.param("loadings", lambda: x.new_ones(int(free.sum())))
    scale = pyro.param("scale", lambda: 0.5 * usable(filled(x, seen).std(0)), constraint=constraints.positive)
    start = torch.diag(usable(filled(x, seen)[:, ~free].std(0)))
    root = pyro.param("root", start, constraint=constraints.lower_cholesky)
    loadings = x.new_ones(x.shape[1]).masked_scatter(free, some)
    with pyro.plate("rows", len(x)):
        factors = pyro.sample("factors", dist.MultivariateNormal(x.new_zeros(k), scale_tril=root))
        noise = dist.Normal(factors[..., factor] * loadings + loc, scale)
        pyro.sample("x", (noise if seen is None else noise.mask(seen)).to_event(1), obs=x)


def _measure(x: Tensor, k: int, seen: Tensor | None, scale: Tensor) -> None:
    loc = pyro.param("loc", lambda: filled(x, seen).mean(0))
    loadings = pyro.param("loadings", lambda: axes(filled(x, seen), k))
    with pyro.plate("rows", len(x)):
        factors = pyro.sample("factors", dist.Normal(x.new_zeros(k), 1.0).to_event(1))
        noise = dist.Normal(factors @ loadings.T + loc, scale)
        pyro.sample("x", (noise if seen is None else noise.mask(seen)).to_event(1), obs=x)


def simulate(
    n: int = 200, D: int = 6, k: int = 2, missing: float = 0.0, seed: int | torch.Generator = 0
) -> tuple[Tensor, int, Tensor | None]:
    """Draw measurements from standard normal loadings and noise of 0.5.

    Args:
        n: number of rows.
        D: number of measurements.
        k: number of factors.
        missing: probability that a measurement is missing; it is NaN then.
        seed: a seed or a generator.

    Returns:
        `x` `(n, D)`, `k`, and which were `seen`, None if nothing can be missing: the arguments of `factor_analysis`.
    """
    with seeded(seed):
        loadings = torch.randn(D, k)
        x = torch.arange(D) + torch.randn(n, k) @ loadings.T + 0.5 * torch.randn(n, D)
        seen = torch.rand(n, D) >= missing
        return (x, k, None) if not missing else (x.masked_fill(~seen, torch.nan), k, seen)


def simulate_confirmatory(n: int = 200, seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor]:
    """Draw six measurements of two factors with a correlation of 0.6, loadings 1, 0.8, 0.6 and noise of 0.5.

    Returns:
        `x` `(n, 6)` and `factor` `(6,)`: the arguments of `confirmatory`.
    """
    with seeded(seed):
        factor = torch.tensor([0, 0, 0, 1, 1, 1])
        covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
        factors = dist.MultivariateNormal(torch.zeros(2), covariance).sample((n,))
        loadings = torch.tensor([1.0, 0.8, 0.6, 1.0, 0.8, 0.6])
        return factors[:, factor] * loadings + 0.5 * torch.randn(n, 6), factor
