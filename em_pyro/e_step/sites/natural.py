"""A site's arguments, as its products take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Own(NamedTuple):
    """Cells that are computed around their own locations.

    Attributes:
        which: their positions among all starts and cells, flattened, (n).
        location: where each is, (n) + events + event of the location.
        factor: what whitens deviations from there, (n) + events + its own.
        log_factor: its log-determinant, (n) + events.
        centre: around what their statistics are taken, of the shape of `location`.
        every: whether these are all cells.
        rough: natural parameters around one centre, (starts) + cells + (F,): good enough to see which cells a row is
            far from. None unless these are all cells.
    """

    which: Tensor
    location: Tensor
    factor: Tensor
    log_factor: Tensor
    centre: Tensor
    every: bool = False
    rough: Tensor | None = None

    def of(self, cells: slice) -> Own:
        """Some of these cells alone, for which the sums are of these alone."""
        if cells == slice(None):
            return self
        location, factor, log_factor = self.location[cells], self.factor[cells], self.log_factor[cells]
        centre = location if self.centre is self.location else self.centre[cells]
        return Own(self.which[cells], location, factor, log_factor, centre, every=True)


class Lines(NamedTuple):
    """What cells have besides the coefficients of their lines.

    Attributes:
        scale: (starts) + (cells x events, 1).
        centre: the coefficients around which statistics are taken, (starts) + (cells x events, J).
        spread: covariance of the coefficients under laws, (cells x events, J, J); None at points.
    """

    scale: Tensor
    centre: Tensor
    spread: Tensor | None = None


class Natural(NamedTuple):
    """A site's arguments, as its products take them: a tuple, as all that a step makes many of.

    Attributes:
        eta: natural parameters, (starts) + batch + cells + (F,); zero in the cells of `own`.
        wanted: around what statistics are wanted, (starts) + cells + events + event of the location; None without one.
        own: cells around their own locations; None is no cell.
        lines: what is bound beside coefficients, where `eta` are those, (starts) + (cells x events, J).
    """

    eta: Tensor
    wanted: Tensor | None = None
    own: Own | None = None
    lines: Lines | None = None


def with_excess(natural: tuple[Tensor, ...], excess: Tensor | None) -> tuple[Tensor, ...]:
    """Natural parameters with what an expectation adds to the first, (starts) + cells + events."""
    return natural if excess is None else (natural[0] + excess, *natural[1:])
