"""Likelihood ratios of data drawn from the smaller model: how data are replaced, and what is refused."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture, latent_classes
from oracles.agreement import close
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.selection.bootstrap as bootstrap
from em_pyro import EM, EMError, Fit, LikelihoodRatio, ModelError, ParameterError, bootstrap_lrt
from em_pyro.program.data.replaced import replacement

SHORT: dict[str, Any] = {"max_steps": 15, "check": False}
"""Enough steps for a ratio to be seen, where the smaller model is right and the larger has a flat likelihood."""

X = torch.cat([torch.linspace(-1.3, 1.0, 12), torch.linspace(3.5, 6.1, 10)]).double()


def normals(K: int) -> Callable[..., None]:
    """Return a mixture of so many normals with one scale."""
    return partial(gaussian_mixture.univariate, K=K, tied=True)


def fitted(model: Callable[..., None], *args: Any) -> Fit:
    """Fit in a store of its own."""
    with pyro.get_param_store().scope():
        return EM(model).fit(*args)


@cache
def clusters(K: int) -> Fit:
    """The fit of so many normals, made once."""
    return fitted(normals(K), X)


def test_two_clusters() -> None:
    """One normal is not enough for two clusters; two are."""
    found = bootstrap_lrt(normals(1), normals(2), X, draws=9, **SHORT)
    one, two = clusters(1), clusters(2)
    close(found.statistic, 2 * (two.log_likelihood - one.log_likelihood), 1e-6)
    assert found.draws.shape == (9,)
    assert bool((found.draws > -1e-6).all())
    assert found.p_value == 0.1
    assert "p-value 0.1" in str(found)
    again = bootstrap_lrt(normals(2), normals(3), X, draws=3, **SHORT)
    close(again.p_value, (1 + int((again.draws >= again.statistic).sum())) / 4)
    assert again.p_value > found.p_value


def test_fits_are_models_with_their_data() -> None:
    """Fits in place of models; the same draws, the same numbers, and no trace in the store."""
    small, large = clusters(1), clusters(2)
    before = dict(pyro.get_param_store().items())
    found = bootstrap_lrt(small, large, draws=2, **SHORT)
    assert dict(pyro.get_param_store().items()) == before
    other = bootstrap_lrt(normals(1), normals(2), X, draws=2, **SHORT)
    assert torch.equal(found.draws, other.draws)
    assert found.notes == ()
    assert not torch.equal(found.draws, bootstrap_lrt(small, large, draws=2, seed=1, **SHORT).draws)


def test_numbers_of_components_among_the_arguments() -> None:
    """Each fit has its own arguments."""
    small, large = fitted(gaussian_mixture.univariate, X, 1), fitted(gaussian_mixture.univariate, X, 2)
    found = bootstrap_lrt(small, large, draws=2, **SHORT)
    assert found.statistic > 0


def test_a_fit_that_the_rule_does_not_reach_is_told_of() -> None:
    """The statistic is that of the rule, for data and draws alike."""
    small, large = clusters(1), clusters(2)
    found = bootstrap_lrt(small, large, draws=1, max_steps=1)
    assert "take more starts" in found.notes[0]
    assert found.statistic < 2 * (large.log_likelihood - small.log_likelihood)


# ---- how observed values are replaced --------------------------------------------------------------------------------


def drawn(fit: Fit) -> dict[str, Tensor]:
    """Draw once."""
    return fit.simulate(seed=3)


def test_arguments_hold_the_data() -> None:
    """What is observed is an argument, or a column of one: then it is replaced there, in a copy."""
    answers = (torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) < 0.4).long()
    for model, x in ((normals(2), X), (latent_classes.latent_classes, answers)):
        fit, before = fitted(model, x), x.clone()
        values = drawn(fit)
        other = replacement(fit._alive().program, fit.params, values)
        assert set(other.places) == set(values)
        again, args, kwargs = other(values)
        assert again is model
        assert kwargs == {}
        want = values["x"] if "x" in values else torch.stack(list(values.values()), 1)
        assert torch.equal(args[0], want)
        assert torch.equal(x, before)


def test_data_in_a_list_and_in_a_dict() -> None:
    """They are found inside."""

    def model(data: Any) -> None:
        loc = pyro.param("loc", tensor(0.0))
        with pyro.plate("rows", len(data["parts"][0])):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=data["parts"][0])
            pyro.sample("y", dist.Normal(loc, 2.0), obs=data["parts"][1])

    fit = fitted(model, {"parts": [X, X.flip(0)], "name": "a"})
    values = drawn(fit)
    _, (data,), _ = replacement(fit._alive().program, fit.params, values)(values)
    assert torch.equal(data["parts"][0], values["x"])
    assert torch.equal(data["parts"][1], values["y"])
    assert data["name"] == "a"


def closure(x: Tensor) -> Callable[[], None]:
    """Return a model that holds its data."""
    return partial(gaussian_mixture.univariate, x, 1, tied=True)


def logarithm(x: Tensor) -> None:
    """Observe what it computes."""
    loc, scale = pyro.param("loc", tensor(0.0)), pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc, scale), obs=(x + 5).log())


def autoregression(x: Tensor) -> None:
    """The past of a series is its argument, too."""
    slope, scale = pyro.param("slope", tensor(0.5)), pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    with pyro.plate("rows", len(x) - 1):
        pyro.sample("x", dist.Normal(slope * x[:-1], scale), obs=x[1:])


@pytest.mark.parametrize(
    ("model", "args"),
    [(lambda: closure(X)(), ()), (logarithm, (X,)), (autoregression, (X,))],
    ids=["closure", "logarithm", "autoregression"],
)
def test_else_the_sites_are_given_them(model: Callable[..., None], args: tuple[Tensor, ...]) -> None:
    """Data of a closure, values that are computed, and a series whose past is an argument: nothing else changes."""
    fit = fitted(model, *args)
    values = drawn(fit)
    other = replacement(fit._alive().program, fit.params, values)
    assert other.places == {}
    again, same, _ = other(values)
    assert all(a is b for a, b in zip(same, args, strict=True))
    sites = fitted(again, *same)._alive().engine.recognition.runs[0]
    assert torch.equal(sites["x"].value, values["x"])


def test_a_closure_gives_the_numbers_of_an_argument() -> None:
    """Starts are those of the data then, from which so many steps lead nearly as far."""
    with_argument = bootstrap_lrt(normals(1), normals(2), X, draws=2, **SHORT)

    def held(K: int) -> Callable[[], None]:
        return lambda: normals(K)(X)

    found = bootstrap_lrt(held(1), held(2), draws=2, **SHORT)
    close(found.statistic, with_argument.statistic)
    close(found.draws, with_argument.draws, 0.1)


# ---- what is refused -------------------------------------------------------------------------------------------------


def counted(x: Tensor, counts: Tensor, K: int) -> None:
    """A table of counts."""
    with poutine.scale(scale=counts):
        gaussian_mixture.univariate(x, K, tied=True)


def test_row_weights() -> None:
    """A table of counts cannot be drawn row by row."""
    with pytest.raises(ModelError, match='Site "x": expected rows that count once'):
        bootstrap_lrt(partial(counted, K=1), partial(counted, K=2), X, torch.arange(1, len(X) + 1).double(), draws=2)


def test_other_sites() -> None:
    """Models of other data."""

    def other(x: Tensor) -> None:
        loc = pyro.param("loc", tensor(0.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=x)

    with pytest.raises(ParameterError, match='to observe the same sites, got "x"'):
        bootstrap_lrt(normals(1), other, X, draws=2)


@pytest.mark.parametrize("change", [{"draws": 0}, {"draws": 2.5}, {"starts": 0}, {"starts": True}, {"seed": "a"}])
def test_bad_options(change: dict[str, Any]) -> None:
    """Refused, by name."""
    with pytest.raises(ParameterError, match=f"expected {next(iter(change))} to be"):
        bootstrap_lrt(normals(1), normals(2), X, **change)


def test_what_is_no_model() -> None:
    """Neither a fit nor a model."""
    with pytest.raises(ParameterError, match="expected fits or models, got int"):
        bootstrap_lrt(1, normals(2), X)  # type: ignore[arg-type]


def test_draws_that_cannot_be_fitted_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told of; if none can be, that is an error."""
    calls = {"made": 0}
    whole = bootstrap._both

    def sometimes(*args: Any) -> Any:
        calls["made"] += 1
        if calls["made"] in (2, 3):
            raise EMError("no maximum")
        return whole(*args)

    monkeypatch.setattr(bootstrap, "_both", sometimes)
    found = bootstrap_lrt(normals(1), normals(2), X, draws=3, **SHORT)
    assert isinstance(found, LikelihoodRatio)
    assert len(found.draws) == 1
    assert "2 draws are left out" in found.notes[0]
    assert "2 draws are left out" in str(found)
    calls["made"] = 0
    with pytest.raises(EMError, match="expected draws that can be fitted, got none"):
        bootstrap_lrt(normals(1), normals(2), X, draws=2, **SHORT)


def test_the_smaller_model_comes_first() -> None:
    """Exchanged, a ratio below zero would be compared with others below zero."""
    with pytest.raises(ParameterError, match="the smaller model first, got one of 4 parameters before one of 2"):
        bootstrap_lrt(normals(2), normals(1), X, draws=2, **SHORT)
