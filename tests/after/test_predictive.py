"""A statistic of the data among those of data drawn at fitted values."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from torch import Tensor, tensor

import em_pyro
from em_pyro import EM, DataError, Fit, ParameterError

X = tensor([-1.2, -0.3, 0.4, 0.9, 3.1, 4.2, 5.5, 4.6], dtype=torch.float64)


def rows(x: Tensor | None) -> None:
    """Mix two normals whose locations are known."""
    step = pyro.param("step", tensor(4.0))
    with pyro.plate("rows", 8 if x is None else len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(step * z, 1.0), obs=x)


def fitted() -> Fit:
    """Stay at the start."""
    return EM(rows, max_steps=0).fit(X)


def test_draws_are_simulations() -> None:
    """Those of `simulate`, with the share of them that is at least as large."""
    fit = fitted()
    check = em_pyro.predictive_check(fit, lambda sites: sites["x"].max(), draws=50, seed=3)
    assert check.observed == 5.5
    assert len(set(check.draws)) == 50
    assert check.p_value == (1 + sum(value >= 5.5 for value in check.draws)) / 51
    assert check == em_pyro.predictive_check(fit, lambda sites: sites["x"].max(), draws=50, seed=3)
    assert check.draws != em_pyro.predictive_check(fit, lambda sites: sites["x"].max(), draws=50, seed=4).draws
    assert "observed 5.5; 50 draws" in str(check)


def test_a_law_of_large_numbers() -> None:
    """The mean of a draw has the mean of the model, and its spread."""
    check = em_pyro.predictive_check(fitted(), lambda sites: float(sites["x"].mean()), draws=400)
    draws = tensor(check.draws)
    assert abs(float(draws.mean()) - 2.0) < 5 * (5 / 8 / 400) ** 0.5
    assert abs(float(draws.var()) / (5 / 8) - 1) < 5 * (2 / 400) ** 0.5


def test_what_the_model_does_not_give() -> None:
    """Too much spread has a small p-value, too little one near one."""
    fit = fitted()
    spread = em_pyro.predictive_check(fit, lambda sites: sites["x"].var(), X * 3)
    assert spread.p_value == 1 / 201
    assert em_pyro.predictive_check(fit, lambda sites: sites["x"].var(), X * 0.1 + 2).p_value == 1.0


def test_masked_entries_are_alike() -> None:
    """A statistic sees the same entries where nothing is seen, in the data and in every draw."""

    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(pyro.param("step", tensor(4.0)) * z, 1.0).mask(seen), obs=x)

    seen = torch.arange(8) < 6
    fit = EM(model, max_steps=0).fit(torch.where(seen, X, 7.0), seen)
    check = em_pyro.predictive_check(fit, lambda sites: sites["x"][6:].sum(), draws=5)
    assert check.observed == 14.0
    assert set(check.draws) == {14.0}
    assert check.p_value == 1.0


def test_nobody_is_touched() -> None:
    """A statistic that writes into what it is given changes no data, and no generator moves."""
    fit, before = fitted(), torch.get_rng_state()
    em_pyro.predictive_check(fit, lambda sites: sites["x"].mul_(2.0).sum(), draws=3)
    close(fit.prepared.program.args[0], X)  # type: ignore[union-attr]
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_no_statistic() -> None:
    """It is said what was returned, and of what; draws are at least one; data are there."""
    fit = fitted()
    with pytest.raises(ParameterError, match=r"statistic: expected a number of the data, got shape \(8,\)"):
        em_pyro.predictive_check(fit, lambda sites: sites["x"])
    with pytest.raises(ParameterError, match="expected a number of the data, got dict"):
        em_pyro.predictive_check(fit, lambda sites: sites)
    with pytest.raises(ParameterError, match=r"expected a number of draw \d+, got nan"):
        em_pyro.predictive_check(fit, lambda sites: sites["x"].min().add(1.2).sqrt())
    for draws in (0, 2.5, True):
        with pytest.raises(ParameterError, match="draws to be a number of at least one"):
            em_pyro.predictive_check(fit, lambda sites: 0.0, draws=draws)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="statistic: expected a function of the sites"):
        em_pyro.predictive_check(fit, "mean")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="expected a Fit, as EM.fit returns it, got function"):
        em_pyro.predictive_check(fitted, lambda sites: 0.0)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="seed to be an integer"):
        em_pyro.predictive_check(fit, lambda sites: 0.0, seed="a")  # type: ignore[arg-type]
    with pytest.raises(DataError, match='Site "x": expected data, got None'):
        em_pyro.predictive_check(fit, lambda sites: 0.0, None)
