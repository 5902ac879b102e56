"""Locations by precision-weighted least squares, scales around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..bank import Affine
from ..charts import Chart
from .select import Params, Selected, Statistics, flat, pool


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
            entries = torch.stack([flat(params[name], lead)[..., i] for name, i in use.affine.entries], -1).double()
            slope = (use.affine.design.flatten(0, -2) @ entries.unsqueeze(-1)).squeeze(-1)
            return use.affine.offset.reshape(-1) + slope
        batch = next(iter(params.values())).shape[:lead]
        loc = use.loc_constant.expand(*batch, -1).clone()
        for name, where in use.loc_parameters:
            value = self._argument(name, params[name].double())
            loc[..., where.cells] = flat(value, lead)[..., where.entries]
        return loc * use.loc_coefficient

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
        entries = [(name, i) for name in self.locations for i in range(params[name].shape[lead:].numel())]
        place = {entry: k for k, entry in enumerate(entries)}
        batch = next(iter(params.values())).shape[:lead]
        gram = torch.zeros((*batch, len(entries), len(entries)), dtype=torch.float64)
        right = torch.zeros((*batch, len(entries)), dtype=torch.float64)
        for use in self.uses:
            n, first, _, shift = self._sums(use, statistics, lead)
            tau = self._scale_of(use, params, lead) ** -2
            columns, design, offset = self._design(use, params, lead, place)
            weighted = design * (tau * n).unsqueeze(-1)
            block = weighted.mT @ design
            value = (tau * (first + n * (shift - offset))).unsqueeze(-2) @ design
            index = torch.tensor(columns)
            gram[..., index.unsqueeze(-1), index] += block
            right[..., index] += value.squeeze(-2)
        for name, (total, weight) in self.pseudo.items():
            index = torch.tensor([place[name, i] for i in range(total.numel())])
            gram[..., index, index] += weight.reshape(-1)
            right[..., index] += total.reshape(-1)
        old = torch.cat([flat(params[name].double(), lead) for name in self.locations], -1)
        reach = gram.diagonal(dim1=-2, dim2=-1) > 0
        gram = gram + torch.diag_embed(torch.where(reach, 0.0, 1.0))
        right = torch.where(reach, right, old)
        scale = gram.diagonal(dim1=-2, dim2=-1).rsqrt()
        scaled = gram * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        if not bool(torch.isfinite(scaled).all() & torch.isfinite(right).all()):
            return {name: params[name] for name in self.locations}  # a scale has collapsed; the loop will say so
        solved = torch.linalg.lstsq(
            scaled, (right * scale).unsqueeze(-1), driver="gelsd" if not scaled.is_cuda else None
        )
        found = solved.solution.squeeze(-1) * scale
        new, at = {}, 0
        for name in self.locations:
            size = params[name].shape[lead:].numel()
            new[name] = found[..., at : at + size].reshape(params[name].shape)
            at += size
        return new

    def _design(
        self, use: NormalUse, params: Params, lead: int, place: Mapping[tuple[str, int], int]
    ) -> tuple[list[int], Tensor, Tensor]:
        """Columns of this site's design that the block solves for, and the offset that the rest makes."""
        if use.affine is None:
            selected = [(name, where) for name, where in use.loc_parameters if name in self.locations]
            used = sorted({place[name, int(e)] for name, where in selected for e in where.entries})
            design = torch.zeros((use.loc_coefficient.expand(use.loc_constant.shape).numel(), len(used)))
            design = design.double()
            column = {k: j for j, k in enumerate(used)}
            coefficient = use.loc_coefficient.expand(use.loc_constant.shape)
            for name, where in selected:
                js = torch.tensor([column[place[name, int(e)]] for e in where.entries])
                design[where.cells, js] = coefficient[where.cells]
            fixed = params | {name: torch.zeros_like(params[name]) for name in self.locations}  # type: ignore[operator]
            return used, design, self._location_of(use, fixed, lead)
        solved = [j for j, (name, _) in enumerate(use.affine.entries) if name in self.locations]
        known = [j for j in range(len(use.affine.entries)) if j not in solved]
        design = use.affine.design.flatten(0, -2).double()
        offset = use.affine.offset.reshape(-1).double()
        if known:
            values = torch.stack(
                [flat(params[use.affine.entries[j][0]], lead)[..., use.affine.entries[j][1]] for j in known], -1
            )
            offset = offset + (design[:, known] @ values.double().unsqueeze(-1)).squeeze(-1)
        return [place[use.affine.entries[j]] for j in solved], design[:, solved], offset

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
