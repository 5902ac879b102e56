"""Newton's method on `Q` finds the maximum of a regression, whatever its covariates and options."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import item_response, regressions
from oracles.agreement import close
from oracles.engines import laid_out, lay_out
from oracles.m_steps import Model, check_closed, how, same, step, why
from oracles.steps import expect, maximise
from oracles.tolerances import IDENTITY, SOLVERS
from programs.designs import PROGRAMS, bits, counts, design, logistic
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.m_step.maximise import maximise as maximise_batch
from em_pyro.m_step.regression import irls, lines
from em_pyro.m_step.regression.irls import Regression
from em_pyro.m_step.regression.site import Site


def fitted(model: Model, *args: Any, **options: Any) -> Any:
    """Fit in a store of its own."""
    with pyro.get_param_store().scope():
        return EM(model, **options).fit(*args)


def by_irls(x: Any, y: Any, penalty: float = 0.0) -> Any:
    """Iteratively reweighted least squares for a logistic regression, with a Normal prior of that precision."""
    b = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ b))
        hessian = x.T @ ((p * (1 - p))[:, None] * x) + penalty * np.eye(len(b))
        b = b + np.linalg.solve(hessian, x.T @ (y - p) - penalty * b)
    return b


def test_logistic_regression_is_irls() -> None:
    """McCullagh & Nelder (1989), section 2.5, in NumPy: one M-step is the whole fit."""
    x, y = design(3), bits()
    close(step(logistic, x, y).params["b"], by_irls(x.numpy(), y.numpy()))


def test_a_normal_prior_is_a_ridge() -> None:
    """MAP: the prior's precision is added to the Hessian."""

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 0.5).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    x, y = design(3), bits()
    assert "Newton" in why(model, "b", x, y)
    close(fitted(model, x, y).params["b"], by_irls(x.numpy(), y.numpy(), penalty=4.0))


def test_lines_with_many_columns_are_weighted_least_squares() -> None:
    """The linear mixture uses the same design: `X' diag(w) X` for each component."""
    x, y = design(3), 2 * design()[:, 1] + counts()
    found = check_closed(regressions.linear, x, y)
    start, w = found.start, found.start["weights"]
    log_odds = w.log() + dist.Normal(x @ start["coef"].T, start["scale"]).log_prob(y[:, None])
    r = torch.softmax(log_odds, -1)
    for k in range(2):
        same(found.params["coef"][k], torch.linalg.solve(x.T @ (r[:, k, None] * x), x.T @ (r[:, k] * y)))


def test_separable_rows_have_no_finite_maximum() -> None:
    """Newton stops with a likelihood of one in sight, and finite coefficients."""
    x = design()
    fit = fitted(logistic, x, (x[:, 1] > 0).double())
    assert bool(torch.isfinite(fit.params["b"]).all())
    assert fit.path[0] < -10
    assert -1e-8 < fit.objective <= 0


def test_columns_that_depend_on_each_other() -> None:
    """Collinear columns, and a softmax with a row too many: the fit is that of the columns that matter."""
    x, y = design(), bits()
    full = fitted(logistic, torch.cat([x, x[:, :1] - 2 * x[:, 1:]], 1), y)
    close(full.objective, fitted(logistic, x, y).objective)

    def softmax(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", tensor([[0.1, 0.2], [0.3, -0.1]]))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(logits=x @ b.T), obs=y.long())

    found = step(softmax, x, y)
    assert found.how == {"b": "Newton"}
    close(found.params["b"][1] - found.params["b"][0], by_irls(x.numpy(), y.numpy()))


def test_covariates_far_from_zero() -> None:
    """Years as they stand: every probe overflows at first, and the columns differ by a factor of 2,000."""
    x, y = design(), counts()
    year = torch.stack([x[:, 0], 1950 + 30 * x[:, 1]], -1)

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", tensor([0.1, 0.0]))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Poisson((x @ b).exp()), obs=y)

    far, near = step(model, year, y), step(model, x, y)
    assert far.how == {"b": "Newton"}
    close(year @ far.params["b"], x @ near.params["b"], SOLVERS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_batch_of_starts_is_one_by_one(name: str) -> None:
    """Starts in front of every parameter advance as they would alone."""
    built = laid_out(name)
    starts = [built.here, built.there]
    both = {n: torch.stack([start[n] for start in starts]) for n in built.here}
    engine = built.compiled
    together = maximise_batch(engine, built.plan, engine.expect(engine.bind(both)), both)
    for k, start in enumerate(starts):
        alone = maximise(engine, built.plan, expect(engine, start), start)
        for n, value in alone.items():
            close(together[n][k], value, 1e-9)  # two contractions differ in their last digits, and a maximum is flat


@pytest.mark.parametrize("name", PROGRAMS)
def test_sums_over_blocks_are_derivatives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Q`, gradient and Hessian by covariates, in blocks, are those of all rows by differentiation."""
    monkeypatch.setattr(lines, "rows_of", lambda width: 7)
    built = laid_out(name)
    batch = {n: torch.stack([built.here[n], built.there[n]]) for n in built.here}
    sums = built.compiled.expect(built.compiled.bind(batch)).sums
    for solver in (one for one in built.plan.solvers if isinstance(one, Regression)):
        theta = solver.coordinates(batch)
        for site, line, some in zip(solver.sites, solver.lines, solver._sums(sums), strict=True):
            if line is not None:
                found = line.expand(theta, some)
                for got, want in zip(found, irls._expanded(site, theta, some), strict=True):
                    close(got.sum_to_size(want.sum_to_size(got.shape).shape), want.sum_to_size(got.shape))


def test_which_programs_have_derivatives_in_closed_form() -> None:
    """Rates under a logarithm and probabilities under a logit do; two arguments and forbidden classes do not."""
    closed = {
        name
        for name in (*PROGRAMS, "regression-logistic", "regression-poisson")
        for solver in laid_out(name).plan.solvers
        if isinstance(solver, Regression) and any(line is not None for line in solver.lines)
    }
    assert {"poisson_regressions", "regression-logistic", "regression-poisson"} <= closed
    assert not {"three_experts", "gamma_regressions"} & closed


def test_a_predictor_that_overflows_in_a_masked_row() -> None:
    """A rate beyond all numbers in a row without weight is no part of `Q`."""
    x, y = torch.cat([design(), tensor([[1.0, 2e3]])]), torch.cat([counts(), tensor([0.0])])

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", tensor([0.1, 0.2]))
        with pyro.plate("row", len(y)), pyro.poutine.mask(mask=x[:, 1] < 10):
            pyro.sample("y", dist.Poisson((x @ b).exp()), obs=y)

    built = lay_out(model, (x, y))
    (solver,) = (one for one in built.plan.solvers if isinstance(one, Regression))
    batch = {"b": tensor([[0.1, 1.0]])}
    sums = built.compiled.expect(built.compiled.bind({"b": tensor([[0.1, 0.2]])})).sums
    assert all(bool(torch.isfinite(part).all()) for part in solver.expand(batch["b"], [sums["y"]], batch))
    close(step(model, x, y).params["b"], step(model, x[:-1], y[:-1]).params["b"])


# ---- options, and what is solved with what ---------------------------------------------------------------------------


def gamma(x: Tensor, y: Tensor) -> None:
    """A Gamma regression whose concentration is estimated."""
    b = pyro.param("b", tensor([0.1, 0.2]))
    shape = pyro.param("shape", tensor(1.3), constraint=constraints.positive)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Gamma(shape, (x @ b).exp()), obs=y)


def test_a_concentration_is_solved_together_with_the_rates() -> None:
    """One block, one maximum."""
    x, y = design(), counts() + 0.5
    found = step(gamma, x, y)
    assert found.how == {"b": "Newton", "shape": "Newton"}
    assert found.slope <= IDENTITY
    assert "joint maximum" in why(gamma, "shape", x, y)


def test_options_of_a_block() -> None:
    """Asked for, fixed, left to torch or to the user: each is done, and the rest of the block adapts."""
    x, y = design(), counts() + 0.5
    assert step(gamma, x, y, m_step={"b": "closed"}).how == {"b": "Newton", "shape": "Newton"}
    fixed = step(gamma, x, y, m_step={"shape": "fixed"})
    assert fixed.how == {"b": "Newton", "shape": "fixed"}
    same(fixed.params["shape"], tensor(1.3))
    split = step(gamma, x, y, m_step={"shape": "torch"})
    assert split.how == {"b": "swept", "shape": "torch"}
    same(split.params["b"], step(gamma, x, y).params["b"], SOLVERS)
    assert step(gamma, x, y, m_step={"b": "torch"}).how == {"b": "torch", "shape": "swept"}


def test_float32_is_found_too() -> None:
    """Parameters and data of float32."""
    x, y = design().float(), bits().float()

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", torch.full((2,), 0.1, dtype=torch.float32))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    assert how(model, x, y) == {"b": "Newton"}
    close(fitted(model, x, y).params["b"], by_irls(x.double().numpy(), y.double().numpy()), 1e-5)  # six digits


def test_an_empty_component_is_named_and_an_empty_node_is_not() -> None:
    """Coefficients that no row uses are an empty state; nodes of a rule share theirs, and may be empty."""
    x, y = design(), counts()
    start = {"weights": tensor([1.0 - 1e-14, 1e-14]), "coef": tensor([[0.5, 0.9], [-9.0, 0.0]])}
    assert fitted(regressions.poisson, x, y, starts=start, max_steps=1).outcome == "empty state"
    answers = torch.stack([bits(), 1 - bits(), bits().roll(1)], -1)
    assert fitted(item_response.rasch, answers, 201).outcome == "converged"


# ---- planted faults --------------------------------------------------------------------------------------------------


def test_a_hessian_that_is_off_still_leads_to_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curvature 1 % too big: slower, and exact all the same."""
    x, y = design(3), bits()
    truth, expand = by_irls(x.numpy(), y.numpy()), Regression.expand

    def wrong(self: Any, *args: Any) -> Any:
        value, slope, curvature = expand(self, *args)
        return value, slope, 1.01 * curvature

    monkeypatch.setattr(Regression, "expand", wrong)
    close(step(logistic, x, y).params["b"], truth, 1e-9)  # the last digit that a slope of 1e-10 leaves
    assert not fitted(logistic, x, y).notes


def test_a_gradient_that_is_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Successes 0.1 % too many: the trial withdraws the block, and the fit ends at the maximum by torch."""
    x, y = design(3), bits()
    truth, counted = by_irls(x.numpy(), y.numpy()), Site.counted

    def wrong(self: Any, found: Any) -> Any:
        sums = counted(self, found)
        return replace(sums, parts=(1.001 * sums.parts[0], *sums.parts[1:]))

    monkeypatch.setattr(Site, "counted", wrong)
    assert step(logistic, x, y).slope > IDENTITY
    fit = fitted(logistic, x, y)
    assert any("withdrawn" in note for note in fit.notes)
    close(fit.params["b"], truth, SOLVERS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("law", ["Poisson", "Bernoulli", "Binomial"])
def test_states_in_which_a_rate_is_zero(law: str, dtype: torch.dtype) -> None:
    """`rate * z` of zero-inflated counts and of occupancy: no row of `z = 0` has a logarithm that counts."""

    def model(x: Tensor, y: Tensor) -> None:
        there = pyro.param("there", tensor(0.5, dtype=dtype), constraint=constraints.unit_interval)
        b = pyro.param("b", torch.zeros(2, dtype=dtype))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(there))
            eta = b[0] + b[1] * x
            at = {"Poisson": eta.exp(), "Bernoulli": eta.sigmoid(), "Binomial": eta.sigmoid()}[law] * z
            family = {"Poisson": dist.Poisson, "Bernoulli": dist.Bernoulli, "Binomial": lambda p: dist.Binomial(3, p)}
            pyro.sample("y", family[law](at), obs=y)

    x = torch.linspace(-1.0, 2.0, 24).to(dtype)
    y = (torch.arange(24) * 5 % 7 % (2 if law == "Bernoulli" else 4)).to(dtype) * (torch.arange(24) % 3 > 0)
    fit = fitted(model, x, y)
    assert how(model, x, y)["b"] == "Newton"
    assert not any("withdrawn" in note for note in fit.notes), fit.notes
    replayed = fitted(model, x, y, m_step={"b": "torch"}, starts=dict(fit.params))  # from where it ended
    close(fit.log_likelihood, replayed.log_likelihood, SOLVERS)
