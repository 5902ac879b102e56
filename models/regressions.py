"""Mixtures of regressions: linear, logistic, Poisson; with shared slopes, with offsets; and a mixture of experts.

    weights (K)       coef (K, P), scale (K)
       |                |
    +--|----------------|---- rows: N --+
    |  v                v               |
    | component ------> y <--- x        |
    +-----------------------------------+

In a mixture of experts the component depends on `x` as well, through a softmax regression.

Closed form: `weights` (Categorical probs), `scale` (Normal), and the linear `coef` (weighted least squares, for a mean
affine in it). Newton: the logistic and Poisson `coef` and the softmax `gate`, affine under their links.

Data: `load("ethanol")`, two branches of nitrogen oxides against richness; `load("npreg")`, artificial, with a Gaussian
(in x and x squared) and a Poisson response (in x).

References:
    DeSarbo, W. S. and Cron, W. L. (1988). A maximum likelihood methodology for clusterwise linear regression. J. of
    Classification 5, 249-282.
    Leisch, F. (2004). FlexMix: a general framework for finite mixture models and latent class regression in R. Journal
    of Statistical Software 11(8).
    Jacobs, R. A., Jordan, M. I., Nowlan, S. J. and Hinton, G. E. (1991). Adaptive mixtures of local experts. Neural
    Computation 3, 79-87.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import count, finite, real, spread, uniform, usable


def linear(x: Tensor, y: Tensor, K: int = 2) -> None:
    """Mix `K` linear regressions.

    Params: `weights` `(K,)`, `coef` `(K, P)`, `scale` `(K,)`. Sites: `component` (latent), `y`.

    Args:
        x: design, shape `(N, P)`; an intercept is a column of ones.
        y: response, shape `(N,)`.
        K: number of components.
    """
    x, y = real(x), real(y)
    weights = pyro.param("weights", uniform(K, y), constraint=constraints.simplex)
    coef = pyro.param("coef", lambda: _coefficients(x, y, K))
    scale = pyro.param("scale", lambda: usable(_residual(x, y).std()).repeat(K), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        component = pyro.sample("component", dist.Categorical(weights))
        mean = (coef[component] * x).sum(-1)
        pyro.sample("y", dist.Normal(mean, scale[component]), obs=y)


def parallel(x: Tensor, y: Tensor, K: int = 2) -> None:
    """Mix `K` linear regressions that differ in their intercept only.

    Params: `weights` `(K,)`, `intercept` `(K,)`, `slope` `(P,)`, `scale` `()`. Sites: `component` (latent), `y`.

    Args:
        x: design without the intercept, shape `(N, P)`.
        y: response, shape `(N,)`.
        K: number of components.
    """
    x, y = real(x), real(y)
    design = torch.cat([torch.ones_like(y)[:, None], x], -1)
    weights = pyro.param("weights", uniform(K, y), constraint=constraints.simplex)
    intercept = pyro.param("intercept", lambda: _coefficients(design, y, K)[:, 0])
    slope = pyro.param("slope", lambda: _coefficients(design, y, K)[:, 1:].mean(0))
    scale = pyro.param("scale", lambda: usable(_residual(design, y).std()), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(intercept[component] + x @ slope, scale), obs=y)


def logistic(x: Tensor, y: Tensor, K: int = 2) -> None:
    """Mix `K` logistic regressions: params `weights`, `coef`; sites `component` (latent), `y`, zeros and ones."""
    x, y = real(x), real(y)
    weights = pyro.param("weights", uniform(K, y), constraint=constraints.simplex)
    coef = pyro.param("coef", lambda: _coefficients(x, 4 * (y - 0.5), K))
    with pyro.plate("rows", len(y)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("y", dist.Bernoulli(logits=(coef[component] * x).sum(-1)), obs=y)


def poisson(x: Tensor, y: Tensor, K: int = 2, offset: Tensor | float = 0.0) -> None:
    """Mix `K` Poisson regressions with the log link.

    Params: `weights` `(K,)`, `coef` `(K, P)`. Sites: `component` (latent), `y`.

    Args:
        x: design, shape `(N, P)`.
        y: counts, shape `(N,)`.
        K: number of components.
        offset: known part of the log rate, such as the log of an exposure, shape `(N,)` or a number.
    """
    x, y = real(x), real(y)
    weights = pyro.param("weights", uniform(K, y), constraint=constraints.simplex)
    coef = pyro.param("coef", lambda: _coefficients(x, (y + 0.5).log() - offset, K))
    with pyro.plate("rows", len(y)):
        component = pyro.sample("component", dist.Categorical(weights))
        log_rate = (coef[component] * x).sum(-1) + offset
        pyro.sample("y", dist.Poisson(log_rate.exp()), obs=y)


def experts(x: Tensor, y: Tensor, K: int = 2) -> None:
    """Let `x` choose which of `K` linear regressions answers.

    Params: `gate` `(K - 1, P)`, against the first expert; `coef` `(K, P)`; `scale` `(K,)`. Sites: `expert` (latent),
    `y`.

    Args:
        x: design, shape `(N, P)`.
        y: response, shape `(N,)`.
        K: number of experts.
    """
    x, y = real(x), real(y)
    gate = pyro.param("gate", torch.zeros(count(K) - 1, x.shape[1], dtype=x.dtype, device=x.device))
    coef = pyro.param("coef", lambda: _coefficients(x, y, K))
    scale = pyro.param("scale", lambda: usable(_residual(x, y).std()).repeat(K), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        logits = torch.nn.functional.pad(x @ gate.T, (1, 0))
        expert = pyro.sample("expert", dist.Categorical(logits=logits))
        mean = (coef[expert] * x).sum(-1)
        pyro.sample("y", dist.Normal(mean, scale[expert]), obs=y)


def simulate(n: int = 200, link: str = "identity", seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor]:
    """Draw from two equally common regressions with intercepts 1, -1 and slopes 1, -0.5 on a uniform covariate.

    Args:
        n: number of rows.
        link: "identity" for a response with noise of 0.5, "logit" for zeros and ones, "log" for counts.
        seed: a seed or a generator.

    Returns:
        The design `x` `(n, 2)` and the response `y` `(n,)`.
    """
    with seeded(seed):
        x = torch.stack([torch.ones(n), 4 * torch.rand(n) - 2], -1)
        mean = (torch.tensor([[1.0, 1.0], [-1.0, -0.5]])[torch.randint(2, (n,))] * x).sum(-1)
        response = {
            "identity": dist.Normal(mean, 0.5),
            "logit": dist.Bernoulli(logits=mean),
            "log": dist.Poisson(mean.exp()),
        }[link]
        return x, response.sample()


def simulate_parallel(n: int = 200, seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor]:
    """Draw from two parallel lines, four apart: a design without intercept `(n, 1)` and the response `(n,)`."""
    with seeded(seed):
        x = 4 * torch.rand(n, 1) - 2
        return x, dist.Normal(4.0 * torch.randint(2, (n,)) + 0.7 * x[:, 0], 0.5).sample()


def _residual(x: Tensor, y: Tensor) -> Tensor:
    x, y = finite(x), finite(y)
    return y - x @ torch.linalg.lstsq(x, y).solution


def _coefficients(x: Tensor, y: Tensor, K: int) -> Tensor:
    """Shift the least-squares fit to the residuals' `K` levels; shape `(K, P)`."""
    levels = spread(_residual(x, y), K)
    x, y = finite(x), finite(y)
    return torch.linalg.lstsq(x, y[:, None] + levels).solution.T
