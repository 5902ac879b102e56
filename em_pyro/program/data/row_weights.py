"""Weights of rows that stand beside the data, not in the model: how often each row is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ...errors import DataError


class RowWeights(Messenger):
    """Scale every site inside the plate of the rows by their weights, as `poutine.scale` there does."""

    def __init__(self, weights: Tensor) -> None:
        """Take the weights, shape `(N,)`, of the one plate of `N` rows."""
        super().__init__()
        self.weights = weights
        self.plate: str | None = None

    def _pyro_sample(self, msg: Any) -> None:
        frames = [f for f in msg["cond_indep_stack"] if f.vectorized and f.size == len(self.weights)]
        for frame in frames:
            if self.plate not in (None, frame.name):
                raise DataError(
                    f'weights: expected one plate of {len(self.weights)} rows, got two: "{self.plate}" and '
                    f'"{frame.name}". Write the weights into the model: poutine.scale(scale=weights) in its plate.'
                )
            self.plate = frame.name
            msg["scale"] = msg["scale"] * self.weights.reshape(-1, *[1] * (-frame.dim - 1))


def weighted(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return the model with the weights of its rows as another argument, in front: each row counts so many times."""

    def counted(weights: Tensor, *args: Any, **kwargs: Any) -> Any:
        with RowWeights(weights):
            return model(*args, **kwargs)

    return counted
