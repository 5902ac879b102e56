"""Closed-form maximisers of `Q`: they pool expected statistics over everything that the program ties, and solve.

Each solver owns the parameters of one block. `solve(statistics, params)` returns their new values; leading dimensions of
`params` are starts. An entry that no weight reaches keeps its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .bank import Affine, RoleMap, Segment
from .charts import Chart
from .families import Family

Params = Mapping[str, Tensor]
Statistics = Mapping[str, tuple[Tensor, ...]]


class Refused(Exception):
    """There is no joint closed form; says why."""


COLLAPSED, TINY = 1e-14, 1e-300  # what a singular covariance is raised by, relative to its mean variance


class PriorUnbounded(Exception):
    """The update would go to a boundary at which the prior's density has no bound; says where."""


def _refuse_unbounded(name: str, pooled: Tensor, pseudo: Tensor) -> None:
    """A shape below one pulls with a negative count; where the data do not outweigh it, there is no interior maximum."""
    bad = (pooled <= 0) & (pseudo.reshape(-1) < 0)
    if bool(bad.any()):
        entry = int(bad.reshape(-1, bad.shape[-1]).any(0).nonzero()[0])
        raise PriorUnbounded(f'parameter "{name}", entry {entry}: the prior is unbounded where the update would go')


@dataclass(frozen=True)
class Selected:
    """Which flat cells of one role select which entries of one parameter."""

    cells: Tensor = field(repr=False)  # positions in the flattened role
    entries: Tensor = field(repr=False)  # positions in the flattened parameter
    complement: bool = False

    @cached_property
    def everything(self) -> bool:
        """Whether every cell selects its own entry, in order: there is nothing to pool."""
        cells, entries = self.cells, self.entries
        return bool((cells == torch.arange(len(cells), device=cells.device)).all() and (entries == cells).all())


def select(role: RoleMap, segments: Sequence[Segment], parameter: str) -> list[Selected]:
    """All places at which `parameter` enters a role."""
    flat = role.index.reshape(-1)
    found = []
    for segment in segments:
        if segment.parameter == parameter:
            cells = ((flat >= segment.offset) & (flat < segment.offset + segment.size)).nonzero().squeeze(-1)
            if len(cells):
                found.append(Selected(cells, flat[cells] - segment.offset, segment.complement))
    return found


def used_charts(role: RoleMap, segments: Sequence[Segment], parameter: str) -> set[str]:
    """Charts through which a parameter enters a role."""
    flat = role.entries
    return {
        s.chart.name
        for s in segments
        if s.parameter == parameter and bool(((flat >= s.offset) & (flat < s.offset + s.size)).any())
    }


def pool(values: Tensor, selected: Selected, size: int, lead: int) -> Tensor:
    """Sum the selected cells of `values` into the entries of the parameter."""
    flat = values.reshape((*values.shape[:lead], -1))
    if selected.everything and len(selected.cells) == size == flat.shape[-1]:
        return flat
    out = flat.new_zeros((*flat.shape[:lead], size))
    return out.index_add_(-1, selected.entries, flat[..., selected.cells])


def _flat_role(role: RoleMap, part: Tensor | None, default: float) -> Tensor:
    if part is None:
        return torch.full((), default, dtype=torch.float64)
    return part.reshape(-1).double()


# ---- probabilities ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """`a log p + b log(1 - p)`: `p = a / (a + b)`, or `a / sum(a)` along the rows of a simplex."""

    parameter: str
    chart: Chart
    simplex: bool
    uses: tuple[tuple[str, Selected, bool], ...] = field(repr=False)  # term, where, has failures
    pseudo: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def counts(self, statistics: Statistics, params: Params, lead: int = 0) -> tuple[Tensor, Tensor]:
        """Pooled `(a, b)`, shape of the parameter."""
        shape = params[self.parameter].shape
        size = shape[lead:].numel()
        a = params[self.parameter].new_zeros((*shape[:lead], size), dtype=torch.float64)
        b = torch.zeros_like(a)
        for term, where, failures in self.uses:
            parts = statistics[term]
            hits = pool(parts[0], where, size, lead)
            misses = pool(parts[1], where, size, lead) if failures else 0.0
            a, b = (a + misses, b + hits) if where.complement else (a + hits, b + misses)
        if self.pseudo is not None:
            a, b = a + self.pseudo[0].reshape(-1), b + self.pseudo[1].reshape(-1)
            for pooled, pseudo in zip((a, b), self.pseudo, strict=True):
                _refuse_unbounded(self.parameter, pooled, pseudo)
        return a.reshape(shape), b.reshape(shape)

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Maximise over the probabilities, and map back."""
        a, b = self.counts(statistics, params, lead)
        total = a.sum(-1, keepdim=True) if self.simplex else a + b
        solved = self.chart.inverse(a / torch.where(total > 0, total, 1.0))
        return {self.parameter: torch.where(total > 0, solved, params[self.parameter])}


@dataclass(frozen=True)
class Rates:
    """`a log(rate) - b rate`: `rate = a / b`."""

    parameter: str
    chart: Chart
    uses: tuple[tuple[str, Selected, Tensor], ...] = field(repr=False)  # term, where, known factor
    pseudo: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Maximise over the rates, and map back."""
        old = params[self.parameter]
        size = old.shape[lead:].numel()
        a = old.new_zeros((*old.shape[:lead], size), dtype=torch.float64)
        b = torch.zeros_like(a)
        for term, where, factor in self.uses:
            events, exposure = statistics[term][0].flatten(lead), statistics[term][1].flatten(lead)
            a = a + pool(events, where, size, lead)
            b = b + pool(exposure * factor, where, size, lead)
        if self.pseudo is not None:
            a, b = a + self.pseudo[0].reshape(-1), b + self.pseudo[1].reshape(-1)
            _refuse_unbounded(self.parameter, a, self.pseudo[0])
        solved = self.chart.inverse((a / torch.where(b > 0, b, 1.0)).reshape(old.shape))
        return {self.parameter: torch.where((b > 0).reshape(old.shape), solved, old)}


# ---- normal ----------------------------------------------------------------------------------------------------------


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

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """One pass: conditional on the scales the locations, then conditional on the locations the scales."""
        new = dict(params)
        if self.locations:
            new |= self._locations(statistics, new, lead)
        if self.scales:
            new |= self._scales(statistics, new, lead)
        return {name: new[name] for name in (*self.locations, *(n for n, _ in self.scales))}

    def _sums(self, use: NormalUse, statistics: Statistics, lead: int) -> tuple[Tensor, Tensor, Tensor]:
        n, first, second = statistics[use.term]
        return n.flatten(lead), first.flatten(lead), second.flatten(lead)

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
            value = self.all_scales[name].forward(params[name].double()).flatten(lead)
            scale[..., where.cells] = value[..., where.entries]
        return scale * use.scale_coefficient

    def _location_of(self, use: NormalUse, params: Params, lead: int) -> Tensor:
        """Current location of every cell, as shifted as the values are."""
        if use.affine is not None:
            entries = torch.stack([params[name].flatten(lead)[..., i] for name, i in use.affine.entries], -1).double()
            affine = use.affine.offset + (use.affine.design @ entries.unsqueeze(-1)).squeeze(-1)
            return affine.flatten(lead) - use.shift
        batch = next(iter(params.values())).shape[:lead]
        loc = use.loc_constant.expand(*batch, -1).clone()
        for name, where in use.loc_parameters:
            loc[..., where.cells] = params[name].double().flatten(lead)[..., where.entries]
        return loc * use.loc_coefficient - use.shift

    def _locations(self, statistics: Statistics, params: Params, lead: int) -> dict[str, Tensor]:
        if any(use.affine is not None for use in self.uses):
            return self._least_squares(statistics, params, lead)
        precision = {name: 0.0 for name in self.locations}
        linear = {name: 0.0 for name in self.locations}
        for use in self.uses:
            n, first, _ = self._sums(use, statistics, lead)
            tau = self._scale_of(use, params, lead) ** -2
            c = use.loc_coefficient
            for name, where in use.loc_parameters:
                if name in precision:
                    size = params[name].shape[lead:].numel()
                    precision[name] = precision[name] + pool(tau * n * c * c, where, size, lead)
                    linear[name] = linear[name] + pool(tau * c * (first + n * use.shift), where, size, lead)
        new = {}
        for name in self.locations:
            weight, total = precision[name], linear[name]
            if name in self.pseudo:
                total = total + self.pseudo[name][0].reshape(-1)
                weight = weight + self.pseudo[name][1].reshape(-1)
            old = params[name].double()
            solved = (total / torch.where(weight > 0, weight, 1.0)).reshape(old.shape)  # type: ignore[arg-type]
            new[name] = torch.where((weight > 0).reshape(old.shape), solved, old)  # type: ignore[attr-defined]
        return new

    def _least_squares(self, statistics: Statistics, params: Params, lead: int) -> dict[str, Tensor]:
        """Weighted normal equations over all location entries of the block together."""
        entries = [(name, i) for name in self.locations for i in range(params[name].shape[lead:].numel())]
        place = {entry: k for k, entry in enumerate(entries)}
        batch = next(iter(params.values())).shape[:lead]
        gram = torch.zeros((*batch, len(entries), len(entries)), dtype=torch.float64)
        right = torch.zeros((*batch, len(entries)), dtype=torch.float64)
        for use in self.uses:
            n, first, _ = self._sums(use, statistics, lead)
            tau = self._scale_of(use, params, lead) ** -2
            columns, design, offset = self._design(use, params, lead, place)
            weighted = design * (tau * n).unsqueeze(-1)
            block = weighted.mT @ design
            value = (tau * (first + n * (use.shift - offset))).unsqueeze(-2) @ design
            index = torch.tensor(columns)
            gram[..., index.unsqueeze(-1), index] += block
            right[..., index] += value.squeeze(-2)
        for name, (total, weight) in self.pseudo.items():
            index = torch.tensor([place[name, i] for i in range(total.numel())])
            gram[..., index, index] += weight.reshape(-1)
            right[..., index] += total.reshape(-1)
        old = torch.cat([params[name].double().flatten(lead) for name in self.locations], -1)
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
        flat = solved.solution.squeeze(-1) * scale
        new, at = {}, 0
        for name in self.locations:
            size = params[name].shape[lead:].numel()
            new[name] = flat[..., at : at + size].reshape(params[name].shape)
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
            return used, design, self._location_of(use, fixed, lead) + use.shift
        solved = [j for j, (name, _) in enumerate(use.affine.entries) if name in self.locations]
        known = [j for j in range(len(use.affine.entries)) if j not in solved]
        design = use.affine.design.flatten(0, -2).double()
        offset = use.affine.offset.reshape(-1).double()
        if known:
            values = torch.stack(
                [params[use.affine.entries[j][0]].flatten(lead)[..., use.affine.entries[j][1]] for j in known], -1
            )
            offset = offset + (design[:, known] @ values.double().unsqueeze(-1)).squeeze(-1)
        return [place[use.affine.entries[j]] for j in solved], design[:, solved], offset

    def _scales(self, statistics: Statistics, params: Params, lead: int) -> dict[str, Tensor]:
        squares = {name: 0.0 for name, _ in self.scales}
        rows = {name: 0.0 for name, _ in self.scales}
        for use in self.uses:
            if not any(name in squares for name, _ in use.scale_parameters):
                continue
            n, first, second = self._sums(use, statistics, lead)
            m = self._location_of(use, params, lead)
            spread = (second - 2 * m * first + m * m * n) / use.scale_coefficient**2
            for name, where in use.scale_parameters:
                if name in squares:
                    size = params[name].shape[lead:].numel()
                    squares[name] = squares[name] + pool(spread, where, size, lead)
                    rows[name] = rows[name] + pool(n, where, size, lead)
        new = {}
        for name, chart in self.scales:
            old = params[name].double()
            n = rows[name].reshape(old.shape)  # type: ignore[attr-defined]
            variance = squares[name].reshape(old.shape) / torch.where(n > 0, n, 1.0)  # type: ignore[attr-defined]
            new[name] = torch.where(n > 0, chart.inverse(variance.clamp(min=0).sqrt()), old)
        return new


# ---- multivariate normal ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """Cells that select whole rows or matrices of one parameter."""

    parameter: str
    which: Tensor = field(repr=False)  # of every cell
    count: int  # in the parameter

    @cached_property
    def everything(self) -> bool:
        """Whether cell `i` selects the `i`-th."""
        return self.count == len(self.which) and bool(
            (self.which == torch.arange(self.count, device=self.which.device)).all()
        )

    def pool(self, values: Tensor, lead: int) -> Tensor:
        """Sum the cells that select the same."""
        if self.everything:
            return values
        shape = (*values.shape[:lead], self.count, *values.shape[lead + 1 :])
        return values.new_zeros(shape).index_add_(lead, self.which, values)

    def spread(self, values: Tensor, lead: int) -> Tensor:
        """What every cell selects."""
        return values if self.everything else values.index_select(lead, self.which)


@dataclass(frozen=True)
class MatrixUse:
    """One MultivariateNormal site of a block."""

    term: str
    shift: Tensor = field(repr=False)
    rows: Whole | None = field(repr=False)  # rows of a mean parameter
    loc: Tensor | None = field(repr=False)  # known locations, flat cells x D
    matrices: Whole | None = field(repr=False)  # matrices of a scale parameter
    tril: Tensor | None = field(repr=False)


@dataclass(frozen=True)
class MatrixBlock:
    """Means, then covariances around the new means."""

    locations: tuple[str, ...]
    scales: tuple[tuple[str, Chart], ...]
    uses: tuple[MatrixUse, ...] = field(repr=False)
    all_scales: Mapping[str, Chart] = field(repr=False)
    shared: bool  # a mean whose cells differ in covariance: precision-weighted
    pseudo: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """One pass: the means given the covariances, then the covariances given the means."""
        new = dict(params)
        for name in self.locations:
            new[name] = self._mean(name, statistics, new, lead)
        for name, chart in self.scales:
            new[name] = self._covariance(name, chart, statistics, new, lead)
        return {name: new[name] for name in (*self.locations, *(n for n, _ in self.scales))}

    def _sums(self, use: MatrixUse, statistics: Statistics, lead: int) -> tuple[Tensor, Tensor, Tensor]:
        n, first, second = statistics[use.term]
        dim = first.shape[-1]
        n, first = n.flatten(lead), first.flatten(lead, -2) if first.dim() > lead + 1 else first.unsqueeze(lead)
        flat = second.flatten(lead, -2) if second.dim() > lead + 1 else second.unsqueeze(lead)
        i, j = torch.triu_indices(dim, dim, device=flat.device)
        full = flat.new_zeros((*flat.shape[:-1], dim, dim))
        full[..., i, j] = flat
        full[..., j, i] = flat
        return n, first, full

    def _mean(self, name: str, statistics: Statistics, params: Params, lead: int) -> Tensor:
        old = params[name].double()
        dim = old.shape[-1]
        rows = old.reshape((*old.shape[:lead], -1, dim))
        weighted = self.shared or name in self.pseudo
        total: Tensor | float = 0.0
        weight: Tensor | float = 0.0
        for use in self.uses:
            if use.rows is None or use.rows.parameter != name:
                continue
            n, first, _ = self._sums(use, statistics, lead)
            first = first + n.unsqueeze(-1) * use.shift
            each = n.unsqueeze(-1)
            if weighted:
                precision = torch.cholesky_inverse(self._tril(use, params, lead))
                first = (precision @ first.unsqueeze(-1)).squeeze(-1)
                each = n[..., None, None] * precision
            total = total + use.rows.pool(first, lead)
            weight = weight + use.rows.pool(each, lead)
        assert isinstance(total, Tensor)
        assert isinstance(weight, Tensor)
        if not weighted:
            return torch.where(weight > 0, total / torch.where(weight > 0, weight, 1.0), rows).reshape(old.shape)
        if name in self.pseudo:
            total = total + self.pseudo[name][0].reshape(-1, dim)
            weight = weight + torch.diag_embed(self.pseudo[name][1].reshape(-1, dim))
        empty = weight.diagonal(dim1=-2, dim2=-1).amin(-1) <= 0
        eye = torch.eye(dim, dtype=torch.float64, device=rows.device)
        solved = torch.linalg.solve(torch.where(empty[..., None, None], eye, weight), total.unsqueeze(-1)).squeeze(-1)
        return torch.where(empty.unsqueeze(-1), rows, solved).reshape(old.shape)

    def _tril(self, use: MatrixUse, params: Params, lead: int) -> Tensor:
        if use.matrices is None:
            assert use.tril is not None
            return use.tril
        value = self.all_scales[use.matrices.parameter].forward(params[use.matrices.parameter].double())
        return use.matrices.spread(value.reshape((*value.shape[:lead], -1, *value.shape[-2:])), lead)

    def _covariance(self, name: str, chart: Chart, statistics: Statistics, params: Params, lead: int) -> Tensor:
        old = params[name].double()
        dim = old.shape[-1]
        scatter: Tensor | float = 0.0
        rows: Tensor | float = 0.0
        for use in self.uses:
            if use.matrices is None or use.matrices.parameter != name:
                continue
            n, first, second = self._sums(use, statistics, lead)
            m = use.loc
            if use.rows is not None:
                loc = params[use.rows.parameter].double()
                m = use.rows.spread(loc.reshape((*loc.shape[:lead], -1, dim)), lead)
            assert m is not None
            m = m - use.shift
            cross = m.unsqueeze(-1) * first.unsqueeze(-2)
            around = second - cross - cross.mT + n[..., None, None] * (m.unsqueeze(-1) * m.unsqueeze(-2))
            scatter = scatter + use.matrices.pool(around, lead)
            rows = rows + use.matrices.pool(n, lead)
        assert isinstance(scatter, Tensor)
        assert isinstance(rows, Tensor)
        covariance = scatter / torch.where(rows > 0, rows, 1.0)[..., None, None]
        tril, bad = torch.linalg.cholesky_ex(covariance)
        keep = (rows <= 0)[..., None, None]
        if bool(((bad != 0) & (rows > 0)).any()):  # on a line, or on a point: the loop names it a collapse
            size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
            eye = torch.eye(dim, dtype=torch.float64, device=covariance.device)
            raised, worse = torch.linalg.cholesky_ex(covariance + (COLLAPSED * size + TINY) * eye)
            tril = torch.where((bad != 0)[..., None, None], raised, tril)
            keep = keep | (worse != 0)[..., None, None]
        solved = chart.inverse(tril)
        return torch.where(keep, old.reshape(solved.shape), solved).reshape(old.shape)


# ---- any registered family -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Joint:
    """All free arguments of a cell together, by `Family.solve`; cells that select the same entries are pooled."""

    family: Family
    charts: Mapping[str, tuple[str, Chart]]  # role -> parameter and chart
    uses: tuple[tuple[str, Tensor], ...] = field(repr=False)  # term, group of each flat cell
    entries: Mapping[str, Tensor] = field(repr=False)  # role -> first entry of its parameter in each group
    known: Mapping[str, Tensor] = field(repr=False)  # role -> known value in each group
    sizes: Mapping[str, int] = field(repr=False)  # role -> entries a cell
    fixed: frozenset[str] = frozenset()  # roles whose parameters stay as they are

    @property
    def solved(self) -> Mapping[str, tuple[str, Chart]]:
        """Role -> parameter and chart, of the roles solved for."""
        return {role: part for role, part in self.charts.items() if role not in self.fixed}

    @property
    def groups(self) -> int:
        """Number of different cells."""
        return len(next(iter(self.entries.values())))

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Pool, solve and map back."""
        pooled: list[Tensor] = []
        for term, group in self.uses:
            for k, part in enumerate(statistics[term]):
                event = part.shape[part.dim() - self.family_events(statistics[term])[k] :]
                flat = part.reshape(*part.shape[:lead], -1, *event)
                total = flat.new_zeros((*flat.shape[:lead], self.groups, *event)).index_add_(lead, group, flat)
                pooled = [*pooled, total] if k >= len(pooled) else [*pooled[:k], pooled[k] + total, *pooled[k + 1 :]]
        args = self.arguments(params, lead)
        return self.placed(self.family.solve(tuple(pooled), args, frozenset(self.solved)), params, lead)

    def arguments(self, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Current arguments of every group, in the user's units."""
        batch = next(iter(params.values())).shape[:lead]
        args = {role: value.expand((*batch, *value.shape)) for role, value in self.known.items()}
        for role, (name, chart) in self.charts.items():
            value = chart.forward(params[name].double())
            value = value.flatten(lead) if value.dim() > lead else value.unsqueeze(-1)
            bound = value[..., self._index(role)]
            args[role] = bound if self.family.roles[role].event_dim else bound.squeeze(-1)
        return args

    def placed(self, solved: Mapping[str, Tensor], params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Parameters with the solved arguments in their places."""
        new = {}
        for role, (name, chart) in self.solved.items():
            old = params[name].double()
            flat = old.flatten(lead).clone() if old.dim() > lead else old.unsqueeze(-1).clone()
            value = chart.inverse(solved[role])
            flat[..., self._index(role)] = value if self.family.roles[role].event_dim else value.unsqueeze(-1)
            new[name] = flat.reshape(old.shape)
        return new

    def _index(self, role: str) -> Tensor:
        """Flat entries of every group."""
        return self.entries[role].unsqueeze(-1) + torch.arange(self.sizes[role], device=self.entries[role].device)

    def family_events(self, parts: tuple[Tensor, ...]) -> tuple[int, ...]:
        """Event dimensions of every statistic: what the smallest of them lacks."""
        least = min(part.dim() for part in parts)
        return tuple(part.dim() - least for part in parts)
