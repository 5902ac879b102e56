"""Data with outliers and data on a circle: Laplace, Student and von Mises mixtures, and a component for outliers.

    weights (K)       parameters (K)          outliers:  weight ()     loc (), scale ()
       |                |                                   |             |
    +--|----------------|---- rows: N --+       +-----------|-------------|---- rows: N --+
    |  v                v               |       |           v             v               |
    | component ------> x               |       |      is_outlier -----> x, background    |
    +-----------------------------------+       +-----------------------------------------+

With a component for outliers the families differ: normal data, and a background whose law is known. Each has its site,
masked where the row is the other's.

Closed form: `weights` (Categorical probs) and `weight` (Bernoulli probs); `loc` and `scale` of the normal, and of the
Laplace (weighted median and mean absolute deviation); `loc` of the von Mises. Its `concentration` solves one equation
in Bessel functions, and the Student's parameters a Newton ascent over the weighted rows.

Data: simulated.

References:
    Peel, D. and McLachlan, G. J. (2000). Robust mixture modelling using the t distribution. Statistics and Computing
    10, 339-348.
    Banerjee, A., Dhillon, I. S., Ghosh, J. and Sra, S. (2005). Clustering on the unit hypersphere using von
    Mises-Fisher distributions. JMLR 6, 1345-1382.
    Banfield, J. D. and Raftery, A. E. (1993). Model-based Gaussian and non-Gaussian clustering. Biometrics 49, 803-821
    (a component for noise).
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import real, spread, uniform, usable


def laplace(x: Tensor, K: int = 2) -> None:
    """Mix Laplace distributions.

    Params: `weights`, `loc`, `scale`, each `(K,)`. Sites: `component` (latent), `x`.

    Args:
        x: shape `(N,)`.
        K: number of components.
    """
    x = real(x)
    weights = pyro.param("weights", uniform(K, x), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: spread(x, K))
    scale = pyro.param("scale", lambda: usable(x.std() / K).repeat(K), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("x", dist.Laplace(loc[component], scale[component]), obs=x)


def student(x: Tensor, K: int = 2) -> None:
    """Mix Student distributions: params `weights`, `df`, `loc`, `scale`, each `(K,)`; else as in `laplace`."""
    x = real(x)
    weights = pyro.param("weights", uniform(K, x), constraint=constraints.simplex)
    df = pyro.param("df", torch.full_like(x[:1], 4.0).repeat(K), constraint=constraints.positive)
    loc = pyro.param("loc", lambda: spread(x, K))
    scale = pyro.param("scale", lambda: usable(x.std() / K).repeat(K), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("x", dist.StudentT(df[component], loc[component], scale[component]), obs=x)


def von_mises(angle: Tensor, K: int = 2) -> None:
    """Mix von Mises distributions on the circle.

    Params: `weights`, `loc`, `concentration`, each `(K,)`. Sites: `component` (latent), `angle`.

    Args:
        angle: from -pi to pi, shape `(N,)`.
        K: number of components.
    """
    angle = real(angle)
    weights = pyro.param("weights", uniform(K, angle), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: spread(angle, K))
    concentration = pyro.param(
        "concentration", torch.full_like(angle[:1], 2.0).repeat(K), constraint=constraints.positive
    )
    with pyro.plate("rows", len(angle)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("angle", dist.VonMises(loc[component], concentration[component]), obs=angle)


def outliers(x: Tensor, low: float, high: float) -> None:
    """Mix a normal with a known uniform background.

    Params: `weight` of the background `()`, `loc` `()`, `scale` `()`. Sites: `is_outlier` (latent), `x`, `background`.

    Args:
        x: shape `(N,)`.
        low: where the background begins.
        high: where it ends; all data lie in between.
    """
    x = real(x)
    weight = pyro.param("weight", x.new_tensor(0.1), constraint=constraints.unit_interval)
    loc = pyro.param("loc", x.median())
    scale = pyro.param("scale", lambda: usable((x - x.median()).abs().median()), constraint=constraints.positive)
    noise = dist.Uniform(x.new_tensor(low), x.new_tensor(high))
    with pyro.plate("rows", len(x)):
        is_outlier = pyro.sample("is_outlier", dist.Bernoulli(weight)) == 1
        pyro.sample("x", dist.Normal(loc, scale).mask(~is_outlier), obs=x)
        pyro.sample("background", noise.mask(is_outlier), obs=x)


def simulate(n: int = 400, share: float = 0.1, seed: int | torch.Generator = 0) -> tuple[Tensor, float, float]:
    """Draw normal data around 3 with outliers anywhere from -20 to 20.

    Returns:
        `x` `(n,)`, `low`, `high`: the arguments of `outliers`.
    """
    with seeded(seed):
        x = dist.Normal(3.0, 1.0).sample((n,))
        return torch.where(torch.rand(n) < share, 40 * torch.rand(n) - 20, x), -20.0, 20.0


def simulate_clusters(n: int = 400, K: int = 2, df: float = 3.0, seed: int | torch.Generator = 0) -> Tensor:
    """Draw from equally common Student distributions at 0, 8, 16, ..., shape `(n,)`."""
    with seeded(seed):
        return dist.StudentT(df, 8.0 * torch.randint(K, (n,)), 1.0).sample()


def simulate_angles(n: int = 400, seed: int | torch.Generator = 0) -> Tensor:
    """Draw angles from two equally common von Mises distributions around -1.5 and 1, shape `(n,)`."""
    with seeded(seed):
        loc = torch.where(torch.rand(n) < 0.5, -1.5, 1.0)
        angle = dist.VonMises(loc, torch.tensor(6.0)).sample()
        return (angle + math.pi) % (2 * math.pi) - math.pi
