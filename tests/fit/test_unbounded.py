"""Likelihoods without bound at sites that no family recognises: what is said where torch still has a density."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import SOLVERS
from torch import Tensor
from torch.distributions import constraints, transforms

from em_pyro import EM, ParameterError

SIMPLEX, POSITIVE = constraints.simplex, constraints.positive


@pytest.mark.parametrize("law", [dist.Cauchy, dist.Gumbel])
@pytest.mark.parametrize("states", [1, 2])
def test_a_replayed_scale_that_collapses_onto_equal_values_is_an_ending(law: Any, states: int) -> None:
    """The spread of equal values is none, so that it is their size beside which a scale is nothing."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.ones(states) / states, constraint=SIMPLEX)
        loc = pyro.param("loc", 1.0 + 2 * torch.arange(states))
        scale = pyro.param("scale", torch.ones(states), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", law(loc[z], scale[z]), obs=x)

    pyro.clear_param_store()
    fit = EM(model).fit(torch.full((5,), 1.3))
    assert fit.outcome == "degenerate"
    assert fit.num_steps <= 40


def test_an_objective_without_digits_is_no_maximum() -> None:
    """Equal counts are binomial, which two shapes reach at infinity: Pyro's density there is nothing but rounding."""

    class Own(dist.BetaBinomial):
        """A law of which nobody knows that it is one."""

    def model(x: Tensor) -> None:
        a, b = (pyro.param(name, torch.tensor(1.0), constraint=POSITIVE) for name in "ab")
        with pyro.plate("rows", len(x)):
            pyro.sample("x", Own(a, b, total_count=8), obs=x)

    pyro.clear_param_store()
    fit = EM(model).fit(torch.full((6,), 3.0))
    assert fit.outcome == "unconfirmed"
    assert "digits" in str(fit.notes)


def logistic_of_logarithms(loc: Tensor, scale: Tensor) -> Any:
    """A log-logistic density."""
    return dist.TransformedDistribution(dist.Logistic(loc, scale), [transforms.ExpTransform()])


def normal_of_logits(loc: Tensor, scale: Tensor) -> Any:
    """A logit-normal density."""
    return dist.TransformedDistribution(dist.Normal(loc, scale), [transforms.SigmoidTransform()])


def stretched(loc: Tensor, scale: Tensor) -> Any:
    """A density whose own scale is one."""
    return dist.TransformedDistribution(dist.Logistic(0.0 * loc, 1.0), [transforms.AffineTransform(loc, scale)])


def stretched_logits(loc: Tensor, scale: Tensor) -> Any:
    """The same of logits."""
    onto = [transforms.AffineTransform(loc, scale), transforms.SigmoidTransform()]
    return dist.TransformedDistribution(dist.Logistic(0.0 * loc, 1.0), onto)


@pytest.mark.parametrize("law", [logistic_of_logarithms, normal_of_logits, stretched, stretched_logits])
@pytest.mark.parametrize("states", [1, 2])
def test_a_scale_under_a_transform_collapses_too(law: Any, states: int) -> None:
    """It is that of the values before what is done to them, and of what a change of units makes of it."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.ones(states) / states, constraint=SIMPLEX)
        loc = pyro.param("loc", torch.linspace(-1.0, 0.5, states))
        scale = pyro.param("scale", torch.ones(states), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", law(loc[z], scale[z]), obs=x)

    pyro.clear_param_store()
    fit = EM(model).fit(torch.full((5,), 0.3))
    assert fit.outcome == "degenerate"
    assert fit.num_steps <= 40
    pyro.clear_param_store()
    spread = torch.tensor([0.1, 0.2, 0.35, 0.3, 0.6, 0.8])
    assert states == 2 or EM(model).fit(spread).converged


def test_the_steps_of_a_density_without_digits_are_no_maxima() -> None:
    """Two shapes make a spike of equal values; torch's density there is a staircase, on which the slope is zero."""

    def model(x: Tensor) -> None:
        a = pyro.param("a", torch.tensor(2.0))
        b = pyro.param("b", torch.tensor(1e6), constraint=POSITIVE)  # begun on the way there
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Kumaraswamy(a.exp(), b), obs=x)

    pyro.clear_param_store()
    fit = EM(model).fit(torch.full((6,), 0.3))
    assert fit.outcome == "degenerate"
    assert "all rows have one value" in str(fit.notes)
    assert "higher a part of a standard error" in str(fit.notes)


def test_an_inflection_is_no_maximum() -> None:
    """A cube has no slope at zero, where steps stay that come near it."""

    def model(x: Tensor) -> None:
        root = pyro.param("root", torch.tensor(0.5))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(root**3, 1.0), obs=x)

    for loc in (-0.1, 0.0, 0.1):
        pyro.clear_param_store()
        fit = EM(model).fit(loc + torch.linspace(-1.0, 1.0, 9))
        assert not fit.converged or float(fit.params["root"]) ** 3 == pytest.approx(loc, abs=1e-3)


def pareto(scale: Tensor) -> dist.Distribution:
    """Values above a parameter."""
    return dist.Pareto(scale, 2.0)


def shifted(scale: Tensor) -> dist.Distribution:
    """The same of a density that is shifted: its own support is that of the base."""
    shift = torch.distributions.transforms.AffineTransform(scale, 1.0)
    return dist.TransformedDistribution(dist.Exponential(2.0), [shift])


def uniform(scale: Tensor) -> dist.Distribution:
    """Values below a parameter, the density zero above it."""
    return dist.Uniform(0.0, 10 * scale)


@pytest.mark.parametrize("law", [pareto, shifted, uniform])
def test_a_support_that_leaves_the_values_is_no_maximum(law: Any) -> None:
    """Torch has a density there, too, which rises for ever: nothing leads there, and the bound is named.

    Where it has none, the maximum is believed.
    """

    def model(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", law(scale), obs=x)

    pyro.clear_param_store()
    x = torch.tensor([1.3, 2.0, 1.7, 4.0, 1.1, 9.0])
    fit = EM(model).fit(x)
    assert fit.converged == (law is uniform)
    assert ("support leaves out" in str(fit.notes)) == (law is not uniform)
    close(fit.params["scale"], x.max() / 10 if law is uniform else x.min(), SOLVERS)


@pytest.mark.parametrize("kind", ["mixture", "float32", "two plates"])
def test_no_fit_leaves_the_support(kind: str) -> None:
    """A rate beside the bound: nothing that was observed becomes impossible, and no number is beyond all measure."""
    dtype = torch.float32 if kind == "float32" else torch.float64
    x = 2 + 0.1 * (1 + (torch.arange(40) * 17 % 40)).to(dtype)

    def model(x: Tensor) -> None:
        bound = pyro.param("bound", torch.zeros((), dtype=dtype))
        rate = pyro.param("rate", torch.tensor([1.0, 0.3], dtype=dtype), constraint=POSITIVE)
        shift = [torch.distributions.transforms.AffineTransform(bound, 1.0)]
        with pyro.plate("rows", x.shape[-1]):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5], dtype=dtype))) if kind == "mixture" else 0
            law = dist.TransformedDistribution(dist.Exponential(rate[z]), shift)
            if kind != "two plates":
                pyro.sample("x", law, obs=x)
            else:
                with pyro.plate("times", 2):
                    pyro.sample("x", law, obs=torch.stack([x, x + 1]))

    pyro.clear_param_store()
    fit = EM(model).fit(x)
    assert not fit.converged
    assert fit.objective < 0
    assert float(fit.params["bound"]) <= float(x.min())
    assert "support leaves out" in str(fit.notes)
    assert "keep what bounds a support known" in str(fit.notes)


@pytest.mark.parametrize("law", [pareto, uniform])
def test_starts_replace_a_start_beyond_the_support(law: Any) -> None:
    """The values given are those that the data are held against; without them the start is refused."""
    x = torch.tensor([1.3, 2.0, 1.7, 4.0, 1.1, 9.0])
    bad, good = (50.0, 0.5) if law is pareto else (0.1, 2.0)

    def model(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(bad), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", law(scale), obs=x)

    pyro.clear_param_store()
    with pytest.raises(ParameterError, match="expected starts at which"):
        EM(model).fit(x)
    fit = EM(model, starts={"scale": torch.tensor(good)}).fit(x)
    close(fit.params["scale"], x.max() / 10 if law is uniform else x.min(), SOLVERS)


def test_a_slope_along_which_there_is_next_to_no_information_is_looked_at() -> None:
    """Lines through all angles: the step that the slope promises most for leads nowhere, and a shorter one up."""

    def model(x: Tensor, u: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.6, 0.4]), constraint=SIMPLEX)
        level = pyro.param("level", torch.tensor([0.7, 0.0]))
        slope = pyro.param("slope", torch.tensor([-0.8, 1.1]))
        common = pyro.param("common", torch.tensor(2.0), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.VonMises(level[z] + slope[z] * u, torch.tensor([1.5, 1.0, 0.5]) * common), obs=x)

    pyro.clear_param_store()
    fit = EM(model).fit(torch.tensor([0.46, 0.92, -1.05]), torch.tensor([0.86, -0.49, -0.4]))
    assert fit.outcome in ("unconfirmed", "degenerate")


@pytest.mark.parametrize("states", [1, 2])
@pytest.mark.parametrize("bound", [False, True])
def test_a_tail_that_draws_together_onto_its_bound_is_an_ending(states: int, bound: bool) -> None:  # noqa: FBT001
    """What Pareto's law calls a scale is where it begins; its width is that over the shape, which runs off."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.linspace(1.0, 2.0, states).softmax(0), constraint=SIMPLEX)
        shape = pyro.param("shape", 1.0 + torch.arange(states), constraint=POSITIVE)
        start = pyro.param("start", torch.tensor(1.5), constraint=constraints.interval(0.0, 2.0)) if bound else 2.0
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Pareto(start, shape[z]), obs=x)

    pyro.clear_param_store()
    fit = EM(model).fit(torch.full((8,), 2.0))
    assert fit.outcome == "degenerate"
    assert ("draws together" if bound else "alpha runs to infinity") in str(fit.notes)
    if not bound and states == 1:
        pyro.clear_param_store()
        x = torch.tensor([2.1, 2.7, 3.5, 2.2, 6.0])
        spread = EM(model).fit(x)
        assert spread.converged
        close(spread.params["shape"], (len(x) / (x / 2.0).log().sum()).reshape(1), SOLVERS)


def test_equal_values_under_a_law_of_known_width_have_a_maximum() -> None:
    """A positive centre goes to zero where the values lie below it; the density stays as wide as it is."""

    def model(x: Tensor) -> None:
        centre = pyro.param("centre", torch.tensor(1.0), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.LogNormal(centre, 1.0), obs=x)

    pyro.clear_param_store()
    x = torch.full((10,), 0.5)
    fit = EM(model).fit(x)
    assert fit.outcome == "converged"
    close(torch.tensor(fit.log_likelihood), dist.LogNormal(0.0, 1.0).log_prob(x).sum(), SOLVERS)
