"""`dist.DiscreteHMM` as one site: Baum-Welch in closed form, equal to the loop with an unobserved first state."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM


def parameters() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Initial law, transitions and emissions of two states."""
    initial = pyro.param("initial", tensor([0.7, 0.3]), constraint=constraints.simplex)
    transition = pyro.param("transition", tensor([[0.8, 0.2], [0.3, 0.7]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.5, 2.5]))
    scale = pyro.param("scale", tensor([1.0, 1.4]), constraint=constraints.positive)
    return initial, transition, loc, scale


def site(y: Tensor, seen: Tensor) -> None:
    """One site a batch of sequences."""
    initial, transition, loc, scale = parameters()
    emission = dist.Normal(loc, scale).mask(seen[..., None])
    with pyro.plate("sequence", len(y)):
        hmm = dist.DiscreteHMM(initial.log(), transition.log(), emission, duration=y.shape[1])
        pyro.sample("y", hmm, obs=y)


def loop(y: Tensor, seen: Tensor) -> None:
    """The same, one latent a step; the first of them has no observation."""
    initial, transition, loc, scale = parameters()
    with pyro.plate("sequence", len(y)):
        x = pyro.sample("x_0", dist.Categorical(initial))
        for t in pyro.markov(range(y.shape[1])):
            x = pyro.sample(f"x_{t + 1}", dist.Categorical(transition[x]))
            pyro.sample(f"y_{t}", dist.Normal(loc[x], scale[x]).mask(seen[:, t]), obs=y[:, t])


def data(steps: int) -> tuple[Tensor, Tensor]:
    """Three sequences, the last two shorter."""
    y = torch.randn((3, steps), generator=torch.Generator().manual_seed(3)) + 2 * (torch.arange(steps) // 3 % 2)
    return y, torch.arange(steps) < tensor([steps, steps - 2, steps // 2])[:, None]


@pytest.mark.parametrize("steps", [4, 12])
def test_site_is_the_loop_step_by_step(steps: int) -> None:
    """Below and above the length from which the loop's latents are run as a chain."""
    paths = []
    for model in (site, loop):
        pyro.clear_param_store()
        em = EM(model, tol=0, max_steps=4)
        plan = em.plan(*data(steps))
        assert all(plan[name].closed_form for name in ("initial", "transition", "loc", "scale"))
        paths.append(em.fit(*data(steps)))
    a, b = paths
    assert max(abs(p - q) / (1 + abs(q)) for p, q in zip(a.path, b.path, strict=True)) < IDENTITY
    for name, value in a.params.items():
        assert float((value - b.params[name]).abs().max()) < IDENTITY * (1 + float(value.abs().max()))
    smooth, mode = a.posterior.marginal("y"), a.posterior.mode()["y"]
    for t in range(steps):
        seen = data(steps)[1][:, t]
        assert float((smooth[:, t] - b.posterior.marginal(f"x_{t + 1}"))[seen].abs().max()) < 1e-9
        assert torch.equal(mode[:, t][seen], b.posterior.mode()[f"x_{t + 1}"][seen])


def test_long_chains_are_cut_into_blocks() -> None:
    """Two thousand steps: evidence and statistics as by Pyro's own parallel scan."""
    y = torch.randn((1, 2000), generator=torch.Generator().manual_seed(4))
    seen = torch.ones_like(y, dtype=torch.bool)
    fit = EM(site, tol=0, max_steps=2).fit(y, seen)
    node = pyro.poutine.trace(fit.model).get_trace(y, seen).nodes["y"]
    assert abs(float(node["fn"].log_prob(y).sum()) - fit.log_likelihood) < 1e-9 * abs(fit.log_likelihood)
