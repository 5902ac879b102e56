"""Regressions: arguments that are affine in real parameters, through a link."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, tensor
from torch.distributions import constraints
from torch.nn.functional import pad

from programs.case import program


def _covariate() -> Tensor:
    return tensor([-1.0, 0.3, 1.2, 2.0, -0.4])


def _weights() -> Tensor:
    return pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)


@program(lambda: (_covariate(), tensor([1.0, 4.0, 3.0, 9.0, 0.0]), tensor([0.5, 2.0, 1.0, 1.5, 3.0])))
def poisson_regressions(x: Tensor, y: Tensor, exposure: Tensor) -> None:
    """Fit two Poisson regressions with an exposure and a slope in common."""
    weights = _weights()
    a, slope = pyro.param("a", tensor([0.2, 0.7])), pyro.param("slope", tensor(0.4))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson(exposure * (a[z] + slope * x).exp()), obs=y)


@program(lambda: (tensor([[3.0, 1.0], [5.0, 4.0], [2.0, 6.0], [6.0, 2.0]]), tensor([[-0.5, 1.0], [0.7, -0.2]])))
def binomial_items(y: Tensor, x: Tensor) -> None:
    """Answer seven times to each of two items, whose covariates meet the coefficients of a class and of an item."""
    weights = _weights()
    b, easy = pyro.param("b", tensor([[0.6, -0.3], [-0.4, 0.5]])), pyro.param("easy", tensor([0.1, -0.2]))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        logits = (b[z].unsqueeze(-2) * x).sum(-1) + easy
        pyro.sample("y", dist.Binomial(7, logits=logits).to_event(1), obs=y)


@program(lambda: (_covariate(), tensor([0.4, 0.9, -1.1, 2.3, 0.1])))
def three_experts(x: Tensor, y: Tensor) -> None:
    """Choose among three lines by a softmax regression against the first; the last is impossible below zero."""
    gate = pyro.param("gate", tensor([[0.2, -0.4], [-0.1, 0.3]]))
    b = pyro.param("b", tensor([[0.2, 0.9], [0.5, -1.1], [1.4, 0.1]]))
    with pyro.plate("row", len(x)):
        logits = pad(gate[:, 0] + x[:, None] * gate[:, 1], (1, 0))
        forbidden = (x < 0)[:, None] & tensor([False, False, True])
        z = pyro.sample("z", dist.Categorical(logits=logits.masked_fill(forbidden, -torch.inf)))
        pyro.sample("y", dist.Normal(b[z, 0] + b[z, 1] * x, 0.8), obs=y)


@program(lambda: (_covariate(), tensor([0.8, 2.4, 0.6, 3.1, 1.7])))
def gamma_regressions(x: Tensor, y: Tensor) -> None:
    """Fit the rates and, together with them, the concentration of a Gamma response."""
    weights = _weights()
    b = pyro.param("b", tensor([[0.2, 0.4], [0.5, -0.3]]))
    shape = pyro.param("shape", tensor(2.2), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Gamma(shape, (b[z, 0] + b[z, 1] * x).exp()), obs=y)


@program(lambda: (_covariate(), tensor([0.8, 2.4, 0.6, 3.1, 1.7])))
def gamma_means(x: Tensor, y: Tensor) -> None:
    """Write the rate as concentration over mean: its logarithm is affine in that of a positive parameter."""
    weights = _weights()
    b, slope = pyro.param("b", tensor([0.2, 0.7])), pyro.param("slope", tensor(0.3))
    shape = pyro.param("shape", tensor([2.2, 1.6]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Gamma(shape[z], shape[z] / (b[z] + slope * x).exp()), obs=y)


@program(lambda: (tensor([[1.0, 4.0, 2.0], [3.0, 9.0, 5.0], [0.0, 2.0, 3.0], [4.0, 3.0, 7.0]]),))
def multiplicative_rates(y: Tensor) -> None:
    """Multiply the rates of classes and items, both positive: a log-linear model without a logarithm."""
    weights = _weights()
    size = pyro.param("size", tensor([0.8, 1.9]), constraint=constraints.positive)
    item = pyro.param("item", tensor([1.2, 2.9, 2.3]), constraint=constraints.positive)
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson(size[z][..., None] * item).to_event(1), obs=y)


@program(lambda: (_covariate(), tensor([1.0, 9.0, 0.0, 14.0, 2.0])))
def negative_binomial_regressions(x: Tensor, y: Tensor) -> None:
    """Fit the logits of a negative binomial with its total count: a family without finite statistics."""
    weights = _weights()
    b = pyro.param("b", tensor([[0.2, 0.4], [0.9, 0.3]]))
    total = pyro.param("total", tensor(2.5), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.NegativeBinomial(total, logits=b[z, 0] + b[z, 1] * x), obs=y)


@program(lambda: (_covariate(), tensor([0.4, 0.9, -1.1, 2.3, 0.1])))
def unequal_spread(x: Tensor, y: Tensor) -> None:
    """Let the logarithm of a scale depend on a covariate, and the location on the component."""
    weights = _weights()
    loc, spread = pyro.param("loc", tensor([-0.4, 1.3])), pyro.param("spread", tensor([0.1, 0.2]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(loc[z], (spread[0] + spread[1] * x).exp()), obs=y)


def _pairs() -> Tensor:
    return tensor([[0.3, 1.1], [0.9, 0.2], [-1.1, 0.7], [2.3, -0.8], [0.1, 0.4]])


@program(lambda: (_covariate(), _pairs()))
def lines_in_the_plane(x: Tensor, y: Tensor) -> None:
    """Let both coordinates of a mean follow lines, around which they covary."""
    b = pyro.param("b", tensor([[0.2, 0.9], [0.5, -1.1]]))
    tril = pyro.param("tril", tensor([[0.9, 0.0], [0.3, 1.2]]), constraint=constraints.lower_cholesky)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.35, 0.65])))
        mean = b[0] + b[1] * x[:, None] + z[..., None] * tensor([1.0, -0.5])
        pyro.sample("y", dist.MultivariateNormal(mean, scale_tril=tril), obs=y)


@program(lambda: (_covariate(), _pairs()))
def one_slope_in_the_plane(x: Tensor, y: Tensor) -> None:
    """Let both coordinates share a slope, and components share a covariance: a sweep."""
    weights = _weights()
    a, slope = pyro.param("a", tensor([[0.2, 0.9], [0.5, -1.1]])), pyro.param("slope", tensor(0.3))
    covariance = pyro.param("covariance", tensor([[0.9, 0.3], [0.3, 1.2]]), constraint=constraints.positive_definite)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        mean = a[z] + slope * x[:, None]
        pyro.sample("y", dist.MultivariateNormal(mean, covariance), obs=y)


@program(
    lambda: (_covariate(), tensor([2.0, 4.0, 1.0, 5.0, 3.0])),
    map_values=lambda: {"b": tensor([[0.3, 0.2], [-0.4, 0.6]])},
)
def shrunken_regressions(x: Tensor, y: Tensor) -> None:
    """Put a Normal prior on the coefficients of logistic regressions."""
    weights = _weights()
    b = pyro.sample("b", dist.Normal(tensor([0.0, 0.1]), tensor([1.5, 0.7])).expand([2, 2]).to_event(2))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Binomial(6, logits=b[z, 0] + b[z, 1] * x), obs=y)


@program(lambda: (_covariate(), tensor([-0.8, 0.6, 2.0, 1.1, -0.3])))
def transitions_with_a_covariate(u: Tensor, y: Tensor) -> None:
    """Let the steps of a chain depend on a covariate of the time, through a sigmoid."""
    loc = pyro.param("loc", tensor([-0.9, 1.3]))
    stay, slope = pyro.param("stay", tensor([0.4, -0.3])), pyro.param("slope", tensor([0.5, 0.2]))
    x = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Bernoulli(torch.sigmoid(stay[x.long()] + slope[x.long()] * u[t])))
        pyro.sample(f"y_{t}", dist.Normal(loc[x.long()], 1.0), obs=y[t])
