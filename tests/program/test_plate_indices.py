"""Programs may read their data by the indices that a plate hands out."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError


def by_position(x: Tensor, group: Tensor) -> None:
    """Read data, a parameter and a known argument of each row by the indices of the plate."""
    weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
    own = pyro.param("own", torch.zeros(3))
    with pyro.plate("rows", len(x)) as rows:
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[kind] + own[group[rows]], 1.0), obs=x[rows])


def in_order(x: Tensor, group: Tensor) -> None:
    """The same without indices."""
    weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
    own = pyro.param("own", torch.zeros(3))
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[kind] + own[group], 1.0), obs=x)


@pytest.mark.parametrize("m_step", [None, "torch"])
def test_a_program_may_use_them(m_step: str | None) -> None:
    """A program that reads by the indices of its plate takes the path of one that does not."""
    generator = torch.Generator().manual_seed(0)
    x, group = torch.randn(60, generator=generator), torch.randint(3, (60,), generator=generator)
    paths = []
    for model in (by_position, in_order):
        pyro.clear_param_store()
        fit = EM(model, max_steps=5, tol=0, m_step=dict.fromkeys(("loc", "own"), m_step) if m_step else {}).fit(
            x, group
        )
        paths.append(fit.path)
    close(*paths)


@pytest.mark.parametrize("latent", [False, True])
def test_a_plate_without_a_size_is_named(latent: bool) -> None:  # noqa: FBT001
    """Pyro takes one; but whether its rows have latents of their own cannot be told."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([0.0, 5.0]))
        with pyro.plate("rows"):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5]))) if latent else 0
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    with pytest.raises(
        ModelError, match=r'Plate "rows": expected a size, got none. .* pyro.plate\("rows", len\(data\)\)'
    ):
        EM(model).fit(torch.zeros(4))
