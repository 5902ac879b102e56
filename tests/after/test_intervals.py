"""Intervals, functions of the parameters by the delta method, clusters of rows, and kinds that cannot be had."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import SOLVERS
from programs.overlapping import fitted, overlapping, slow
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro.errors import DataError, ParameterError

POSITIVE, UNIT = constraints.positive, constraints.unit_interval


def test_intervals_are_mapped_back() -> None:
    """By logarithms, log odds, and the transform of other bounds; of real entries they are symmetric."""
    z = 1.959963984540054

    def model(x: Tensor, y: Tensor) -> None:
        loc = pyro.param("loc", tensor(0.1), constraint=constraints.interval(-5.0, 5.0))
        mean, scale = pyro.param("mean", tensor(0.1)), pyro.param("scale", tensor(1.0), constraint=POSITIVE)
        p = pyro.param("p", tensor(0.4), constraint=UNIT)
        with pyro.plate("rows", len(x)):
            pyro.sample("u", dist.Normal(loc, 1.0), obs=x)
            pyro.sample("x", dist.Normal(mean, scale), obs=x)
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    x = torch.linspace(-1, 2, 30) ** 2
    found = fitted(model, x, (torch.arange(30) % 3 == 0).double()).information()
    value, se = found.params, found.se
    n = 30
    for name, want in (("mean", value["scale"] / n**0.5), ("scale", value["scale"] / (2 * n) ** 0.5), ("loc", n**-0.5)):
        close(se[name], want, SOLVERS)
    half = z * se["mean"]
    close(torch.stack(found.interval("mean")), torch.stack([value["mean"] - half, value["mean"] + half]))
    ends = (value["scale"].log() + z * se["scale"] / value["scale"] * tensor([-1.0, 1.0])).exp()
    close(torch.stack(found.interval("scale")), ends)
    odds = torch.logit(value["p"]) + z * se["p"] / (value["p"] * (1 - value["p"])) * tensor([-1.0, 1.0])
    close(torch.stack(found.interval("p")), torch.sigmoid(odds))
    share = (value["loc"] + 5) / 10
    odds = torch.logit(share) + z * se["loc"] / 10 / (share * (1 - share)) * tensor([-1.0, 1.0])
    close(torch.stack(found.interval("loc")), 10 * torch.sigmoid(odds) - 5)
    narrow = found.interval("mean", 0.5)
    assert narrow.lower > found.interval("mean").lower


def test_functions_of_any_shape() -> None:
    """The delta method: through a matrix, constants and fixed parameters too."""
    x = overlapping()
    fit = fitted(slow, x, m_step={"scale": "fixed"})
    found = fit.information()
    assert set(found.se) == {"weights", "loc"}
    with pytest.raises(ParameterError, match="kept fixed"):
        found.interval("scale")
    table = found.function(lambda p: torch.stack([p["loc"], 2 * p["loc"], p["scale"].expand(2)]))
    close(table.se, torch.stack([found.se["loc"], 2 * found.se["loc"], torch.zeros(2)]))
    mean = found.function(lambda p: p["weights"] @ p["loc"])
    gradient = torch.cat([found.params["loc"], found.params["weights"]])
    close(mean.se, (gradient @ found.covariance(("weights", "loc")) @ gradient).sqrt())
    close(mean.interval.upper - mean.value, 1.959963984540054 * mean.se)
    for bad in (lambda p: 3.0, lambda p: p["loc"].long()):
        with pytest.raises(ParameterError, match="tensor of real numbers"):
            found.function(bad)


# ---- kinds, rows and clusters ----


def test_clusters() -> None:
    """Rows of one plate in clusters of another: scores add up within a cluster."""
    generator = torch.Generator().manual_seed(5)
    y = torch.randn((8, 5), generator=generator) + torch.randn(5, generator=generator)

    def model(y: Tensor) -> None:
        mean = pyro.param("mean", tensor(0.0))
        with pyro.plate("clusters", 5, dim=-1), pyro.plate("rows", 8, dim=-2):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    fit = fitted(model, y)
    residual = y - y.mean()
    for plate, axis in (("clusters", 0), ("rows", 1)):
        want = residual.sum(axis).square().sum().sqrt() / 40
        close(fit.information("robust", plate=plate).se["mean"], want)
    close(fit.information("robust").se["mean"], residual.sum(1).square().sum().sqrt() / 40)  # that with most rows


def test_kinds_that_cannot_be_had() -> None:
    """One sequence, a prior without rows, no such kind, a plate where there is none to ask for."""

    def chain(y: Tensor) -> None:
        loc, z = pyro.param("loc", tensor([0.0, 2.0])), tensor(0)
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z_{t}", dist.Categorical(tensor([[0.8, 0.2], [0.3, 0.7]])[z]))
            pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=y[t])

    def prior(y: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    y = tensor([0.1, 2.2, 1.9, -0.3, 0.4])
    single, shrunk = fitted(chain, y), fitted(prior, y)
    for kind in ("opg", "robust"):
        with pytest.raises(ParameterError, match="independent rows"):
            single.information(kind)
    with pytest.raises(ParameterError, match="priors of .*loc"):
        shrunk.information("opg")
    residual = y - float(shrunk.params["loc"])
    deviation = residual - residual.mean()
    close(shrunk.information("robust").se["loc"], deviation.square().sum().sqrt() / 6)
    with pytest.raises(ParameterError, match="observed.*opg.*robust.*complete"):
        single.information("sandwich")
    with pytest.raises(ParameterError, match="plate"):
        shrunk.information(plate="rows")
    with pytest.raises(ParameterError, match="nowhere"):
        shrunk.information("robust", plate="nowhere")


def test_what_is_asked_of_an_information() -> None:
    """A level, a parameter or more, a function that has a value: else it is named."""
    found = fitted(slow, overlapping()).information()
    name = next(iter(found.se))
    for level in (0, 95, "0.95", None):
        with pytest.raises(ParameterError, match="level: expected a number between 0 and 1"):
            found.interval(name, level=level)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="expected one of .* or several, got none"):
        found.covariance(())
    with pytest.raises(ParameterError, match="expected a function of the parameters"):
        found.function(name)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="finite at the fitted values, got nan"):
        found.function(lambda p: (p[name].sum() - 1e6).log())


def test_changed_data_are_refused() -> None:
    """What is asked of a fit is asked of the data that it was fitted to."""
    x = overlapping()
    fit = fitted(slow, x)
    x[0] = 100.0
    with pytest.raises(DataError, match="Fit.information.*has changed"):
        fit.information()
