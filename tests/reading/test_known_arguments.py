"""Arguments that the user knows stay known: the closed form is the formula with them in it."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import Model, check_closed, same, step
from programs.ties import TOTALS, D, K, N, counted, draw, heads, matrix, mixture, real, start
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints


def responsibilities(model: Model, *args: Any) -> Tensor:
    """Posterior of the components at the start, shape `(N, K)`, by Bayes' rule on the trace of Pyro."""
    columns = []
    for k in range(K):
        trace = poutine.trace(poutine.condition(model, {"z": torch.full((N,), k)})).get_trace(*args)
        trace.compute_log_prob()
        columns.append(trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"])
    return torch.softmax(torch.stack(columns, -1), -1).detach()


def test_known_scales_by_row() -> None:
    """The mean is precision-weighted: `sum w x / s^2` over `sum w / s^2`."""
    x, s = real(N) * 2, 0.5 + torch.rand(N, generator=draw())
    model = mixture(lambda z: dist.Normal(pyro.param("loc", tensor([-1.0, 0.5, 2.0]))[z], s))
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    precision = w / s[:, None] ** 2
    same(new["loc"], (precision * x[:, None]).sum(0) / precision.sum(0))
    same(new["weights"], w.mean(0))


def test_known_locations_by_row() -> None:
    """The variance is around the known location of each row."""
    x, m = real(N) * 2, real(N, seed=3)
    scale = tensor([0.6, 1.1, 2.0])
    model = mixture(lambda z: dist.Normal(m, pyro.param("scale", scale, constraint=constraints.positive)[z]))
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    same(new["scale"], ((w * (x - m)[:, None] ** 2).sum(0) / w.sum(0)).sqrt())


def test_scales_up_to_a_known_factor() -> None:
    """Known accuracies of the rows multiply an unknown scale."""
    x, s = real(N) * 2, 0.5 + torch.rand(N, generator=draw())

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", tensor([-1.0, 0.5, 2.0]))
        return dist.Normal(loc[z], s * pyro.param("scale", tensor([0.6, 1.1, 2.0]), constraint=constraints.positive)[z])

    model = mixture(of)
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    precision = w / s[:, None] ** 2
    loc = (precision * x[:, None]).sum(0) / precision.sum(0)
    same(new["loc"], loc)
    same(new["scale"], ((precision * (x[:, None] - loc) ** 2).sum(0) / w.sum(0)).sqrt())


def test_known_total_counts_by_row() -> None:
    """The probability is heads over tosses."""
    x = heads()
    bias = tensor([0.2, 0.5, 0.7])
    model = mixture(lambda z: dist.Binomial(TOTALS, pyro.param("bias", bias, constraint=constraints.unit_interval)[z]))
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    same(new["bias"], (w * x[:, None]).sum(0) / (w * TOTALS[:, None]).sum(0))


@pytest.mark.parametrize("law", [dist.Poisson, dist.Exponential])
def test_known_exposures_by_row(law: Any) -> None:
    """The rate is events over exposure, for counts and for waiting times."""
    exposure = 0.5 + torch.rand(N, generator=draw())
    x = counted() if law is dist.Poisson else real(N).exp()
    rates = tensor([0.6, 1.4, 3.0])
    model = mixture(lambda z: law(exposure * pyro.param("rate", rates, constraint=constraints.positive)[z]))
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    events = x[:, None].expand(N, K) if law is dist.Poisson else torch.ones(N, K)
    time = exposure if law is dist.Poisson else exposure * x
    same(new["rate"], (w * events).sum(0) / (w * time[:, None]).sum(0))


def test_known_covariances_by_row() -> None:
    """Multivariate means under a known covariance of each row: a weighted system of equations."""
    x, s = real(N, D) * 2, 0.5 + torch.rand(N, generator=draw())
    root = s[:, None, None] * tensor([[1.0, 0.0], [0.4, 1.2]])
    loc = real(K, D, seed=2)
    model = mixture(lambda z: dist.MultivariateNormal(pyro.param("loc", loc)[z], scale_tril=root))
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    precision = torch.cholesky_inverse(root)
    left = torch.einsum("nk,nij->kij", w, precision)
    right = torch.einsum("nk,nij,nj->ki", w, precision, x)
    same(new["loc"], torch.linalg.solve(left, right))


def test_known_locations_of_a_covariance() -> None:
    """The covariance around known locations."""
    x, m = real(N, D) * 2, real(N, D, seed=3)
    value = start("none", matrix("covariance_matrix"))
    model = mixture(
        lambda z: dist.MultivariateNormal(m, pyro.param("cov", value, constraint=constraints.positive_definite)[z])
    )
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    want = torch.einsum("nk,ni,nj->kij", w, x - m, x - m) / w.sum(0)[:, None, None]
    same(new["cov"], want)


def test_weights_of_rows_are_counts() -> None:
    """A weight of 2 is the row twice, a weight of 0 the row absent: also in the closed forms."""
    x, counts = real(N), torch.arange(N) % 3

    def weighted(x: Tensor, counts: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)
        loc = pyro.param("loc", tensor([-1.0, 0.5, 2.0]))
        scale = pyro.param("scale", tensor([0.6, 1.1, 2.0]), constraint=constraints.positive)
        with pyro.plate("row", len(x)), poutine.scale(scale=counts):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    once = check_closed(weighted, x, counts.double()).params
    repeated = x.repeat_interleave(counts)
    again = step(weighted, repeated, torch.ones(len(repeated))).params
    for name, value in once.items():
        same(value, again[name])
