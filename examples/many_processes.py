# %% [markdown]
"""# What if no process has all rows?

Every process has a share of them. One sum of a few dozen numbers an EM step is all that they tell one another, and the
fit is that of all rows in one place.

    torchrun --nproc-per-node=4 examples/many_processes.py

Without torchrun this is a group of one.
"""

# %%
import os
import tempfile
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, distributed
from torch.distributions import constraints

from em_pyro import EM

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
K, D, ROWS = 3, 2, 4_000


def mixture(x: Tensor) -> None:
    """Mix Normals; the start is the same in all processes, whatever their rows are."""
    weights = pyro.param("weights", torch.ones(K) / K, constraint=constraints.simplex)
    loc = pyro.param("loc", torch.linspace(-2.0, 2.0, K).unsqueeze(-1).repeat(1, D))
    scale = pyro.param("scale", 2.0 * torch.ones(K, D), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=x)


def rows(start: int, stop: int) -> Tensor:
    """Some of the rows, as they would be read from a file: each is drawn by its own number."""
    drawn = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(0))
    centres = torch.tensor([[-4.0, 0.0], [0.0, 3.0], [4.0, 0.0]])
    return (drawn + centres[torch.arange(ROWS) % K])[start:stop]


# %% [markdown]
"""Each process takes its share. They need not be even, and may be empty."""

# %%
if "RANK" in os.environ:
    distributed.init_process_group("gloo")
else:
    file = Path(tempfile.mkdtemp()) / "group"
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
rank, size = distributed.get_rank(), distributed.get_world_size()
share = rows(ROWS * rank // size, ROWS * (rank + 1) // size)

em = EM(mixture, process_group=distributed.group.WORLD, starts=3)
fit = em.fit(share)

# %% [markdown]
"""All processes have the same answer, and that of one which has all rows is no other."""

# %%
if rank == 0:
    print(f"{size} processes, {len(share)} rows in the first")
    print(fit)
    pyro.clear_param_store()
    alone = EM(mixture, starts=3).fit(rows(0, ROWS))
    assert abs(fit.log_likelihood - alone.log_likelihood) < 1e-6 * abs(alone.log_likelihood)
    assert fit.outcome == alone.outcome == "converged"
    assert torch.allclose(fit.params["loc"], alone.params["loc"], atol=1e-3)
distributed.barrier()  # nobody leaves while another is at work
distributed.destroy_process_group()
