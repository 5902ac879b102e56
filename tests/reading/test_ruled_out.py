"""Categories that a row rules out by a logit far down: what stands there is no digit of any parameter."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

N, C = 40, 4
FAR = pytest.mark.parametrize("far", [-torch.inf, -1e4, -1e9, -1e30, torch.finfo(torch.float64).min])


def choices() -> tuple[Tensor, Tensor, Tensor]:
    """Covariates of alternatives, which of them each row has (none of them is had by all rows), and what it chose."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N, C, 2, generator=generator, dtype=torch.float64)
    offered = torch.rand(N, C, generator=generator) < 0.6
    offered[torch.arange(N), torch.arange(N) % C] = True
    offered[torch.arange(N), (torch.arange(N) + 1) % C] = False
    return x, offered, torch.multinomial(offered.double(), 1, generator=generator)[:, 0]


def classes(x: Tensor, offered: Tensor, chosen: Tensor, far: float) -> None:
    """Mix two conditional logits."""
    share = pyro.param("share", tensor([0.6, 0.4]).to(x), constraint=constraints.simplex)
    taste = pyro.param("taste", tensor([[0.5, 0.0], [-0.5, 0.3]]).to(x))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(share))
        utility = (x * taste[z].unsqueeze(-2)).sum(-1)
        pyro.sample("chosen", dist.Categorical(logits=utility.masked_fill(~offered, far)), obs=chosen)


def rankings(x: Tensor, offered: Tensor, chosen: Tensor, far: float) -> None:
    """Mix two laws of Plackett and Luce: what was chosen before is added to minus infinity."""
    order = x[..., 0].argsort(-1)
    share = pyro.param("share", tensor([0.6, 0.4]).to(x), constraint=constraints.simplex)
    worth = pyro.param("worth", tensor([[0.0, 0.1, 0.2, -0.1], [0.3, -0.2, 0.0, 0.1]]).to(x))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(share))
        for k in range(C - 1):
            gone = torch.zeros_like(x[..., 0]).scatter(-1, order[:, :k], far)
            pyro.sample(f"place{k}", dist.Categorical(logits=worth[z] + gone), obs=order[:, k])


def transitions(x: Tensor, offered: Tensor, chosen: Tensor, far: float) -> None:
    """From each of three states another one cannot be reached."""
    logits = pyro.param("logits", tensor([[0.0, 0.3, 0.0], [0.1, 0.0, 0.2], [0.3, 0.1, 0.0]]).to(x))
    loc = pyro.param("loc", tensor([-1.0, 0.0, 1.0]).to(x))
    z = 0
    for t in pyro.markov(range(6)):
        z = pyro.sample(f"z{t}", dist.Categorical(logits=logits.masked_fill(torch.eye(3).flip(-1).bool(), far)[z]))
        pyro.sample(f"x{t}", dist.Normal(loc[z], 1.0), obs=x[t, 0, 0])


@FAR
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("model", [classes, rankings, transitions])
def test_a_logit_far_down_rules_out(model: Callable[..., None], dtype: torch.dtype, far: float) -> None:
    """Whatever number says it, in either precision."""
    x, offered, chosen = choices()
    given = (x.to(dtype), offered, chosen, far if far == -torch.inf else max(far, torch.finfo(dtype).min))
    plan = str(EM(model).plan(*given))
    assert "the logits are affine in it: Newton on Q" in plan
    assert "no gradient reaches" not in plan


def test_the_densities_are_those_of_what_is_offered() -> None:
    """As written by hand."""
    x, offered, chosen = choices()
    fit = EM(classes).fit(x, offered, chosen, -1e9)
    share, taste = (fit.params[n].clone().requires_grad_() for n in ("share", "taste"))
    utility = torch.einsum("ncp,kp->nkc", x, taste)
    of_chosen = utility[torch.arange(N), :, chosen]
    offered_sum = torch.where(offered.unsqueeze(1), utility, -torch.inf).logsumexp(-1)
    evidence = (share.log() + of_chosen - offered_sum).logsumexp(-1).sum()
    assert abs(evidence.item() - fit.log_likelihood) < SOLVERS * (1 + abs(fit.log_likelihood))
    assert fit.converged
    assert torch.autograd.grad(evidence, taste)[0].abs().max() < 1e3 * SOLVERS
