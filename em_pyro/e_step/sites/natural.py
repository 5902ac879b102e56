"""A site's arguments, as its products take them."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Own:
    """Cells that are computed around their own locations.

    Attributes:
        which: their positions among all starts and cells, flattened, (n).
        location: where each is, (n) + events + event of the location.
        factor: what whitens deviations from there, (n) + events + its own.
        log_factor: its log-determinant, (n) + events.
        centre: around what their statistics are taken, of the shape of `location`.
        every: whether these are all cells.
    """

    which: Tensor = field(repr=False)
    location: Tensor = field(repr=False)
    factor: Tensor = field(repr=False)
    log_factor: Tensor = field(repr=False)
    centre: Tensor = field(repr=False)
    every: bool = False


@dataclass(frozen=True)
class Natural:
    """A site's arguments, as its products take them.

    Attributes:
        eta: natural parameters, (starts) + batch + cells + (F,); zero in the cells of `own`.
        wanted: around what statistics are wanted, (starts) + cells + events + event of the location; None without one.
        own: cells around their own locations; None is no cell.
    """

    eta: Tensor = field(repr=False)
    wanted: Tensor | None = field(default=None, repr=False)
    own: Own | None = None
