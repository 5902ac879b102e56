"""Data drawn at fitted values: what cannot be drawn, and arguments that do not fit, are named."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from programs.drawn import fitted, mixture
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, ModelError, ParameterError


def weighted(x: Tensor, count: Tensor) -> None:
    """Count rows more than once."""
    with pyro.plate("rows", len(x)), poutine.scale(scale=count):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(pyro.param("loc", tensor([-1.0, 1.0]))[z], 1.0), obs=x)


def test_row_weights_are_refused() -> None:
    """A table of counts is no list of rows; weights of one are."""
    fit = fitted(weighted, torch.zeros(3), tensor([1.0, 4.0, 2.0]))
    with pytest.raises(ModelError, match=r'Site "x": .*weight 4 \(poutine.scale, index 1\).*repeat_interleave'):
        fit.simulate()
    assert fit.simulate(torch.zeros(7), torch.ones(7))["x"].shape == (7,)


def test_factors_are_refused() -> None:
    """A term for each row has no draws; a penalty of the parameters is no data."""

    def model(x: Tensor, *, by_row: bool) -> None:
        scale = pyro.param("scale", tensor(1.5), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(z.double(), scale), obs=x)
            if by_row:
                pyro.factor("term", 0.1 * z)
        if not by_row:
            pyro.factor("penalty", -scale)

    assert list(EM(model, max_steps=0).fit(torch.zeros(3), by_row=False).simulate()) == ["x"]
    with pytest.raises(ModelError, match='Site "term": .*pyro.factor'):
        EM(model, max_steps=0).fit(torch.zeros(3), by_row=True).simulate()


def optional(x: Tensor | None, rows: int) -> None:
    """Draw the data where none are given, as Pyro's models may."""
    loc = pyro.param("loc", tensor([-1.0, 1.0]))
    with pyro.plate("rows", rows):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def test_data_may_be_left_out() -> None:
    """With no data passed, rows are drawn as with any."""
    fit = fitted(optional, torch.zeros(5), 5)
    assert fit.simulate(None, 9)["x"].shape == (9,)
    close(fit.simulate(None, 9)["x"], fit.simulate(torch.zeros(9), 9)["x"])


def own(x: Tensor | None, rows: int) -> None:
    """Give every row an effect of its own."""
    effect = pyro.param("effect", lambda: torch.zeros(rows))
    with pyro.plate("rows", rows) as row:
        z = pyro.sample("z", dist.Bernoulli(tensor(0.5)))
        pyro.sample("x", dist.Normal(effect[row] + z, 1.0), obs=x)


def test_what_does_not_fit_is_named() -> None:
    """Other arguments are held to what new rows are held to, with data or without."""
    fit = fitted(own, torch.zeros(6), 6)
    for x, rows in ((torch.zeros(4), 4), (None, 4), (None, 9)):
        with pytest.raises(ParameterError, match='Parameter "effect": expected rows'):
            fit.simulate(x, rows)
    with pytest.raises(DataError, match='Plate "rows": expected at least one row'):
        fitted(mixture, torch.zeros(4, 2)).simulate(torch.zeros(0, 2))
    with pytest.raises(ParameterError, match='Parameter "loc": expected rows'):
        fitted(mixture, torch.zeros(4, 2)).simulate(torch.zeros(3, 5))


def test_changed_data() -> None:
    """The arguments of the fit are those of the fit, or none."""
    x = torch.zeros(4, 2)
    fit = fitted(mixture, x)
    x[0] = 7.0
    with pytest.raises(DataError, match=r"since then argument 0 has changed|since then .* has changed"):
        fit.simulate()
