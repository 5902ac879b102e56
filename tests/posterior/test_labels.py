"""A partly labelled latent has the user's name everywhere, and labelled rows are their labels."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from pyro.contrib.autoname import scope
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, Posterior

WEIGHTS = tensor([0.3, 0.7], dtype=torch.float64)
LOC = tensor([-0.5, 1.5], dtype=torch.float64)


def rows(x: Tensor, label: Tensor, known: Tensor) -> None:
    """Know the class of some rows."""
    weights = pyro.param("weights", WEIGHTS.to(x), constraint=constraints.simplex)
    loc = pyro.param("loc", LOC.to(x))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights), obs=label, obs_mask=known)
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def in_two_plates(x: Tensor, label: Tensor, known: Tensor) -> None:
    """Know some of the classes of an outer plate: the value has a dimension of size one."""
    weights = pyro.param("weights", WEIGHTS.to(x), constraint=constraints.simplex)
    loc = pyro.param("loc", LOC.to(x))
    with pyro.plate("groups", len(x), dim=-2):
        z = pyro.sample("z", dist.Categorical(weights), obs=label[:, None], obs_mask=known[:, None])
        with pyro.plate("members", 1, dim=-1):
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x[:, None])


def coins(x: Tensor, label: Tensor, known: Tensor) -> None:
    """Know the values of some Bernoulli latents."""
    weight = pyro.param("weight", WEIGHTS[1].to(x), constraint=constraints.unit_interval)
    loc = pyro.param("loc", LOC.to(x))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(weight), obs=label.to(x), obs_mask=known)
        pyro.sample("x", dist.Normal(loc[0] + (loc[1] - loc[0]) * z, 1.0), obs=x)


X, LABEL = tensor([-1.0, 2.0, 0.4, 1.9, -0.7], dtype=torch.float64), torch.tensor([1, 0, 0, 0, 0])
KNOWN = torch.tensor([True, True, False, False, False])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("model", [rows, in_two_plates, coins])
def test_labels(model: Callable[[Tensor, Tensor, Tensor], None], dtype: torch.dtype) -> None:
    """Marginals, mode and draws are labels where there are some, and Bayes' rule elsewhere."""
    law = EM(model).posterior(X.to(dtype), LABEL, KNOWN)
    share = (dist.Normal(LOC, 1.0).log_prob(X[:, None]) + WEIGHTS.log()).softmax(-1)
    share = torch.where(KNOWN[:, None], torch.nn.functional.one_hot(LABEL, 2).double(), share)
    shape = (5, 1) if model is in_two_plates else (5,)
    close(law.marginal("z"), share.reshape((*shape, 2)), 1e-6 if dtype is torch.float32 else 1e-10)
    mode, draws = law.mode(), law.sample(2000, seed=1)
    assert set(mode) == {"z"} == set(draws)
    assert torch.equal(mode["z"].long(), share.argmax(-1).reshape(shape))
    assert draws["z"].shape == (2000, *shape)
    assert bool((draws["z"].reshape(2000, 5)[:, :2] == LABEL[:2]).all())
    assert bool(((draws["z"].reshape(2000, 5).double().mean(0) - share[:, 1]).abs() < 0.06).all())


def test_chain() -> None:
    """The states of some steps are known: those between are drawn given them."""

    def chain(y: Tensor, label: Tensor, known: Tensor) -> None:
        stay = pyro.param("stay", tensor(0.9), constraint=constraints.unit_interval)
        z = torch.tensor(0)
        with pyro.plate("sequences", len(y)):
            for t in pyro.markov(range(y.shape[1])):
                one = torch.where(z == 1, stay, 1 - stay) if t else tensor(0.5)
                law = dist.Categorical(torch.stack([1 - one, one], -1))
                z = pyro.sample(f"z_{t}", law, obs=label[:, t], obs_mask=known[:, t])
                pyro.sample(f"y_{t}", dist.Normal(z.double(), 5.0), obs=y[:, t])

    label = torch.tensor([[1, 0, 1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]])
    known = torch.zeros(2, 10, dtype=torch.bool)
    known[0, :3] = known[1, -1] = True
    law = EM(chain).posterior(torch.full((2, 10), 0.5), label, known)
    mode, draws = law.mode(), law.sample(50)
    assert list(mode) == [f"z_{t}" for t in range(10)]
    assert torch.stack([mode[f"z_{t}"] for t in range(10)], -1).tolist() == [[1, 0, *[1] * 8], [1] * 10]
    every = torch.stack([draws[f"z_{t}"] for t in range(10)], -1)
    assert bool((every == label)[:, known].all())
    assert len(every.unique(dim=0)) > 10


def test_nobody_sees_halves() -> None:
    """The plan, the fit, its posterior and the errors speak of `z`."""
    em = EM(coins, max_steps=3)
    fit = em.fit(X, LABEL, KNOWN)
    with pytest.raises(DataError) as refusal:
        fit.posterior_on(X, 7 * LABEL, KNOWN)
    for text in (str(em.plan(X, LABEL, KNOWN)), str(fit), str(fit.posterior), str(refusal.value)):
        assert "z_" not in text
        assert "[labels]" not in text
    assert 'Site "z": expected values within' in str(refusal.value)


def test_a_name_that_the_user_wrote() -> None:
    """A user's own `z_unobserved` stays what it is."""

    def halves(x: Tensor) -> None:
        loc = pyro.param("loc", LOC)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z_unobserved", dist.Categorical(WEIGHTS))
            pyro.sample("x_observed", dist.Normal(loc[z], 1.0), obs=x)

    law: Posterior = EM(halves).posterior(X)
    assert set(law.mode()) == {"z_unobserved"}


def test_new_labels() -> None:
    """Other rows may be labelled in other places, or nowhere."""
    fit = EM(rows, max_steps=3).fit(X, LABEL, KNOWN)
    share = (dist.Normal(fit.params["loc"], 1.0).log_prob(X[:, None]) + fit.params["weights"].log()).softmax(-1)
    close(fit.posterior_on(X, LABEL, KNOWN & False).marginal("z"), share)
    assert fit.posterior_on(X, LABEL, KNOWN | True).mode()["z"].tolist() == LABEL.tolist()


def test_a_prefix() -> None:
    """A handler may put a prefix before the name."""
    assert set(EM(scope(rows, prefix="a")).posterior(X, LABEL, KNOWN).mode()) == {"a/z"}


@pytest.mark.parametrize("code", [-1, 99])
@pytest.mark.parametrize("model", [rows, in_two_plates])
def test_what_stands_for_an_unknown_label(model: Callable[[Tensor, Tensor, Tensor], None], code: int) -> None:
    """Whatever number it is, nobody looks at it; where a label is known it is refused."""
    coded = torch.where(KNOWN, LABEL, code)
    plain = EM(model).fit(X, LABEL, KNOWN)
    pyro.clear_param_store()
    fit = EM(model).fit(X, coded, KNOWN)
    assert fit.log_likelihood == plain.log_likelihood
    close(fit.posterior_on(X, coded, KNOWN).marginal("z"), plain.posterior.marginal("z"), 1e-10)
    with pytest.raises(DataError, match=f"got {code} at index"):
        EM(model).fit(X, coded, ~KNOWN)
