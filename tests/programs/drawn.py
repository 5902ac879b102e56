"""What data are drawn from in tests: a fit that stays at its start, and a mixture."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit


def fitted(model: Callable[..., None], *args: object) -> Fit:
    """Stay at the start: its values are the law."""
    return EM(model, max_steps=0).fit(*args)


def mixture(x: Tensor) -> None:
    """Mix two bivariate normals."""
    weights = pyro.param("weights", tensor([0.3, 0.7]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([[-1.0, 2.0], [3.0, 0.5]]))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0).to_event(1), obs=x)
