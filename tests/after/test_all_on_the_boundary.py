"""A fit of which every parameter is on the boundary: no direction is left, and every question has an answer."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM


@pytest.mark.parametrize("states", [1, 2])
def test_nothing_has_a_standard_error(states: int) -> None:
    """All tables say so."""

    def model(x: Tensor) -> None:
        p = pyro.param("p", torch.linspace(0.4, 0.6, states).double(), constraint=constraints.unit_interval)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(states, dtype=torch.float64) / states))
            pyro.sample("x", dist.Bernoulli(p[z]), obs=x)

    pyro.clear_param_store()
    fit = EM(model).fit(torch.ones(5, dtype=torch.float64))
    for kind in ("observed", "opg", "robust", "complete"):
        assert bool(fit.information(kind).se["p"].isnan().all())
        assert f"0 of {states} directions determined" in str(fit.information(kind))
    assert fit.certificate().rank == 0
    assert fit.certificate().rate == 0.0
    assert "on the boundary" in str(fit.summary())
