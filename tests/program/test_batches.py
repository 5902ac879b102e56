"""A batch that belongs to no plate is named, also where its dimension is that of a latent."""

import pyro
import pyro.distributions as dist
import pytest
from torch import Tensor, tensor

from em_pyro import EM, ModelError


def test_a_forgotten_plate_beside_a_chain() -> None:
    """Six covariates of one observation, in the dimension of another step's state."""
    y = tensor([1.0, 1.0, 2.0, 0.0])
    u = tensor([[0.5, 0.1, 1.0, 0.3, 0.2, 0.4]]).expand(4, 6)

    def model(y: Tensor) -> None:
        level = pyro.param("level", tensor([0.1, -0.4]))
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z{t}", dist.Categorical(tensor([0.4, 0.6])))
            pyro.sample(f"y{t}", dist.Poisson((level[z] + (u[t] if t else 0.0)).exp()), obs=y[t])

    with pytest.raises(ModelError, match=r'^Site "y1": expected a batch .* got 6 rows that belong to no plate'):
        EM(model).plan(y)
