"""Rows that take the same latents, whose sums are taken together: some absent, some all alike."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from torch import Tensor, tensor
from torch.distributions import MultivariateNormal, constraints

from em_pyro import EM

SIZES = {"ragged": [1, 2, 4, 4, 5], "of one size": [3, 3, 3, 3], "alike": [3, 3, 3]}


def slopes(y: Tensor, x: Tensor, group: Tensor) -> None:
    """Write intercepts and slopes that go together."""
    root = pyro.param("root", torch.eye(2).double(), constraint=constraints.lower_cholesky)
    coef = pyro.param("coef", tensor([0.3, -0.2]).double())
    scale = pyro.param("scale", tensor(1.0).double(), constraint=constraints.positive)
    with pyro.plate("groups", int(group.max()) + 1):
        b = pyro.sample("b", dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=root))
    with pyro.plate("rows", len(y)):
        own = coef + b[group]
        pyro.sample("y", dist.Normal(own[..., 0] + own[..., 1] * x, scale), obs=y)


def dense(p: dict[str, Tensor], y: Tensor, x: Tensor, group: Tensor) -> Tensor:
    """All rows as one normal law."""
    design = torch.stack([torch.ones_like(x), x], -1)
    root = design @ p["root"]
    covariance = root @ root.mT * (group[:, None] == group) + p["scale"] ** 2 * torch.eye(len(y))
    return MultivariateNormal(design @ p["coef"], covariance).log_prob(y)


@pytest.mark.parametrize("name", SIZES)
def test_groups_have_the_evidence_and_the_slopes_of_a_dense_law(name: str) -> None:
    """After a step, which leads along the slope of that law (Fisher's identity), by the squares of the design."""
    generator = torch.Generator().manual_seed(1)
    group = torch.repeat_interleave(torch.arange(len(SIZES[name])), tensor(SIZES[name]))
    x, noise = torch.randn((2, len(group)), generator=generator, dtype=torch.float64)
    x, y = (
        (torch.ones_like(x), 0.7 * torch.ones_like(x)) if name == "alike" else (x, 1 + noise + (1 + noise[group]) * x)
    )
    pyro.clear_param_store()
    first = EM(slopes, max_steps=1, acceleration=None, check=False).fit(y, x, group)
    close(first.log_likelihood, float(dense(first.params, y, x, group)))
    start = {"root": torch.eye(2).double(), "coef": tensor([0.3, -0.2]).double(), "scale": tensor(1.0).double()}
    leaf = {n: value.clone().requires_grad_() for n, value in start.items()}
    slope = torch.autograd.grad(dense(leaf, y, x, group), leaf["coef"])[0]
    design = torch.stack([torch.ones_like(x), x], -1)
    inverse = torch.linalg.pinv(design)
    close(design @ first.params["coef"], design @ (start["coef"] + inverse @ inverse.mT @ slope))


def test_expected_products_of_rows() -> None:
    """The scale after a step is the expected square of what is left: from the law of the effects by hand."""
    group, x = torch.repeat_interleave(torch.arange(3), tensor([2, 3, 4])), torch.linspace(-1, 2, 9).double()
    y = torch.sin(torch.arange(9.0).double())
    pyro.clear_param_store()
    fit = EM(slopes, max_steps=1, acceleration=None, check=False).fit(y, x, group)
    design, old = torch.stack([torch.ones_like(x), x], -1), tensor([0.3, -0.2]).double()
    squares, second = torch.zeros(()).double(), torch.zeros((2, 2)).double()
    for g in range(3):
        D, r = design[group == g], (y - design @ old)[group == g]
        V = torch.linalg.inv(D.mT @ D + torch.eye(2))
        m = V @ D.mT @ r
        left = y[group == g] - D @ (fit.params["coef"] + m)
        squares, second = squares + left @ left + (D @ V * D).sum(), second + V + torch.outer(m, m)
    close(fit.params["scale"], (squares / 9).sqrt())
    close(fit.params["root"] @ fit.params["root"].mT, second / 3)
