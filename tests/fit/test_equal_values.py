"""Densities that draw together onto equal values, by whatever name their width goes; and counts far out."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.fit.collapse.spike import Shapes

HALF, THREE = torch.full((8,), 0.5).double(), torch.full((8,), 3.0).double()
ROWS = tensor([0.2, 0.3, 0.5], dtype=torch.float64).expand(8, 3)
EVEN = torch.full((8, 3), 1 / 3).double()


def number(name: str, value: Any, constraint: Any = constraints.positive) -> Tensor:
    """A parameter."""
    return pyro.param(name, torch.as_tensor(value, dtype=torch.float64), constraint=constraint)


def unit(name: str) -> Tensor:
    """A probability."""
    return number(name, 0.3, constraints.unit_interval)


def share(name: str) -> Tensor:
    """A row of them."""
    return number(name, [0.3, 0.3, 0.4], constraints.simplex)


def fitted(law: Callable[[], Any], y: Tensor, **options: Any) -> Fit:
    """Fit one law of all rows."""

    def model() -> None:
        with pyro.plate("rows", len(y)):
            pyro.sample("y", law(), obs=y)

    pyro.clear_param_store()
    return EM(model, **options).fit()


UNBOUNDED: dict[str, tuple[Callable[[], Any], Tensor]] = {
    "RelaxedBernoulli": (lambda: dist.RelaxedBernoulli(number("a", 1.0), unit("q")), HALF),
    "RelaxedBernoulli, logits": (
        lambda: dist.RelaxedBernoulli(number("a", 1.0), logits=number("q", 0.3, constraints.real)), HALF),
    "RelaxedOneHotCategorical": (lambda: dist.RelaxedOneHotCategorical(number("a", 1.0), share("q")), ROWS),
    "RelaxedOneHotCategorical, even": (lambda: dist.RelaxedOneHotCategorical(number("a", 1.0), share("q")), EVEN),
    "Beta": (lambda: dist.Beta(number("a", 1.5), number("b", 2.0)), HALF),
    "Beta, by mean and size": (
        lambda: dist.Beta(unit("q") * number("a", 3.0), (1 - unit("q")) * number("a", 3.0)), HALF),
    "Gamma": (lambda: dist.Gamma(number("a", 1.5), number("b", 2.0)), THREE),
    "Gamma, a square": (lambda: dist.Gamma(number("a", 1.5), number("b", 1.5).square()), THREE),
    "InverseGamma": (lambda: dist.InverseGamma(number("a", 1.5), number("b", 2.0)), THREE),
    "Weibull": (lambda: dist.Weibull(number("b", 1.5), number("a", 2.0)), THREE),
    "LogNormal": (lambda: dist.LogNormal(number("b", 1.5, constraints.real), number("a", 2.0)), THREE),
    "Dirichlet": (lambda: dist.Dirichlet(number("a", [1.5, 1.0, 2.0])), ROWS),
    "VonMises": (lambda: dist.VonMises(number("b", 0.4, constraints.real), number("a", 2.0)), HALF),
    "FisherSnedecor": (lambda: dist.FisherSnedecor(number("a", 1.5), number("b", 2.0)), THREE),
    "Exponential of zeros": (lambda: dist.Exponential(number("a", 1.5)), 0 * THREE),
    "HalfNormal of zeros": (lambda: dist.HalfNormal(number("a", 1.5)), 0 * THREE),
    "LKJ of identities": (lambda: dist.LKJCholesky(2, number("a", 1.0)), torch.eye(2).double().expand(8, 2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNBOUNDED)
def test_equal_values_have_no_maximum(name: str) -> None:
    """A law of two parameters draws together onto them: a named ending with a reason, never a maximum."""
    law, y = UNBOUNDED[name]
    fit = fitted(law, y)
    assert fit.outcome == "degenerate"
    assert any('"y"' in note for note in fit.notes)


BOUNDED: dict[str, tuple[Callable[[], Any], Tensor, float]] = {
    "Exponential": (lambda: dist.Exponential(number("a", 1.5)), THREE, 1 / 3),
    "HalfNormal": (lambda: dist.HalfNormal(number("a", 1.5)), THREE, 3.0),
    "Normal of a known scale": (lambda: dist.Normal(number("a", 1.5), 2.0), THREE, 3.0),
    "RelaxedBernoulli of a known temperature": (
        lambda: dist.RelaxedBernoulli(tensor(0.5, dtype=torch.float64), unit("a")), HALF, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDED)
def test_equal_values_may_have_one(name: str) -> None:
    """Where nothing lets the law draw together, they are data as any other."""
    law, y, expected = BOUNDED[name]
    fit = fitted(law, y)
    assert fit.converged
    assert abs(float(fit.params["a"]) - expected) < 1e-5


@pytest.mark.parametrize("zeros", [5, 20])
def test_an_atom_is_no_spike(zeros: int) -> None:
    """Counts with more zeros than a Poisson law has: their law has an atom, whatever its parameters are."""
    y = torch.cat([torch.zeros(zeros), torch.tensor([1.0, 2, 2, 3, 4, 5, 3, 2])]).double()
    fit = fitted(lambda: dist.ZeroInflatedPoisson(number("a", 2.0), gate=unit("q")), y)
    assert fit.converged


def test_a_component_that_loses_its_slope_is_no_maximum() -> None:
    """Of a mixture: rows far from a narrow density have next to no weight, and do not hold it up."""
    y = torch.cat([HALF, torch.linspace(0.05, 0.95, 30).double()])

    def model() -> None:
        t = number("t", [1.0, 50.0])
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5], dtype=torch.float64)))
            pyro.sample("y", dist.RelaxedBernoulli(t[z], tensor(0.5, dtype=torch.float64)), obs=y)

    pyro.clear_param_store()
    fit = EM(model).fit()
    assert fit.outcome == "degenerate"
    assert any("draws together onto one value" in note for note in fit.notes)


def test_the_density_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that the rate of zeros would be a number."""
    monkeypatch.setattr(Shapes, "collapsed", lambda *_: "")
    monkeypatch.setattr(Shapes, "of_equal_values", lambda *_: "")
    assert fitted(*UNBOUNDED["Exponential of zeros"]).outcome != "degenerate"


EVENLY = tensor([2.0, 3, 3, 3, 4, 3, 3, 2, 4, 3] * 4, dtype=torch.float64)  # less spread than a Poisson law allows
ENDLESS: dict[str, tuple[Callable[[], Any], dist.TorchDistribution]] = {
    "GammaPoisson": (lambda: dist.GammaPoisson(number("c", 2.0), number("r", 1.0)), dist.Poisson(EVENLY.mean())),
    "BetaBinomial": (
        lambda: dist.BetaBinomial(number("c", 2.0) * unit("q"), number("c", 2.0) * (1 - unit("q")), 10),
        dist.Binomial(10, EVENLY.mean() / 10),
    ),
}
"""Laws, and what they are where their concentration is infinite."""


@pytest.mark.parametrize("name", ENDLESS)
def test_a_concentration_that_runs_off_is_named(name: str) -> None:
    """Counts that are less spread than any such law: the parameter is named, and the end is that limit."""
    law, limit = ENDLESS[name]
    fit = fitted(law, EVENLY)
    assert any('"c"' in note for note in fit.notes)
    assert fit.log_likelihood == pytest.approx(float(limit.log_prob(EVENLY).sum()), abs=1e-4)
