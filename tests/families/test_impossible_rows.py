"""Rows that are impossible in a state, which has no weight of theirs: the slope of `Q` is that of the others."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor

from em_pyro import EM
from em_pyro.families import extremes

SIZE = tensor([0.94, 4.98, 4.19, 0.33, 0.7, 1.1], dtype=torch.float64)
SHAPES = tensor([0.5, 8.0], dtype=torch.float64)


def weibulls(x: Tensor) -> None:
    """The shape in a state is so large that rows above the scale are impossible there."""
    shape = pyro.param("shape", SHAPES)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5, dtype=torch.float64)))
        pyro.sample("x", dist.Weibull(1.0, torch.exp(shape[z])), obs=x)


def gumbels(x: Tensor) -> None:
    """The same of the logarithms."""
    shape = pyro.param("shape", SHAPES)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5, dtype=torch.float64)))
        pyro.sample("x", dist.Gumbel(0.0, torch.exp(-shape[z])), obs=-x.log())


def possible(x: Tensor) -> float:
    """The objective at the start, by hand: nothing of the second state where a power overflows."""
    k = SHAPES.exp()
    power = k * x.log().unsqueeze(-1)
    density = k.log() + power - x.log().unsqueeze(-1) - torch.where(power < 700, power.exp(), torch.inf)
    return float((density.logsumexp(-1) - torch.tensor(2.0).double().log()).sum())


@pytest.mark.parametrize("model", [weibulls, gumbels])
def test_what_is_impossible_in_a_state_has_no_slope_there(model: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch M-step goes on from where powers overflow; without the bound it is told that there is no slope."""
    options = {"shape": "torch"}
    pyro.clear_param_store()
    fit = EM(model, m_step=options).fit(SIZE)  # type: ignore[arg-type]
    jacobian = float(SIZE.log().sum()) if model is gumbels else 0.0
    assert fit.path[0] == pytest.approx(possible(SIZE) + jacobian, rel=IDENTITY)
    assert fit.objective > fit.path[0] + 0.1
    assert bool(torch.isfinite(fit.params["shape"]).all())
    monkeypatch.setattr(extremes, "FARTHEST", torch.inf)
    pyro.clear_param_store()
    with pytest.raises(Exception, match="finite gradient"):
        EM(model, m_step=options).fit(SIZE)  # type: ignore[arg-type]
