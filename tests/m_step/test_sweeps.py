"""Conditional closed forms, alternated: they are far cheaper than a joint ascent, which is left for slow ridges."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.m_step import maximise


def around_one_mean(x: Tensor) -> None:
    """Three spreads around one mean."""
    weights = pyro.param("weights", tensor([0.3, 0.25, 0.45]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([1.4, -1.5]))
    start = tensor([[[0.8, 0.0], [0.4, 1.0]], [[1.0, 0.0], [0.0, 1.2]], [[0.7, 0.0], [0.2, 0.9]]])
    tril = pyro.param("tril", start, constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.MultivariateNormal(loc, scale_tril=tril[z]), obs=x)


@pytest.fixture
def x() -> Tensor:
    """Rows of two spreads."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.where(torch.rand(300, 1, generator=generator) < 0.5, 1.0, 4.0)
    return torch.randn(300, 2, generator=generator) * wide


def test_sweeps_that_draw_nearer_go_on(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the maximum that a joint ascent finds, and without one."""
    monkeypatch.setattr(maximise, "JOINTLY", 1)
    options = {"tol": 0, "max_steps": 8, "acceleration": None, "check": False}
    jointly = EM(around_one_mean, **options).fit(x)
    monkeypatch.setattr(maximise, "JOINTLY", 20)
    asked: list[str] = []
    monkeypatch.setattr(maximise, "joint_climb", lambda *_: asked.append("joint climb"))
    pyro.clear_param_store()
    swept = EM(around_one_mean, **options).fit(x)
    assert not asked
    assert max(abs(a - b) for a, b in zip(jointly.path, swept.path, strict=True)) < 1e-8
