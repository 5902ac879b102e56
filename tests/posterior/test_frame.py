"""The posterior as a table: rows of the plate, columns under the user's names."""

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from torch import Tensor, tensor

from em_pyro import EM, ParameterError

pd = pytest.importorskip("pandas")


def rows(x: Tensor) -> None:
    """A class and a factor in one plate, and a latent around it."""
    g = pyro.sample("g", dist.Bernoulli(tensor(0.4)))
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Categorical(tensor([0.2, 0.3, 0.5])))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(pyro.param("step", tensor(1.5)) * kind + z + g, 0.5), obs=x)


def test_one_plate() -> None:
    """States of a class, mean and sd of a factor; what is around the plate is repeated."""
    law = EM(rows).posterior(torch.linspace(-1.0, 4.0, 5))
    table = law.to_frame()
    assert table.index.name == "rows"
    assert list(table.columns) == [("g", 0), ("g", 1), *(("kind", k) for k in range(3)), ("z", "mean"), ("z", "sd")]
    close(table["kind"].to_numpy(), law.marginal("kind"))
    close(table["g"].to_numpy(), law.marginal("g").expand(5, 2))
    close(table["z", "mean"].to_numpy(), law.marginal("z").mean)
    close(table["z", "sd"].to_numpy(), law.marginal("z").variance.sqrt())


def test_plates_in_plates() -> None:
    """Rows of the innermost, or of the one that is named."""

    def model(x: Tensor) -> None:
        with pyro.plate("groups", len(x), dim=-3):
            u = pyro.sample("u", dist.Categorical(tensor([0.8, 0.2])))
            with pyro.plate("rows", x.shape[1], dim=-1):
                v = pyro.sample("v", dist.Bernoulli(tensor([0.3, 0.6])[u]))
                pyro.sample("x", dist.Normal(pyro.param("step", tensor(1.0)) * u + v, 1.0), obs=x[:, None])

    law = EM(model).posterior(torch.arange(6.0).reshape(2, 3).sin())
    table = law.to_frame()
    assert table.index.names == ["groups", "rows"]
    close(table.loc[(1, 2), "v"].to_numpy(), law.marginal("v")[1, 0, 2])
    close(table["u"].to_numpy(), law.marginal("u").reshape(2, 2).repeat_interleave(3, 0))
    outer = law.to_frame("groups")
    assert list(outer.columns) == [("u", 0), ("u", 1)]
    close(outer.to_numpy(), law.marginal("u").reshape(2, 2))
    with pytest.raises(ParameterError, match=r"among \['groups', 'rows'\], got \"columns\""):
        law.to_frame("columns")


def test_plates_side_by_side() -> None:
    """They are asked for one by one."""

    def model(x: Tensor, y: Tensor) -> None:
        step = pyro.param("step", tensor(1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(step * pyro.sample("a", dist.Bernoulli(tensor(0.4))), 1.0), obs=x)
        with pyro.plate("others", len(y)):
            pyro.sample("y", dist.Normal(step * pyro.sample("b", dist.Bernoulli(tensor(0.4))), 1.0), obs=y)

    law = EM(model).posterior(torch.zeros(3), torch.ones(2))
    with pytest.raises(ParameterError, match=r'expected latents whose plates nest, got .*to_frame\("'):
        law.to_frame()
    close(law.to_frame("others")["b"].to_numpy(), law.marginal("b"))


def test_sequences() -> None:
    """States of a site have a row for each step; vectors a column for each coordinate; a program may have no plate."""

    def hidden(y: Tensor) -> None:
        with pyro.plate("sequences", len(y)):
            table = tensor([[0.8, 0.2], [0.3, 0.7]]).log()
            law = dist.DiscreteHMM(torch.zeros(2), table, dist.Normal(pyro.param("loc", tensor([0.0, 2.0])), 1.0))
            pyro.sample("y", law, obs=y)

    law = EM(hidden).posterior(torch.arange(8.0).reshape(2, 4).sin())
    table = law.to_frame()
    assert table.index.names == ["sequences", "step"]
    close(table["y"].to_numpy(), law.marginal("y").reshape(8, 2))

    def whole(x: Tensor) -> None:
        u = pyro.sample("u", dist.OneHotCategorical(tensor([0.4, 0.6])))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
            loc = z + pyro.param("step", tensor(1.0)) * u
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    table = EM(whole).posterior(torch.zeros(3, 2)).to_frame()
    assert list(table.columns)[:2] == [("u", "(1, 0)"), ("u", "(0, 1)")]
    assert list(table["z"].columns) == ["mean[0]", "mean[1]", "sd[0]", "sd[1]"]


def test_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said what to install."""
    law = EM(rows).posterior(torch.zeros(2))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="to_frame: expected pandas, which is not installed. pip install pan"):
        law.to_frame()
