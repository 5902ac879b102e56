"""Where the locations and scales of a site come from: entries selected from parameters, or an affine predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from math import prod
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.sites.site_factor import SiteFactor
from ...families.charts import CHARTS, Chart
from ...program.named import Batch
from ...reading.predictor import Affine, Piece
from ...records.frozen import frozen
from ..pooling import Selected, select
from ..uses import segments_of


class Place(NamedTuple):
    """One parameter in an argument: the function through which it enters, and which cells select what of it."""

    parameter: str
    chart: Chart
    where: Selected


class Argument(Protocol):
    """The argument of every flat cell of a site, each a number, a vector or a matrix (the unit)."""

    @property
    def places(self) -> tuple[Place, ...]:
        """Parameters that are selected from; none for a predictor."""

    @property
    def unit(self) -> tuple[int, ...]:
        """() for a number, (D,) for a row."""

    @property
    def coefficient(self) -> Tensor | None:
        """What multiplies that which is selected, shape (cells,); None is one."""

    @property
    def affine(self) -> Affine | None:
        """The predictor, if it is one."""

    def at(self, batch: Batch) -> Tensor:
        """Bind: shape (S, cells) + unit, or (1, cells) + unit where no parameter enters."""

    def designs(self, first: Mapping[str, int]) -> list[Affine]:
        """One predictor for each coordinate of the unit, over unknowns of which `first` gives each parameter's first.

        What is no unknown is left out.
        """

    def met(self, first: Mapping[str, int]) -> list[Affine]:
        """The same, as far as it says which unknowns meet in a cell."""
        return self.designs(first)


@frozen
class Selection:
    """`coefficient * chart(parameter)[entry]` in the cells that select one, the constant in the others.

    Attributes:
        unit: what one entry is: () for a number, (D,) for a row, (D, D) for a matrix.
        places: parameters.
        coefficient: what multiplies in every cell, of numbers only; None is one.
        constant: of cells that select nothing, shape (cells,) + unit; None where all select.
    """

    affine: ClassVar[None] = None

    unit: tuple[int, ...]
    cells: int
    places: tuple[Place, ...]
    coefficient: Tensor | None = field(default=None, repr=False)
    constant: Tensor | None = field(default=None, repr=False)

    def at(self, batch: Batch, then: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Bind every cell; `then` is applied to what is selected from, before cells repeat it."""
        if len(self.places) == 1 and self.constant is None:
            parameter, chart, where = self.places[0]
            found = self._entries(batch[parameter], chart, where, then)
            found = found if where.everything and found.shape[1] == self.cells else found[:, where.entries]
        else:
            found = self._mixed(batch, then)
        return found if self.coefficient is None else found * self.coefficient

    def _mixed(self, batch: Batch, then: Callable[[Tensor], Tensor] | None) -> Tensor:
        assert self.constant is not None
        found = self.constant.unsqueeze(0)
        found = found if then is None else then(found)
        for k, (parameter, chart, where) in enumerate(self.places):
            entries = self._entries(batch[parameter], chart, where, then)
            found = found.repeat((len(entries), *(1 for _ in found.shape[1:]))) if not k else found
            found[:, where.cells] = entries[:, where.entries]
        return found

    def _entries(self, value: Tensor, chart: Chart, where: Selected, then: Callable[[Tensor], Tensor] | None) -> Tensor:
        """All entries of a parameter as they enter: (S, entries) + unit."""
        value = chart.forward(value.double())
        value = 1 - value if where.complement else value
        value = value if value.dim() == 2 + len(self.unit) else value.reshape((value.shape[0], -1, *self.unit))
        return value if then is None else then(value)

    def designs(self, first: Mapping[str, int]) -> list[Affine]:
        """One slot a cell, with its coefficient."""
        width = prod(self.unit)
        index = torch.full((self.cells, width), -1)
        for parameter, _, where in self.places:
            if parameter in first:
                index[where.cells] = first[parameter] + where.entries.unsqueeze(-1) * width + torch.arange(width)
        value = torch.ones((1, 1), dtype=torch.float64) if self.coefficient is None else self.coefficient.unsqueeze(-1)
        piece = Piece(index.unsqueeze(-1), value.unsqueeze(-1))
        return Affine((), torch.zeros(index.shape, dtype=torch.float64), (piece,), CHARTS[0]).by_row

    met = designs


@frozen
class Predictor:
    """An affine predictor of every cell.

    Attributes:
        affine: dimensions of the argument, of size one where nothing varies.
        shape: cells + events + unit.
        unit: () for a number, (D,) for a row.
    """

    places: ClassVar[tuple[Place, ...]] = ()
    coefficient: ClassVar[None] = None

    affine: Affine
    shape: tuple[int, ...]
    unit: tuple[int, ...]

    def at(self, batch: Batch) -> Tensor:
        """Bind every cell."""
        found = self.affine.predictor(batch)
        return found.expand((len(found), *self.shape)).reshape((len(found), -1, *self.unit))

    def designs(self, first: Mapping[str, int]) -> list[Affine]:
        """The part that is linear in the unknowns."""
        at = torch.tensor([first[n] + i if n in first else -1 for n, i in self.affine.entries])
        design = replace(self.affine.moved(at), offset=torch.zeros((), dtype=torch.float64).expand(self.shape))
        return design.by_row if self.unit else [design]

    met = designs


def selection_of(engine: Engine, factor: SiteFactor, key: str) -> Selection:
    """Read an argument whose cells select numbers, each by itself."""
    role = factor.roles[key]
    segments, places = segments_of(engine.recognition.bank, factor, key), list[Place]()
    order = {name: k for k, name in enumerate(engine.program.parameters)} if len(segments) > 1 else {}
    for name in sorted({s.parameter for s in segments}, key=lambda name: order.get(name, 0)):
        for segment in (s for s in segments if s.parameter == name):
            places += [Place(name, segment.chart, where) for where in select(role, [segment], name)]
    index = role.index.reshape(-1)
    coefficient = None if role.coefficient is None else torch.where(index < 0, 1.0, role.coefficient.reshape(-1))
    constant = role.constant if role.constant is not None else torch.zeros(())
    constant = constant.double().expand(role.index.shape).reshape(-1)
    whole = len(places) == 1 and len(places[0].where.cells) == len(index)
    return Selection((), len(index), tuple(places), coefficient, None if whole else constant)
