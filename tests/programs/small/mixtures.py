"""Mixtures: one plate of rows, each with its latents and its observations."""

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor, tensor
from torch.distributions import constraints

from programs.case import program


def _points() -> tuple[Tensor, ...]:
    return (tensor([-1.3, 0.2, 2.9, 3.4, 0.9]),)


def _pairs() -> tuple[Tensor, ...]:
    return (tensor([[-1.3, 0.4], [0.2, -0.7], [2.9, 1.8], [3.1, 2.6]]),)


@program(_points)
def gaussian_mixture(x: Tensor) -> None:
    """Mix two Normals, each with its own scale."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    scale = pyro.param("scale", tensor([0.9, 1.4]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


@program(lambda: (_points()[0][:4],))
def gaussian_mixture_tied(x: Tensor) -> None:
    """Mix three Normals that share one scale."""
    weights = pyro.param("weights", tensor([0.2, 0.5, 0.3]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-1.1, 0.6, 2.7]))
    scale = pyro.param("scale", tensor(0.8), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


@program(_pairs)
def multivariate_mixture(x: Tensor) -> None:
    """Mix two multivariate Normals by their Cholesky factors."""
    weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([[-0.5, 0.1], [2.2, 1.9]]))
    root = tensor([[[1.1, 0.0], [0.3, 0.9]], [[0.8, 0.0], [-0.2, 1.3]]])
    scale_tril = pyro.param("scale_tril", root, constraint=constraints.lower_cholesky)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.MultivariateNormal(loc[z], scale_tril=scale_tril[z]), obs=x)


@program(_pairs)
def multivariate_mixture_tied(x: Tensor) -> None:
    """Mix two multivariate Normals that share one covariance matrix."""
    weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([[-0.5, 0.1], [2.2, 1.9]]))
    covariance = pyro.param("covariance", tensor([[1.2, 0.3], [0.3, 0.9]]), constraint=constraints.positive_definite)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.MultivariateNormal(loc[z], covariance_matrix=covariance), obs=x)


@program(_pairs)
def diagonal_mixture(x: Tensor) -> None:
    """Mix independent Normals gathered by `.to_event(1)`."""
    weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([[-0.5, 0.1], [2.2, 1.9]]))
    scale = pyro.param("scale", tensor([[0.7, 1.1], [1.6, 0.6]]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=x)


@program(lambda: (tensor([5.0, 9.0, 8.0, 4.0, 7.0]), tensor([10.0, 10.0, 9.0, 8.0, 10.0])))
def binomial_coins(heads: Tensor, flips: Tensor) -> None:
    """Toss two coins, chosen evenly, in sequences of unequal known length."""
    bias = pyro.param("bias", tensor([0.6, 0.45]), constraint=constraints.unit_interval)
    with pyro.plate("sequence", len(heads)):
        coin = pyro.sample("coin", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("heads", dist.Binomial(flips, bias[coin]), obs=heads)


@program(_points)
def bernoulli_latent(x: Tensor) -> None:
    """Let a Bernoulli latent, a float, enter the mean arithmetically."""
    p = pyro.param("p", tensor(0.3), constraint=constraints.unit_interval)
    base, shift = pyro.param("base", tensor(-0.2)), pyro.param("shift", tensor(2.6))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(p))
        pyro.sample("x", dist.Normal(base + shift * z, 1.1), obs=x)


@program(lambda: (tensor([0.0, 3.0, 0.0, 1.0, 5.0]),))
def zero_inflated_poisson(count: Tensor) -> None:
    """Inflate zeros by a latent whose second state has rate exactly zero."""
    gate = pyro.param("gate", tensor(0.25), constraint=constraints.unit_interval)
    rate = pyro.param("rate", tensor(2.2), constraint=constraints.positive)
    with pyro.plate("row", len(count)):
        z = pyro.sample("z", dist.Bernoulli(gate))
        pyro.sample("count", dist.Poisson(torch.stack([rate, rate.new_zeros(())])[z.long()]), obs=count)


@program(lambda: (tensor([1.0, 7.0, 2.0, 12.0]), tensor([0.5, 1.0, 2.0, 3.5])))
def poisson_exposure(count: Tensor, exposure: Tensor) -> None:
    """Multiply each Poisson rate by a known exposure."""
    weights = pyro.param("weights", tensor([0.55, 0.45]), constraint=constraints.simplex)
    rate = pyro.param("rate", tensor([1.3, 4.1]), constraint=constraints.positive)
    with pyro.plate("row", len(count)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("count", dist.Poisson(exposure * rate[z]), obs=count)


@program(lambda: (tensor([0.3, 2.7, 0.9, 6.1]), tensor([0.0, 3.0, 1.0, 8.0]), tensor([0.4, 1.9, 1.1, 7.3])))
def positive_families(wait: Tensor, tries: Tensor, size: Tensor) -> None:
    """Observe an Exponential, a Geometric and a LogNormal under one latent."""
    weights = pyro.param("weights", tensor([0.55, 0.45]), constraint=constraints.simplex)
    rate = pyro.param("rate", tensor([1.7, 0.4]), constraint=constraints.positive)
    p = pyro.param("p", tensor([0.6, 0.2]), constraint=constraints.unit_interval)
    loc = pyro.param("loc", tensor([-0.3, 1.2]))
    scale = pyro.param("scale", tensor([0.8, 0.5]), constraint=constraints.positive)
    with pyro.plate("row", len(wait)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("wait", dist.Exponential(rate[z]), obs=wait)
        pyro.sample("tries", dist.Geometric(p[z]), obs=tries)
        pyro.sample("size", dist.LogNormal(loc[z], scale[z]), obs=size)


@program(lambda: (tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 1.0, 2.0]]),))
def multinomial_mixture(counts: Tensor) -> None:
    """Mix Multinomials whose totals differ by row."""
    weights = pyro.param("weights", tensor([0.3, 0.7]), constraint=constraints.simplex)
    probs = pyro.param("probs", tensor([[0.5, 0.3, 0.2], [0.15, 0.25, 0.6]]), constraint=constraints.simplex)
    with pyro.plate("row", len(counts)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("counts", dist.Multinomial(probs=probs[z], validate_args=False), obs=counts)


@program(lambda: (tensor([-1.3, 0.2, 2.9]), tensor([0.4, 1.7, -0.6])))
def two_latents(x: Tensor, y: Tensor) -> None:
    """Give each row two latents, the second depending on the first, and read a table at both."""
    first = pyro.param("first", tensor([0.35, 0.65]), constraint=constraints.simplex)
    second = pyro.param("second", tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([[-1.0, 0.3, 1.1], [0.8, 2.5, 3.2]]))
    slope = pyro.param("slope", tensor([0.4, -0.9]))
    with pyro.plate("row", len(x)):
        a = pyro.sample("a", dist.Categorical(first))
        b = pyro.sample("b", dist.Categorical(second[a]))
        pyro.sample("x", dist.Normal(Vindex(loc)[a, b], 0.9), obs=x)
        pyro.sample("y", dist.Normal(slope[a], 1.2), obs=y)


@program(lambda: (tensor([1.0, 0.0]),))
def three_way_table(y: Tensor) -> None:
    """Read a three-way table at three independent latents."""
    p = pyro.param("p", tensor([0.3, 0.6, 0.45]), constraint=constraints.unit_interval)
    cells = tensor([[[0.1, 0.8], [0.35, 0.6]], [[0.7, 0.25], [0.9, 0.45]]])
    table = pyro.param("table", cells, constraint=constraints.unit_interval)
    with pyro.plate("row", len(y)):
        a, b, c = (pyro.sample(name, dist.Bernoulli(p[i])).long() for i, name in enumerate("abc"))
        pyro.sample("y", dist.Bernoulli(Vindex(table)[a, b, c]), obs=y)


@program(_points)
def one_hot_latent(x: Tensor) -> None:
    """Select the mean by a product with a one-hot latent."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(weights))
        pyro.sample("x", dist.Normal((z * loc).sum(-1), 1.0), obs=x)


@program(lambda: (tensor([-1.3, 0.2, 2.9, 3.4]),))
def binomial_latent(x: Tensor) -> None:
    """Count a latent: a Binomial dose that shifts the mean."""
    p = pyro.param("p", tensor(0.4), constraint=constraints.unit_interval)
    base, dose = pyro.param("base", tensor(-0.7)), pyro.param("dose", tensor(1.6))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Binomial(2, p))
        pyro.sample("x", dist.Normal(base + dose * z, 0.8), obs=x)
