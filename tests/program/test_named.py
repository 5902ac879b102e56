"""Shapes by hand are those of torch."""

from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch

from em_pyro import EM, ModelError
from em_pyro.program.named import broadcast

SHAPES = tuple(shape for dims in range(4) for shape in product((0, 1, 2, 3), repeat=dims))


def test_broadcast() -> None:
    """Two shapes or three broadcast to what torch makes of them, and where it makes nothing there is an error."""
    for shapes in (*product(SHAPES, repeat=2), *product(SHAPES[:8], repeat=3)):
        try:
            want = tuple(torch.broadcast_shapes(*shapes))
        except RuntimeError:
            with pytest.raises(RuntimeError, match="broadcast"):
                broadcast(*shapes)
        else:
            assert broadcast(*shapes) == want
    assert broadcast() == ()


@pytest.mark.parametrize("added", [False, True])
def test_a_dimension_that_was_added_to_the_states_of_a_latent_is_named(added: bool) -> None:  # noqa: FBT001
    """And what the error says to leave out is what helps."""
    x = torch.cat((torch.zeros(5), 3 * torch.ones(7))).double() + 0.1 * torch.arange(12)

    def change_point(x: torch.Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([0.0, 1.0]).double())
        tau = pyro.sample("tau", dist.Categorical(torch.ones(12).double() / 12))
        with pyro.plate("days", 12):
            after = torch.arange(12) >= (tau.unsqueeze(-1) if added else tau)
            pyro.sample("x", dist.Normal(loc[after.long()], 1.0), obs=x)

    if not added:
        assert EM(change_point).fit(x).converged
        return
    with pytest.raises(ModelError, match=r'dimension -3.* States of "tau" have dimension -2 by themselves.*unsqueeze'):
        EM(change_point).fit(x)
