"""Shapes by hand are those of torch."""

from itertools import product

import pytest
import torch

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
