"""Chains whose blocks repeat: their factor settles, and is copied from step to step."""

import pytest
import torch
from test_block_chains import assert_same, chain, flat, method  # noqa: F401

from em_pyro.e_step.gaussian.precision.chain import Chain
from em_pyro.e_step.gaussian.precision.factored import factor


@pytest.mark.parametrize("other", [None, 0, 250, 449])
def test_blocks_that_repeat(method: str, other: int | None) -> None:  # noqa: F811
    """A chain that has settled is copied, unless a block is another one; all is as of the dense matrix."""
    steps, width = 450, 2
    diagonal, below, _ = chain((1, 1, 1), 2, width)
    diagonal, below = (
        part[..., :1, :, :].repeat(1, 1, 1, n, 1, 1) for part, n in ((diagonal, steps), (below, steps - 1))
    )
    if other is not None:
        diagonal[..., other, :, :] *= 1.5
    dense, size = torch.block_diag(*diagonal[0, 0, 0]), width
    for t in range(steps - 1):
        here, after = slice(t * size, (t + 1) * size), slice((t + 1) * size, (t + 2) * size)
        dense[after, here], dense[here, after] = below[0, 0, 0, t], below[0, 0, 0, t].mT
    k = steps * width
    found = factor(flat(diagonal, below), torch.ones((1, k), dtype=torch.bool), k, width, method)
    assert isinstance(found, Chain)
    assert_same(found, dense[None, None, None], torch.zeros(2).long())
