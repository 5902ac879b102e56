"""What EM takes in and hands out: starts that count everywhere, values that are the reader's own, threads."""

import copy
import pickle
import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.tolerances import IDENTITY
from programs.loops import mixture, points, stored
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, EMError, select
from em_pyro.fit.loop import State


def with_prior(x: Tensor) -> None:
    """Mix two Normals, whose locations have a prior."""
    scale = pyro.param("scale", lambda: torch.ones(2, dtype=x.dtype), constraint=constraints.positive)
    with pyro.plate("state", 2):
        loc = pyro.sample("loc", dist.Normal(tensor(0.0, dtype=x.dtype), 5.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5], dtype=x.dtype)))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def chain(x: Tensor) -> None:
    """Follow two states."""
    loc = pyro.param("loc", lambda: tensor([-1.0, 3.0], dtype=x.dtype))
    stay = pyro.param("stay", lambda: tensor(0.6, dtype=x.dtype), constraint=constraints.unit_interval)
    rows = torch.stack([torch.stack([stay, 1 - stay]), torch.stack([1 - stay, stay])])
    z: Any = 0
    for t in pyro.markov(range(len(x))):
        z = pyro.sample(f"z_{t}", dist.Categorical(rows[z]))
        pyro.sample(f"x_{t}", dist.Normal(loc[z], 1.0), obs=x[t])


MODELS = {"prior": with_prior, "chain": chain}


# ---- starts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "listed"),
    [
        ("prior", torch.float32, False), ("prior", torch.float64, True),
        ("chain", torch.float32, True), ("chain", torch.float64, False),
    ],
)  # fmt: skip
def test_a_saved_fit_is_taken_up_again(name: str, dtype: torch.dtype, listed: bool) -> None:  # noqa: FBT001
    """`params`, `posterior` and `step` begin at `starts`; what they do afterwards goes on from there."""
    x = points(n=8).to(dtype)
    fit = pickle.loads(pickle.dumps(EM(MODELS[name], max_steps=1, tol=0).fit(x)))
    pyro.clear_param_store()
    starts = [fit.params, fit.params] if listed else fit.params
    em = EM(MODELS[name], starts=starts)
    assert farthest(em.params, fit.params) == 0
    slack = 1e-5 if dtype == torch.float32 else IDENTITY
    assert em.posterior(x).log_evidence == pytest.approx(fit.log_likelihood, rel=slack)
    assert not stored()
    assert farthest(em.params, fit.params) == 0
    assert -em.step(x) == pytest.approx(fit.objective, rel=slack)
    assert farthest(em.params, fit.params) > 0
    second = -em.step(x)
    assert second > fit.objective - slack
    assert second == pytest.approx(EM(MODELS[name], starts=fit.params, max_steps=1, tol=0).fit(x).objective, rel=slack)


def test_partial_starts_and_numbers_of_starts() -> None:
    """What is not given is the store's; a number of starts means the first of them."""
    x = points()
    em = EM(mixture, starts={"loc": tensor([0.0, 4.0])})
    em.plan(x)
    assert torch.equal(em.params["loc"], tensor([0.0, 4.0]))
    assert torch.equal(em.params["scale"], tensor([1.5, 1.5]))
    first = EM(mixture, starts=3).step(x)
    pyro.clear_param_store()
    assert -first == pytest.approx(EM(mixture, tol=0, max_steps=0).fit(x).objective, rel=IDENTITY)
    pyro.clear_param_store()
    em.step(x)
    assert torch.equal(em.params["loc"], pyro.param("loc").detach())
    assert not torch.equal(em.params["loc"], tensor([0.0, 4.0]))


# ---- values that are the reader's own --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_what_is_done_to_values_reaches_nobody(name: str) -> None:
    """Those of a `Fit`, of a `State` and of `params`, and those that were given as starts."""
    x = points(n=8)
    want = EM(MODELS[name], max_steps=5, tol=0).fit(x)

    def scribble(state: State) -> None:
        for value in state.params.values():
            value.fill_(50.0)

    pyro.clear_param_store()
    given = {name: value.clone() for name, value in want.params.items()}
    em = EM(MODELS[name], callback=scribble, max_steps=5, tol=0)
    fit = em.fit(x)
    assert fit.path == want.path
    for values in (fit.params, em.params):
        for value in values.values():
            value.fill_(0.3)
    assert farthest(fit.params, given) == 0
    assert farthest(em.params, given) < IDENTITY
    assert fit.posterior.log_evidence == pytest.approx(fit.log_likelihood, rel=IDENTITY)
    still = EM(MODELS[name], starts=given, max_steps=0).fit(x)
    for value in given.values():
        value.fill_(0.3)
    assert farthest(still.params, want.params) == 0


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_copy_answers_as_the_fit_does(how: Callable[[Any], Any], dtype: torch.dtype) -> None:
    """With its posterior, of the data and of others; a copy that goes through a file says what it lacks."""
    x = points(n=8).to(dtype)
    fit = EM(chain, max_steps=5).fit(x)
    other = how(fit)
    assert other.posterior.log_evidence == fit.posterior.log_evidence
    assert torch.equal(other.posterior.marginal("z_3"), fit.posterior.marginal("z_3"))
    assert other.posterior_on(x).log_evidence == fit.posterior_on(x).log_evidence
    assert str(other) == str(fit)
    file = BytesIO()
    torch.save(other, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert farthest(loaded.params, fit.params) == 0
    assert (loaded.path, str(loaded)) == (fit.path, str(fit))
    assert EM(chain, starts=loaded.params).posterior(x).log_evidence == pytest.approx(
        float(fit.posterior.log_evidence), rel=1e-6
    )


# ---- a tensor that is not fitted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["table", "network", "data", "transition"])
def test_what_takes_a_gradient_and_is_no_parameter_is_named(where: str) -> None:
    """By site, in the plan and in the notes of the fit; what is detached or registered is not."""
    net = torch.nn.Linear(1, 2)
    loc = tensor([0.0, 3.0]).requires_grad_()
    x = points(n=8)

    def model(x: Tensor, grads: str) -> None:
        scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
        at = {"table": loc, "network": net(torch.ones(1))}.get(where, loc.detach())
        at = at if grads else at.detach()
        with pyro.plate("row", len(x)):
            logits = loc * 0.1 if where == "transition" and grads else torch.zeros(2)
            z = pyro.sample("z", dist.Categorical(logits=logits))
            pyro.sample("x", dist.Normal(at[z], scale[z]), obs=x)

    given = x.clone().requires_grad_() if where == "data" else x
    named = 'site "z"' if where == "transition" else 'site "x"'
    said = [str(EM(model).plan(given, "yes")), " ".join(EM(model, max_steps=2).fit(given, "yes").notes)]
    assert all(named in text and "not fitted" in text for text in said)
    if where != "data":
        assert "not fitted" not in str(EM(model).plan(x, ""))


def test_parameters_are_not_called_foreign() -> None:
    """Those of the store, of a module, and sites with a prior."""
    net = torch.nn.Linear(1, 2)

    def model(x: Tensor) -> None:
        pyro.module("net", net)
        scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
        more = pyro.param("more", tensor(0.0))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal((net(torch.ones(1)) + more)[z], scale), obs=x)

    assert "not fitted" not in str(EM(model).plan(points(n=8)))


# ---- threads ---------------------------------------------------------------------------------------------------------


def test_another_thread_is_refused_and_ones_own_is_not() -> None:
    """Pyro's handlers are global; a callback may ask and fit, and the other thread may when this one is done."""
    x, told = points(), list[BaseException]()

    def elsewhere() -> None:
        try:
            EM(mixture).posterior(x)
        except EMError as error:
            told.append(error)

    def watch(state: State) -> None:
        if state.step == 2:
            other = threading.Thread(target=elsewhere)
            other.start()
            other.join()
            with pyro.get_param_store().scope():
                EM(mixture, max_steps=1).fit(points(seed=1))

    want = EM(mixture, max_steps=5, tol=0).fit(x).path
    pyro.clear_param_store()
    assert EM(mixture, max_steps=5, tol=0, callback=watch).fit(x).path == want
    assert len(told) == 1
    assert "another" in str(told[0])
    elsewhere()
    assert len(told) == 1
    with pytest.raises(ZeroDivisionError):
        EM(mixture, callback=lambda state: 1 / 0).fit(x)
    other = threading.Thread(target=elsewhere)
    other.start()
    other.join()
    assert len(told) == 1, "an error leaves the door open"
    assert distance(EM(mixture, max_steps=0).fit(x).objective, want[0]) >= 0


# ---- records hold tensors, which have no one truth value: each is equal to itself ---------------------------------


def test_a_fit_can_be_looked_for_among_others() -> None:
    """In a list or a set; so can what was asked of it, and what a callback was given."""
    states = list[State]()
    fits = [EM(mixture, callback=lambda state: states.append(state)).fit(points(n=8) + shift) for shift in (0.0, 0.1)]
    models = {name: select(lambda K: mixture, [2], points(n=8)) for name in "ab"}
    pairs: list[Any] = [fits, [fit.posterior for fit in fits], [fit.information() for fit in fits], states[:2]]
    for one, other in [*pairs, list(models.values())]:
        assert one == one  # noqa: PLR0124
        assert one != other
        assert one not in [other]
        assert {one, other} == {other, one}
