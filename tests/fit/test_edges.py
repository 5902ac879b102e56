"""Fits that end where nothing is finite: a shape without bound, a logit at infinity."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ObjectiveError
from em_pyro.families.extremes import Weibull
from em_pyro.m_step.regression.irls import Regression

HALF = tensor([0.5, 0.5]).double()


@pytest.mark.parametrize("known", [False, True], ids=["free", "known"])
def test_a_weibull_component_on_one_row(known: bool) -> None:  # noqa: FBT001
    """Its likelihood grows with the shape for ever, whether the scale is free or stands on the row."""
    x = tensor([0.62, 1.67, 1.8, 1.95, 2.44]).double()

    def model(x: Tensor) -> None:
        first = tensor([1.1, 0.62 if known else 0.545]).double()
        scale = first if known else pyro.param("scale", first, constraint=constraints.positive)
        shape = pyro.param(
            "shape", tensor([1.2, 400.0 if known else 11.7649]).double(), constraint=constraints.positive
        )
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(HALF))
            pyro.sample("x", dist.Weibull(scale[z], shape[z]), obs=x)

    fit = EM(model, max_steps=50).fit(x)
    assert fit.outcome == "degenerate", fit
    assert any("concentration runs to infinity" in note for note in fit.notes)


def test_the_shape_of_equal_values_beside_a_known_scale() -> None:
    """It is finite: `1 / k + r - r exp(k r) = 0` with `r = log(x / scale)`."""

    def model(x: Tensor) -> None:
        shape = pyro.param("shape", tensor(1.0).double(), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Weibull(tensor(1.0).double(), shape), obs=x)

    fit = EM(model).fit(tensor([2.0, 2.0, 2.0]).double())
    assert not fit.notes  # the closed form has not been withdrawn
    k, r = float(fit.params["shape"]), tensor(2.0).double().log()
    close(1 / k + r - r * (k * r).exp(), 0.0)


@pytest.mark.parametrize("law", [dist.Bernoulli, lambda logits: dist.Binomial(3, logits=logits)], ids=["one", "three"])
def test_the_model_has_a_value_where_logits_run_off(law: object) -> None:
    """An item that all solve: the fitted program gives the log-likelihood that the fit states, and a note names it."""
    y = tensor([0.3, -1.0, 2.0, 0.4]).double()
    x = torch.ones(4).double() if law is dist.Bernoulli else torch.full((4,), 3.0).double()

    def model() -> None:
        ease = pyro.param("ease", tensor([0.3, -0.8]).double())
        with pyro.plate("row", 4):
            z = pyro.sample("z", dist.Categorical(HALF))
            pyro.sample("x", law(logits=ease[z]), obs=x)  # type: ignore[operator]
            pyro.sample("y", dist.Normal(z.double(), 1.0), obs=y)

    fit = EM(model).fit()
    assert all(value.isfinite().all() for value in fit.params.values())
    assert any("ease" in note for note in fit.notes)
    program = poutine.substitute(model, data=fit.params)
    states = [poutine.trace(poutine.condition(program, data={"z": torch.full((4,), k)})).get_trace() for k in (0, 1)]
    rows = [sum(node["fn"].log_prob(node["value"]) for n, node in t.nodes.items() if n in "xyz") for t in states]
    close(torch.stack(rows).logsumexp(0).sum(), fit.log_likelihood)


def test_a_spike_is_no_fault_of_an_m_step() -> None:
    """A shape that runs off inside groups takes the digits of the density with it: no fall is made of that."""
    x, seen = tensor([[0.47, 0.83], [1.47, 1.01]]).double(), tensor([[True, True], [False, True]])

    def model() -> None:
        shares = pyro.param("shares", tensor([0.281, 0.719]).double(), constraint=constraints.simplex)
        scale = pyro.param("scale", tensor([[-0.182, -0.093], [-0.181, -0.118]]).double())
        shape = pyro.param("shape", tensor([[3.9, 5.41], [3.94, 4.84]]).double(), constraint=constraints.positive)
        with pyro.plate("group", 2, dim=-2):
            g = pyro.sample("g", dist.Categorical(shares))
            with pyro.plate("row", 2, dim=-1):
                z = pyro.sample("z", dist.Categorical(tensor([0.71, 0.29]).double()))
                pyro.sample("x", dist.Weibull(scale[g, z].exp(), shape[g, z]).mask(seen), obs=x)

    fit = EM(model, max_steps=60).fit()
    assert fit.outcome == "degenerate", fit
    assert any("concentration runs to infinity" in note for note in fit.notes)


def test_newton_ends_where_a_rise_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a `Q` with few digits: a step that is cut until nothing is left of its promise is the last."""
    x, evaluations = torch.linspace(-3.0, 3.0, 40).double(), 0
    y = (torch.sin(7.0 * x) + 0.5 * x > 0).double()
    expand = Regression.expand

    def rough(self: Regression, theta: Tensor, *args: Any) -> Any:
        nonlocal evaluations
        evaluations += 1
        value, slope, curvature = expand(self, theta, *args)
        return value + 1e-4 * (1e6 * theta.sum()).sin(), slope, curvature

    def model() -> None:
        level, slope = pyro.param("level", tensor(1.0).double()), pyro.param("slope", tensor(-1.0).double())
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=level + slope * x), obs=y)

    monkeypatch.setattr(Regression, "expand", rough)
    EM(model).step()
    assert 0 < evaluations < 100


def masked(x: Tensor, seen: Tensor) -> None:
    """A chain with a family that is replayed, of which some steps are not seen."""
    scale = pyro.param("scale", tensor([0.5, 2.0]).double(), constraint=constraints.positive)
    s = 0
    for t in pyro.markov(range(len(x))):
        s = pyro.sample(f"s_{t}", dist.Categorical(tensor([[0.8, 0.2], [0.3, 0.7]]).double()[s]))
        pyro.sample(f"x_{t}", dist.HalfNormal(scale[s]).mask(seen[t]), obs=x[t])


def test_steps_that_are_not_seen_have_no_spread() -> None:
    """Their scale has no unit, and nothing is said of it."""
    fit = EM(masked).fit(tensor([0.3, 9.0, 2.0, 1.1]).double(), tensor([True, False, True, True]))
    assert fit.outcome == "converged"


def test_a_step_leaves_values_at_which_the_model_has_one() -> None:
    """As a fit does: a logit that runs to infinity is far out."""
    y = torch.zeros(4).double()

    def model() -> None:
        ease = pyro.param("ease", tensor(0.3).double())
        with pyro.plate("row", 4):
            pyro.sample("y", dist.Bernoulli(logits=ease), obs=y)

    em = EM(model)
    em.step()
    close(poutine.trace(model).get_trace().log_prob_sum().detach(), 0.0)


def test_a_step_to_infinity_is_refused_before_it_is_kept() -> None:
    """The precision of one row has no bound: the error says so, and the store holds what it held."""

    def model(x: Tensor) -> None:
        loc, p = pyro.param("loc", tensor(0.2)), pyro.param("p", tensor(0.6), constraint=constraints.positive)
        with pyro.plate("row", 1):
            pyro.sample("x", dist.Normal(loc, 1 / p), obs=x)

    with pytest.raises(ObjectiveError, match='"?p'):
        EM(model).step(tensor([1.04]))
    assert not len(pyro.get_param_store()) or bool(pyro.param("p").isfinite())


def test_the_shape_of_a_row_beside_hardly_any_others() -> None:
    """The equation holds whatever the weights: `1 / k = mean(x^k log x) / mean(x^k) - mean(log x)`."""
    y, weights = tensor([[0.7, 0.0, -1.4]]).double(), tensor([[1e-115, 1.0, 1e-27]]).double()
    args = {"scale": torch.ones(1).double(), "concentration": torch.ones(1).double()}
    k = Weibull().solve_rows(y.exp(), weights, args, frozenset(args))["concentration"]
    power = (weights.log() + k.unsqueeze(-1) * y).softmax(-1)
    close((power * y).sum(-1) - (weights * y).sum(-1), 1 / k)


@pytest.mark.parametrize("argument", ["covariance_matrix", "precision_matrix"])
def test_a_matrix_that_has_lost_its_root_is_an_ending(argument: str) -> None:
    """Rows on a line, to rounding: whatever the matrix has become, the store holds one that the model runs with."""
    for tilt in torch.linspace(0.1, 3.0, 12):
        t = torch.randn(40, generator=torch.Generator().manual_seed(0))
        x = torch.stack([t, -8 * t], -1) @ torch.tensor([[tilt.cos(), tilt.sin()], [-tilt.sin(), tilt.cos()]])

        def model(x: Tensor) -> None:
            weights = pyro.param("weights", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
            loc = pyro.param("loc", torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
            matrix = pyro.param("matrix", torch.eye(2), constraint=constraints.positive_definite)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Categorical(weights))
                pyro.sample("x", dist.MultivariateNormal(loc[z], **{argument: matrix}), obs=x)

        pyro.clear_param_store()
        fit = EM(model).fit(x)
        assert fit.outcome == "degenerate"
        assert bool(torch.isfinite(pyro.param("matrix")).all())
        assert not bool(torch.linalg.cholesky_ex(pyro.param("matrix").detach()).info)


@pytest.mark.parametrize("start", [-2.0, -50.0])
def test_a_level_half_line_does_not_rise(start: float) -> None:
    """Before a rectifier the objective is the same however far: a maximum, of which no value is told."""

    def model(x: Tensor) -> None:
        more, loc = pyro.param("more", torch.tensor(start)), pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, (1.0 + more.relu())), obs=x)

    pyro.clear_param_store()
    fit = EM(model).fit(torch.tensor([-1.0, 0.2, 0.9, 0.3]))
    notes = str(fit.notes)
    assert 'level from here to minus infinity: "more"' in notes
    assert "rises" not in notes
