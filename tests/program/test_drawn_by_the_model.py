"""Random numbers that a model draws outside of `pyro.sample`: refused where its sites hang on them, else left alone."""

from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError

X = torch.cat([torch.linspace(-3.0, -1.0, 6), torch.linspace(1.0, 3.0, 6)]).double()

DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "Categorical": lambda w: dist.Categorical(w).sample(),
    "Categorical, by rows": lambda w: dist.Categorical(w).sample((12,)),
    "OneHotCategorical": lambda w: dist.OneHotCategorical(w).sample().argmax(-1),
    "Bernoulli": lambda w: dist.Bernoulli(w[0]).sample().long(),
    "a rare one": lambda w: torch.bernoulli(tensor(1e-9)).long(),
    "in place": lambda w: torch.empty(()).bernoulli_(0.999).long(),
    "Binomial": lambda w: dist.Binomial(1, w[0]).sample().long(),
    "rand": lambda w: (torch.rand(()) < 0.999).long(),
    "randn": lambda w: (torch.randn(()) > 2.0).long(),
    "Gumbel": lambda w: (w.log() + dist.Gumbel(0.0, 1.0).sample((2,))).argmax(-1),
    "randint": lambda w: torch.randint(2, ()),
    "randint, from": lambda w: torch.randint(0, 2, ()),
    "randperm": lambda w: torch.randperm(2)[0],
    "multinomial": lambda w: torch.multinomial(w, 1)[0],
    "Poisson": lambda w: dist.Poisson(w[0]).sample().long().clamp(max=1),
}


def mixture(draw: Callable[[Tensor], Tensor], *, latents: bool) -> None:
    """States that are drawn as from any distribution of torch's; beside these, a latent that Pyro knows of or not."""
    weights = pyro.param("weights", tensor([0.5, 0.5], dtype=torch.float64), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-1.0, 1.0], dtype=torch.float64))
    z = draw(weights)
    with pyro.plate("rows", 12):
        shift = pyro.sample("shift", dist.Bernoulli(weights[0])) if latents else 0.0
        pyro.sample("x", dist.Normal(loc[z] + shift, 1.0), obs=X)


@pytest.mark.parametrize("latents", [False, True])
@pytest.mark.parametrize("draw", DRAWS)
def test_states_that_the_model_draws(draw: str, *, latents: bool) -> None:
    """One throw for all rows is often the same in several runs: a fit of one state had converged."""
    with pytest.raises(ModelError, match='Site "x": expected argument "loc" to be the same in every run'):
        EM(mixture).plan(DRAWS[draw], latents=latents)


def test_starts_may_be_drawn() -> None:
    """They are drawn in every run of the model, and taken once."""

    def model() -> None:
        weights = pyro.param("weights", torch.rand(2).softmax(-1), constraint=constraints.simplex)
        loc = pyro.param("loc", X[torch.randperm(12)[:2]])
        with pyro.plate("rows", 12):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=X)

    before = torch.get_rng_state()
    assert EM(model).fit().converged
    assert torch.equal(before, torch.get_rng_state())


def test_a_draw_that_leads_nowhere() -> None:
    """A model that cannot run at the ends of its draws is told nothing of them, and no error of it is swallowed."""

    def model() -> None:
        unused = torch.rand(3)
        torch.linalg.cholesky(unused * torch.eye(3) + (unused < 1e-5) * torch.ones(3, 3) * -1.0)
        loc = pyro.param("loc", tensor([-1.0, 1.0], dtype=torch.float64))
        with pyro.plate("rows", 12):
            z = pyro.sample("z", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=X)

    assert EM(model).fit().converged


def test_dropout() -> None:
    """A network that drops units is another one in every run; in evaluation it is not."""
    net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 2)).double()

    def model() -> None:
        pyro.module("net", net)
        with pyro.plate("rows", 12):
            z = pyro.sample("z", dist.Categorical(logits=net(X.unsqueeze(-1))))
            pyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=X)

    with pytest.raises(ModelError, match="to be the same in every run"):
        EM(model).plan()
    net.eval()
    assert np.isfinite(EM(model).posterior().log_evidence)
