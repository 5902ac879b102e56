"""Rows of two clusters, and the same rows in uneven batches."""

from collections.abc import Iterator
from typing import Any

import pyro
from torch import Tensor

from em_pyro import EM, Fit
from programs.loops import mixture, points

X = points(90).double().sort().values  # the first batch is the first cluster, and alike to no other


def batches(x: Tensor = X) -> list[Tensor]:
    """Uneven ones, one of a single row."""
    return [x[:40], x[40:41], x[41:]]


def both(model: Any = mixture, x: Tensor = X, **options: Any) -> tuple[Fit, Fit]:
    """In memory, and in batches."""
    pyro.clear_param_store()
    whole = EM(model, collapse=False, **options).fit(x)
    pyro.clear_param_store()
    return whole, EM(model, **options).fit_stream(batches(x))


class Broken:
    """Batches of which the last changes from the fourth pass on."""

    def __init__(self, parts: list[Tensor]) -> None:
        """Take them as they are at first."""
        self.parts, self.passes = parts, 0

    def __iter__(self) -> Iterator[Tensor]:
        """Begin another pass."""
        self.passes += 1
        yield from self.parts[:-1]
        yield self.parts[-1] + (1e-9 if self.passes > 3 else 0.0)
