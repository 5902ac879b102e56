"""What a fit leaves behind: the param store, modules, and the `Fit` itself."""

import pickle
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.tolerances import IDENTITY
from programs.loops import equal, mixture, points, stored
from programs.registry import build
from pyro.infer import Predictive, TraceEnum_ELBO, config_enumerate, infer_discrete
from torch import Tensor, tensor

from em_pyro import EM, ModelError, ParameterError
from em_pyro.fit.loop import State

# ---- the param store -------------------------------------------------------------------------------------------------


def test_a_fit_starts_from_the_store_and_writes_to_it() -> None:
    """Two fits of five steps are one of ten; nothing but the parameters is left in the store."""
    x = points()
    ten = EM(mixture, tol=0, max_steps=10).fit(x)
    assert set(stored()) == {"weights", "loc", "scale"}
    pyro.clear_param_store()
    for _ in range(2):
        five = EM(mixture, tol=0, max_steps=5).fit(x)
    assert farthest(five.params, ten.params) < IDENTITY
    assert distance(pyro.param("loc"), ten.params["loc"]) < IDENTITY


def _with_a_prior(x: Tensor) -> None:
    """Two normals whose locations have a prior."""
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
    scale = pyro.param("scale", tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


@pytest.mark.parametrize("steps", [True, False], ids=["steps", "fits"])
@pytest.mark.parametrize("starts", [1, 2])
def test_sites_with_a_prior_go_on_too(*, steps: bool, starts: int) -> None:
    """Start 0 of a fit begins where the last step or fit has ended, sites with a prior as all others."""
    x = points()
    em = EM(_with_a_prior, tol=0, max_steps=4, starts=starts)
    if steps:
        losses = [em.step(x) for _ in range(4)]
        assert losses[3] < losses[0] - 1e-3  # nats: there is a path
    else:
        em.fit(x)
    there = em.posterior(x)
    want = there.log_evidence + float(dist.Normal(0.0, 5.0).log_prob(em.params["loc"]).sum())
    em.starts = 1
    assert em.fit(x).path[0] == pytest.approx(want, rel=IDENTITY)


def test_a_scope_isolates() -> None:
    """What a fit writes within a scope is gone after it."""
    x = points()
    mixture(x)
    before = stored()
    with pyro.get_param_store().scope():
        EM(mixture).fit(x)
        assert not equal(stored(), before)
    assert equal(stored(), before)


def test_planning_and_posterior_change_nothing() -> None:
    """Neither the store nor the generator."""
    x = points()
    mixture(x)
    before, state = stored(), torch.get_rng_state()
    em = EM(mixture, starts=3)
    em.plan(x)
    em.posterior(x)
    assert equal(stored(), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("data", [tensor([0.0, float("nan"), 1.0]), torch.zeros(0)], ids=["nan", "empty"])
def test_a_failing_fit_leaves_the_store(data: Tensor) -> None:
    """Bit for bit, whether it was empty or not."""
    with pytest.raises(ValueError, match="expected"):
        EM(mixture).fit(data)
    assert not stored()
    mixture(points())
    before = stored()
    with pytest.raises(ValueError, match="expected"):
        EM(mixture).fit(data)
    assert equal(stored(), before)


def test_a_callback_that_fails_leaves_the_store() -> None:
    """An error in the user's own code is the user's, and nothing is written."""

    def fail(state: State) -> None:
        raise RuntimeError("mine")

    mixture(points())
    before = stored()
    with pytest.raises(RuntimeError, match="mine"):
        EM(mixture, callback=fail).fit(points())
    assert equal(stored(), before)


@pytest.mark.parametrize(
    "name", ["ModuleMixture", "ModuleWithPrior", "DecoratedModule", "NestedLinear", "RegisteredLinear"]
)
def test_modules_hold_the_fitted_values(name: str) -> None:
    """`PyroParam`s and weights are read back from the module itself."""
    case = build(name)
    fit = EM(case.model, tol=0, max_steps=3).fit(*case.args)
    params = {n: v for n, v in fit.params.items() if n not in case.map_values}
    for key, value in params.items():
        owner: Any = case.model
        for part in key.replace("$$$", ".").split("."):
            owner = getattr(owner, part, None) if owner is not None else None
        held = pyro.param(key) if owner is None else owner
        assert distance(held, value) < IDENTITY
    again = EM(case.model, tol=0, max_steps=0).fit(*case.args)
    if not case.map_values:
        assert distance(again.objective, fit.objective) < IDENTITY


def test_no_parameters_is_an_error_of_fit_and_step_only() -> None:
    """A posterior needs none."""

    def model(x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(4.0 * z, 1.0), obs=x)

    x = points()
    assert EM(model).posterior(x).marginal("z").shape == (60, 2)
    calls: list[Callable[..., Any]] = [EM(model).fit, EM(model).step]
    for call in calls:
        with pytest.raises(ModelError, match="parameter"):
            call(x)


# ---- the fit ---------------------------------------------------------------------------------------------------------


def test_a_fit_is_saved_without_its_data() -> None:
    """By pickle and by torch.save: the numbers come back, and what needs the data says that it is gone."""
    x = points(n=3000)
    fit = EM(mixture, starts=2).fit(x)
    assert fit.posterior.log_evidence == pytest.approx(fit.log_likelihood, abs=1e-8)
    file = BytesIO()
    torch.save(fit, file)
    file.seek(0)
    for copy in (pickle.loads(pickle.dumps(fit)), torch.load(file, weights_only=False)):
        assert farthest(copy.params, fit.params) == 0
        assert (copy.path, copy.outcome, copy.objective, copy.gap) == (fit.path, fit.outcome, fit.objective, fit.gap)
        assert str(copy) == str(fit)
        assert str(copy.plan) == str(fit.plan)
        assert copy.plan["loc"].closed_form
        with pytest.raises(ParameterError, match="without"):
            _ = copy.posterior
    assert len(pickle.dumps(fit)) < 3000 * 8


def test_the_fitted_model_is_an_ordinary_pyro_model() -> None:
    """`TraceEnum_ELBO`, `Predictive` and `infer_discrete` work on it without a store."""
    x = points()
    fit = EM(mixture).fit(x)
    pyro.clear_param_store()
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    assert distance(-float(elbo.loss(fit.model, lambda *args: None, x)), fit.log_likelihood) < IDENTITY
    decoded = infer_discrete(fit.model, first_available_dim=-2, temperature=0)
    trace = pyro.poutine.trace(decoded).get_trace(x)
    assert torch.equal(trace.nodes["z"]["value"], fit.posterior.mode()["z"])

    def unobserved(n: int) -> Any:
        return pyro.poutine.uncondition(fit.model)(torch.zeros(n))

    draws = Predictive(unobserved, num_samples=4)(5)
    assert draws["x"].shape == (4, 5)
    assert not stored()


def test_the_store_serves_pyro_after_a_fit() -> None:
    """The user's own model, enumerated by Pyro with the store, has the fitted evidence."""
    x = points()
    fit = EM(mixture).fit(x)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    loss = float(elbo.loss(config_enumerate(mixture), lambda *args: None, x))
    assert distance(-loss, fit.log_likelihood) < IDENTITY


def test_posterior_on_new_data() -> None:
    """At the fitted values, of other rows."""
    x, y = points(), points(n=5, seed=3)
    fit = EM(mixture).fit(x)
    law = fit.posterior_on(y)
    assert law.marginal("z").shape == (5, 2)
    assert distance(law.log_evidence, float(law.log_evidence_by("row").sum())) < IDENTITY
    p = fit.params
    rows = p["weights"].log() + dist.Normal(p["loc"], p["scale"]).log_prob(y[:, None])
    assert distance(law.marginal("z"), rows.softmax(1)) < IDENTITY


def test_a_fit_says_how_it_ended() -> None:
    """Outcome, remedy and values."""
    text = str(EM(mixture, max_steps=1).fit(points()))
    assert "step limit after 1 steps" in text
    assert "raise max_steps" in text
    assert "loc" in text
