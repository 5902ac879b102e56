"""A site by features that all its cells have in common: what second-order sums are made of."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ...reading.bound import Bound
from ..chunks import Chunk


class Common(Protocol):
    """Log-densities as products of features of rows and natural parameters of cells, both around a centre.

    A centre is that of one cell, of shape events + event of the location, or None: that of the data.
    """

    def columns(self, chunk: Chunk, centre: Tensor | None) -> Tensor:
        """Features of a chunk, (F, columns): written down, and not kept."""

    def eta(self, bound: Bound, centre: Tensor | None) -> Tensor:
        """Their natural parameters, differentiable: (starts) + cells + (F,)."""

    def middle(self, bound: Bound) -> Tensor | None:
        """A centre that serves all cells that are not narrow."""

    def centres(self, bound: Bound) -> Tensor | None:
        """Those of all cells, (starts) + cells + the shape of one; None where they never differ."""

    def narrowness(self, bound: Bound) -> Tensor | None:
        """How many of its scales the farthest row lies from the middle, (starts) + cells; None is few."""
