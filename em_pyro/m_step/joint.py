"""Any registered family: all free arguments of a cell together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.sites.site_factor import SiteFactor
from ..e_step.sums import Sums
from ..families import Family
from ..families.charts import Chart
from ..program.named import Batch
from ..reading.bank import RoleMap
from ..records.frozen import frozen
from .pooling import Refused, added, flat
from .uses import Block, chart_of, made_up, segments_of, terms_of


@frozen
class Joint:
    """All free arguments of a cell together, by `Family.solve`; cells that select the same entries are pooled.

    Attributes:
        family: of all sites.
        charts: role -> parameter and chart.
        uses: site, and the group of each of its flat cells.
        index: role -> flat entries of its parameter in each group, shape (groups, entries of a cell).
        known: role -> known value in each group.
        ranks: event dimensions of every statistic.
        fixed: roles whose parameters stay as they are.
        groups: number of different cells.
    """

    how: ClassVar[str] = "closed form"
    separable: ClassVar[bool] = False
    absorbs: ClassVar[bool] = False
    swept: ClassVar[str] = ""

    family: Family
    charts: Mapping[str, tuple[str, Chart]]
    uses: tuple[tuple[str, Tensor], ...] = field(repr=False)
    index: Mapping[str, Tensor] = field(repr=False)
    known: Mapping[str, Tensor] = field(repr=False)
    ranks: tuple[int, ...] = field(repr=False)
    fixed: frozenset[str]
    groups: int

    @classmethod
    def of(cls, engine: Engine, block: Block) -> Joint:
        """Group the cells of a family, and ask it whether it solves for this set of roles."""
        solver = grouped(engine, block)
        tried(solver.family, lambda: solver.solve(made_up(terms_of(engine, block.names)), first_batch(engine, block)))
        return solver

    @property
    def solved(self) -> Mapping[str, tuple[str, Chart]]:
        """Role -> parameter and chart, of the roles solved for."""
        return {role: part for role, part in self.charts.items() if role not in self.fixed}

    @property
    def parameters(self) -> tuple[str, ...]:
        """Those that are solved for."""
        return tuple(name for name, _ in self.solved.values())

    def solve(self, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Tensor]:
        """Pool, solve and map back."""
        totals = [self._pooled(sums[name], group) for name, group in self.uses]
        pooled = [added(parts) for parts in zip(*totals, strict=True)]
        starts = len(pooled[0])
        args = {role: value.flatten(0, 1) for role, value in self.arguments(batch, starts).items()}
        solved = self.family.solve(tuple(part.flatten(0, 1) for part in pooled), args, frozenset(self.solved))
        return self.placed({role: value.unflatten(0, (starts, -1)) for role, value in solved.items()}, batch)

    def _pooled(self, sums: Sums, group: Tensor) -> list[Tensor]:
        """Statistics of every group, (S, groups) + event, of one site."""
        if sums.around is not None:
            sums = sums.about(torch.zeros_like(sums.around))  # cells of one group may have several centres
        found = []
        for part, rank in zip(sums.parts, self.ranks, strict=True):
            event = part.shape[part.dim() - rank :]
            cells = part.reshape((len(part), -1, *event))
            found.append(cells.new_zeros((len(cells), self.groups, *event)).index_add_(1, group, cells))
        return found

    def arguments(self, batch: Batch, starts: int) -> dict[str, Tensor]:
        """Current arguments of every group, (S, groups) + event of the role, in the user's units."""
        args = {role: value.expand((starts, *value.shape)) for role, value in self.known.items()}
        for role, (name, chart) in self.charts.items():
            bound = flat(chart.forward(batch[name].double()))[:, self.index[role]]
            args[role] = bound if self.family.roles[role].event_dim else bound.squeeze(-1)
        return args

    def placed(self, solved: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Parameters with the solved arguments in their places."""
        new = {}
        for role, (name, chart) in self.solved.items():
            old = batch[name].double()
            entries, value = flat(old).clone(), chart.inverse(solved[role])
            entries[:, self.index[role]] = value if self.family.roles[role].event_dim else value.unsqueeze(-1)
            new[name] = entries.reshape(old.shape)
        return new


# ---- planning --------------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """One argument of all cells of a site: which entries of its parameter, or which known values."""

    role: str
    cells: Tensor  # (cells, entries of a cell)
    known: bool


def grouped(engine: Engine, block: Block) -> Joint:
    """Group the cells of a family that select the same entries.

    Raises:
        Refused: the arguments of some cells are not solved by themselves.
    """
    for name in block.names:
        if block.held.get(name, "fixed") != "fixed":
            raise Refused(f'"{name}", with which it has a joint maximum, is maximised otherwise')
    factors = terms_of(engine, block.names)
    family = factors[0].family
    if any(factor.family is not family for factor in factors):
        raise Refused("it is used by different families")
    charts: dict[str, tuple[str, Chart]] = {}
    groups: dict[tuple[tuple[float, ...], ...], int] = {}
    places = []
    index: dict[str, Tensor] = {}
    known: dict[str, Tensor] = {}
    for factor in factors:
        columns = [_column(engine, block, factor, key, role, charts) for key, role in factor.roles.items()]
        keys = zip(*([tuple(cell) for cell in column.cells.tolist()] for column in columns), strict=True)
        places.append((factor.name, torch.tensor([groups.setdefault(key, len(groups)) for key in keys])))
        for at, column in enumerate(columns):
            table = [key[at] for key in groups]
            if not column.known:
                index[column.role] = torch.tensor(table)
            else:
                values = torch.tensor(table, dtype=torch.float64)
                known[column.role] = values if family.roles[column.role].event_dim else values.squeeze(-1)
    fixed = frozenset(key for key, (name, _) in charts.items() if name in block.held)
    _check_apart(charts, index, known, fixed)
    ranks = tuple(len(event) for event in factors[0].form.events(factors[0]))
    return Joint(family, charts, tuple(places), index, known, ranks, fixed, len(groups))


def _column(
    engine: Engine, block: Block, factor: SiteFactor, key: str, role: RoleMap, charts: dict[str, tuple[str, Chart]]
) -> Column:
    """One argument of the cells of a site; notes in `charts` from which parameter it comes."""
    bank, own = engine.recognition.bank, factor.family.roles[key]
    whole = role.index.shape[role.index.dim() - own.event_dim :] if own.event_dim else (1,)
    cells = role.index.reshape((-1, torch.Size(whole).numel()))
    if bool((cells < 0).any()):
        if not role.known:
            raise Refused("an argument is partly known")
        assert role.constant is not None
        return Column(key, role.constant.reshape(cells.shape), known=True)
    names = bank.parameters(role, own.domain)
    if len(names) > 1 or role.coefficient is not None:
        raise Refused("an argument is not selected from one parameter")
    (name,) = names
    if name not in block.names:
        raise Refused(f'"{name}", with which it has a joint maximum, has no closed form')
    chart = chart_of(engine, name, block.uses[name])
    if charts.setdefault(key, (name, chart)) != (name, chart):
        raise Refused("one argument comes from several parameters")
    size = cells.shape[1]
    plain = [s for s in segments_of(bank, factor, key) if s.parameter == name and s.chart is chart and not s.complement]
    segment = next((s for s in plain if bool(s.holds(cells).all())), None)
    if segment is None or bool((cells != cells[:, :1] + torch.arange(size)).any()):
        raise Refused("an argument is not a row of its parameter")
    if bool(((cells[:, 0] - segment.offset) % size != 0).any()):
        raise Refused("rows of an argument overlap")
    return Column(key, cells - segment.offset, known=False)


def _check_apart(
    charts: Mapping[str, tuple[str, Chart]],
    index: Mapping[str, Tensor],
    known: Mapping[str, Tensor],
    fixed: frozenset[str],
) -> None:
    """Refuse groups that are not maximised one by one."""
    if set(index) & set(known):
        raise Refused("an argument is known at one site and estimated at another")
    if len({name for name, _ in charts.values()}) != len(charts):
        raise Refused("one parameter is used in two roles")
    for key, entries in index.items():
        if key not in fixed and len(entries[:, 0].unique()) != len(entries):
            raise Refused(f'"{charts[key][0]}" is shared by cells whose other arguments differ')


def first_batch(engine: Engine, block: Block) -> dict[str, Tensor]:
    """Return the values that parameters of a block, and those that meet them, have at first: a batch of one start."""
    parameters = engine.program.parameters
    return {name: parameters[name].initial.double().unsqueeze(0) for name in {*block.names, *block.held}}


def tried(family: Family, solve: Callable[[], object]) -> None:
    """Solve once on made-up statistics.

    Raises:
        Refused: the family has no solution for this set of roles.
    """
    try:
        solve()
    except NotImplementedError as reason:
        raise Refused(f"{type(family).__name__} has no solution for these arguments {reason}".strip()) from None
