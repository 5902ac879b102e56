"""The comparison with the model's own densities: row weights are the engine's, and what is too large is left out."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.confirm import disagreements, measured

X, Y = tensor([3.0, 5.0, 1.0, 5.0]).double(), tensor([0.1, 1.2, -0.7, 0.4]).double()
WEIGHTS = tensor([0.5, 1.0, 2.0, 0.0]).double()


def beside(law: dist.TorchDistribution, x: Tensor, y: Tensor, seen: Tensor | None = None) -> None:
    """Observe `x` beside a mixture, without a latent: its rows are folded."""
    loc = pyro.param("loc", tensor([0.3, -0.4]).double())
    with poutine.scale(scale=WEIGHTS), pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6]).double()))
        pyro.sample("x", law if seen is None else law.mask(seen), obs=x)
        pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)


def rate() -> Tensor:
    """Declare a rate."""
    return pyro.param("rate", tensor(1.45).double(), constraint=constraints.positive)


@pytest.mark.parametrize("seen", [None, tensor([True, False, True, True])], ids=["all", "masked"])
def test_weights_of_a_site_without_latents(seen: Tensor | None) -> None:
    """Its closed form stays, and is the weighted mean."""
    em = EM(lambda: beside(dist.Poisson(rate()), X, Y, seen))
    assert em.plan()["rate"].how == "closed form"
    weights = WEIGHTS if seen is None else WEIGHTS * seen
    close(em.fit().params["rate"], (weights * X).sum() / weights.sum())


@pytest.mark.parametrize(("rows", "compared"), [(20, True), (2000, False)])
def test_categories_count(rows: int, compared: bool) -> None:  # noqa: FBT001
    """The model takes logarithms of all categories in every state of every row: a million entries are too many."""

    def words(word: Tensor) -> None:
        probs = pyro.param("probs", torch.full((2, 300), 1 / 300).double(), constraint=constraints.simplex)
        with pyro.plate("row", len(word)):
            topic = pyro.sample("topic", dist.Categorical(tensor([0.4, 0.6]).double()))
            pyro.sample("word", dist.Categorical(probs[topic]), obs=word)

    em = EM(words, max_steps=1, check=False)
    params = em.fit(torch.arange(rows) % 300).params
    assert (measured(em._prepared.engine, params) is not None) == compared


def sticks(x: Tensor) -> None:
    """Break a stick whose first part may be all of it."""
    with pyro.plate("parts", 2):
        beta = pyro.sample("beta", dist.Beta(tensor(1.0).double(), 0.5))
    rest = torch.cat([torch.ones(1).double(), (1 - beta).cumprod(-1)])
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.cat([beta, torch.ones(1).double()]) * rest))
        pyro.sample("x", dist.Normal(torch.arange(3.0).double()[z], 1.0), obs=x)


@pytest.mark.parametrize("rest", [1e-15, 1e-17, 1e-20])
def test_a_probability_below_rounding_is_the_one_that_torch_takes(rest: float) -> None:
    """What is left of a stick counts for rounding at least, in torch as here: the two are at no odds."""
    em = EM(sticks)
    em.plan(Y)
    params = {"beta": tensor([1 - rest, 0.3]).double()}
    assert disagreements(em._prepared.engine, params) == []
