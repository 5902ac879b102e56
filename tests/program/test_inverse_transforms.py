"""Transforms whose inverse has been taken: each holds the other, and is looked into once."""

import gc
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor
from torch.distributions import transforms

from em_pyro import EM, DataError
from em_pyro.program.changes.lost import arguments_of
from em_pyro.program.marks import Marked, marks_of


def test_arguments_of_a_law_under_an_inverse() -> None:
    """What the inverse has inside is found, and the search ends."""
    loc = torch.tensor([1.0, 2.0])
    law = dist.TransformedDistribution(dist.Normal(0.0, torch.ones(2)), transforms.AffineTransform(loc, 3.0).inv)
    assert any(part is loc for _, part in arguments_of(law))


def test_marks_of_a_law_under_an_inverse() -> None:
    """The mark of a tensor inside is found, and the search ends."""
    base = dist.Normal(Marked(torch.zeros(2), frozenset({"z"})), torch.ones(2), validate_args=False)
    law = dist.TransformedDistribution(base, transforms.ExpTransform().inv, validate_args=False)
    assert marks_of(law) == frozenset({"z"})


PRIORS = {
    "LogNormal": dist.LogNormal(0.0, 1.0),
    "InverseGamma": dist.InverseGamma(3.0, 2.0),
    "cached": dist.TransformedDistribution(dist.Normal(0.0, 1.0), transforms.ExpTransform(cache_size=1)),
}


class Spread(PyroModule):
    """Normal data, whose spread has a prior that the module holds."""

    def __init__(self, prior: dist.TorchDistribution) -> None:
        """Keep the prior."""
        super().__init__()
        self.scale = PyroSample(prior)

    def forward(self, x: Tensor) -> None:
        """Observe."""
        scale = self.scale
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)


@pytest.mark.parametrize("name", PRIORS)
def test_what_a_transform_remembers_is_no_change_of_the_model(name: str) -> None:
    """It holds its inverse weakly, and the last value that it saw: the fit answers as long as it maps as it did."""
    gc.freeze()  # what other tests hold is not looked through
    x = torch.tensor([0.5, -1.5, 2.0, 0.1], dtype=torch.float64)
    fit = EM(Spread(PRIORS[name])).fit(x)
    for _ in range(2):
        gc.collect()
        PRIORS[name].log_prob(torch.tensor(0.7))
        assert math.isfinite(fit.posterior.log_evidence)
        assert "scale" in str(fit.information())


def test_another_transform_is_a_change() -> None:
    """Parameters of transforms are looked at."""
    prior = dist.TransformedDistribution(dist.Normal(0.0, 1.0), transforms.ExpTransform())
    fit = EM(Spread(prior)).fit(torch.tensor([0.5, -1.5], dtype=torch.float64))
    prior.transforms = [transforms.SoftplusTransform()]
    with pytest.raises(DataError, match="has changed"):
        fit.posterior.mode()
