"""Locations by precision-weighted least squares, scales around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...families.charts import CHARTS, Chart
from ...program.named import Params
from ...reading.predictor import Affine, Piece, adjoint, gram
from ..pooling import Selected, Statistics, flat, pool
from .unknowns import Unknowns


@dataclass(frozen=True)
class NormalUse:
    """One Normal site of a block: its role maps over the cells, and what selects what."""

    term: str
    shift: Tensor = field(repr=False)  # of values and locations, flattened over the cells
    loc_parameters: tuple[tuple[str, Selected], ...] = field(repr=False)
    loc_coefficient: Tensor = field(repr=False)
    loc_constant: Tensor = field(repr=False)
    affine: Affine | None = field(repr=False)
    scale_parameters: tuple[tuple[str, Selected], ...] = field(repr=False)
    scale_coefficient: Tensor = field(repr=False)
    scale_constant: Tensor | None = field(repr=False)
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class NormalBlock:
    """Locations by precision-weighted least squares, then scales around the new locations."""

    locations: tuple[str, ...]
    scales: tuple[tuple[str, Chart], ...]
    uses: tuple[NormalUse, ...] = field(repr=False)
    all_scales: Mapping[str, Chart] = field(repr=False)  # with those that are not solved here
    pseudo: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    loc_charts: Mapping[str, Chart] = field(default_factory=dict, repr=False)  # functions through which locations enter

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """One pass: conditional on the scales the locations, then conditional on the locations the scales."""
        new = dict(params)
        if self.locations:
            new |= self._locations(statistics, new, lead)
        if self.scales:
            new |= self._scales(statistics, new, lead)
        return {name: new[name] for name in (*self.locations, *(n for n, _ in self.scales))}

    def _sums(self, use: NormalUse, statistics: Statistics, lead: int) -> tuple[Tensor, ...]:
        """Weight, sum and squares of every flat cell, and what its values were less by."""
        n, first, second, *centre = (flat(part, lead) for part in statistics[use.term])
        return n, first, second, centre[0] if centre else use.shift

    def _scale_of(self, use: NormalUse, params: Params, lead: int) -> Tensor:
        """Current scale of every cell."""
        cells = 1
        for size in use.shape:
            cells *= size
        batch = next(iter(params.values())).shape[:lead]
        scale = torch.ones((*batch, cells), dtype=torch.float64)
        if use.scale_constant is not None:
            scale = scale * use.scale_constant
        for name, where in use.scale_parameters:
            value = flat(self.all_scales[name].forward(params[name].double()), lead)
            scale[..., where.cells] = value[..., where.entries]
        return scale * use.scale_coefficient

    def _location_of(self, use: NormalUse, params: Params, lead: int) -> Tensor:
        """Current location of every cell."""
        if use.affine is not None:
            return self._predicted(use, use.affine, params, lead)
        batch = next(iter(params.values())).shape[:lead]
        loc = use.loc_constant.expand(*batch, -1).clone()
        for name, where in use.loc_parameters:
            value = self._argument(name, params[name].double())
            loc[..., where.cells] = flat(value, lead)[..., where.entries]
        return loc * use.loc_coefficient

    def _predicted(self, use: NormalUse, affine: Affine, params: Params, lead: int) -> Tensor:
        """A predictor in every cell."""
        found = affine.predictor(params, lead)
        return found.expand((*found.shape[:lead], *use.shape)).flatten(lead)

    def _argument(self, name: str, value: Tensor) -> Tensor:
        """A location parameter as it enters the argument."""
        return self.loc_charts[name].forward(value) if name in self.loc_charts else value

    def _locations(self, statistics: Statistics, params: Params, lead: int) -> dict[str, Tensor]:
        if any(use.affine is not None for use in self.uses):
            return self._least_squares(statistics, params, lead)
        precision = {name: torch.zeros((), dtype=torch.float64) for name in self.locations}
        linear = {name: torch.zeros((), dtype=torch.float64) for name in self.locations}
        for use in self.uses:
            n, first, _, shift = self._sums(use, statistics, lead)
            tau = self._scale_of(use, params, lead) ** -2
            c = use.loc_coefficient
            for name, where in use.loc_parameters:
                if name in precision:
                    size = params[name].shape[lead:].numel()
                    precision[name] = precision[name] + pool(tau * n * c * c, where, size, lead)
                    linear[name] = linear[name] + pool(tau * c * (first + n * shift), where, size, lead)
        new = {}
        for name in self.locations:
            weight, total = precision[name], linear[name]
            if name in self.pseudo:
                total = total + self.pseudo[name][0].reshape(-1)
                weight = weight + self.pseudo[name][1].reshape(-1)
            old = params[name].double()
            solved = (total / torch.where(weight > 0, weight, 1.0)).reshape(old.shape)
            if name in self.loc_charts:
                solved = self.loc_charts[name].inverse(solved)
            new[name] = torch.where((weight > 0).reshape(old.shape), solved, old)
        return new

    def _least_squares(self, statistics: Statistics, params: Params, lead: int) -> dict[str, Tensor]:
        """Weighted normal equations over all location entries of the block together."""
        unknowns = Unknowns(self.locations, params, lead)
        matrix, right = unknowns.equations()
        for use in self.uses:
            n, first, _, shift = self._sums(use, statistics, lead)
            tau = self._scale_of(use, params, lead) ** -2
            design, offset = self._design(use, unknowns)
            dims = design.offset.shape
            weight = (tau * n).reshape(-1, *dims)
            matrix = matrix + gram(design, design, weight, unknowns.count)
            value = (tau * (first + n * (shift - offset))).reshape(-1, *dims)
            right = right + adjoint(design, value, unknowns.count)
        return unknowns.solve(matrix, right, self.pseudo)

    def _design(self, use: NormalUse, unknowns: Unknowns) -> tuple[Affine, Tensor]:
        """This site's design over the entries that the block solves for, and in every cell the offset of the rest."""
        rest = self._location_of(use, unknowns.at_zero, unknowns.lead)
        if use.affine is not None:
            return unknowns.design(use.affine, use.shape), rest
        index = torch.full(use.loc_constant.shape, -1)
        for name, where in use.loc_parameters:
            if name in unknowns.start:
                index[where.cells] = unknowns.start[name] + where.entries
        coefficient = use.loc_coefficient.expand(index.shape)
        piece = Piece(index.unsqueeze(-1), coefficient.unsqueeze(-1))
        return Affine((), torch.zeros_like(coefficient), (piece,), CHARTS[0]), rest

    def _scales(self, statistics: Statistics, params: Params, lead: int) -> dict[str, Tensor]:
        squares = {name: torch.zeros((), dtype=torch.float64) for name, _ in self.scales}
        rows = {name: torch.zeros((), dtype=torch.float64) for name, _ in self.scales}
        for use in self.uses:
            if not any(name in squares for name, _ in use.scale_parameters):
                continue
            n, first, second, shift = self._sums(use, statistics, lead)
            m = self._location_of(use, params, lead) - shift
            spread = (second - 2 * m * first + m * m * n) / use.scale_coefficient**2
            for name, where in use.scale_parameters:
                if name in squares:
                    size = params[name].shape[lead:].numel()
                    squares[name] = squares[name] + pool(spread, where, size, lead)
                    rows[name] = rows[name] + pool(n, where, size, lead)
        new = {}
        for name, chart in self.scales:
            old = params[name].double()
            n = rows[name].reshape(old.shape)
            variance = squares[name].reshape(old.shape) / torch.where(n > 0, n, 1.0)
            new[name] = torch.where(n > 0, chart.inverse(variance.clamp(min=0).sqrt()), old)
        return new
