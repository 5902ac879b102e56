"""Families that solve from the rows themselves: values and weights of every group of cells are handed to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..e_step.sites.rows import RowTerm
from ..e_step.sites.site_factor import Term
from ..families import RowFamily
from ..families.charts import Chart
from ..program.named import Params
from .joint import Joint
from .pooling import Statistics


@dataclass(frozen=True)
class Rows:
    """All free arguments of a cell together, by `RowFamily.solve_rows`; cells with the same entries are pooled."""

    joint: Joint
    slots: Mapping[str, Tensor] = field(repr=False)  # term -> (groups, most cells of one): flat cells, -1 for none
    value: Tensor = field(repr=False)  # (groups, rows) + event
    known: Mapping[str, Tensor] = field(repr=False)  # (groups, rows)

    @property
    def solved(self) -> Mapping[str, tuple[str, Chart]]:
        """Role -> parameter and chart, of the roles solved for."""
        return self.joint.solved

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Collect the rows of every group, solve and map back."""
        family = self.joint.family
        assert isinstance(family, RowFamily)
        parts = []
        for term, slots in self.slots.items():
            (weights,) = statistics[term]
            flat = weights.reshape((*weights.shape[:lead], -1, weights.shape[-1]))
            flat = torch.cat([flat, flat.new_zeros((*flat.shape[:lead], 1, flat.shape[-1]))], lead)
            parts.append(flat[..., slots, :].flatten(-2))
        weights = torch.cat(parts, -1)
        starts, groups = weights.shape[:lead], weights.shape[lead]

        def each(part: Tensor, batch: int) -> Tensor:
            """One row of `part` for every start and group."""
            return part.expand((*starts, *part.shape[batch:])).flatten(0, lead) if lead else part

        args = {key: each(part, part.dim() - 1) for key, part in self.joint.arguments(params, lead).items()}
        args |= {key: each(part, 0) for key, part in self.known.items()}
        solved = family.solve_rows(
            each(self.value, 0), weights.reshape((-1, weights.shape[-1])), args, frozenset(self.joint.solved)
        )
        return self.joint.placed({key: part.reshape((*starts, groups)) for key, part in solved.items()}, params, lead)


def rows(joint: Joint, terms: Mapping[str, Term]) -> Rows:
    """Lay the rows of every group of cells out side by side."""
    groups = joint.groups
    slots, values = {}, []
    known: dict[str, list[Tensor]] = {}
    for name, group in joint.uses:
        term = terms[name]
        assert isinstance(term, RowTerm)
        counts = torch.bincount(group, minlength=groups)
        cells = group.argsort(stable=True)
        table = torch.full((groups, int(counts.max())), -1)
        table[group[cells], torch.arange(len(group)) - (counts.cumsum(0) - counts)[group[cells]]] = cells
        slots[name] = table
        shape = (*term.cell_shape, *term.event_shape, term.count)

        def gathered(part: Tensor, event: int, shape: tuple[int, ...] = shape, table: Tensor = table) -> Tensor:
            """The rows of every group."""
            tail = part.shape[part.dim() - event :]
            part = part.expand((*shape, *tail)).reshape((-1, shape[-1], *tail))
            return part[table.clamp(min=0)].flatten(1, 2)

        values.append(gathered(term.rows_of_value, term.family.event_dim))
        for key, part in term.rows_of_known.items():
            known.setdefault(key, []).append(gathered(part, 0))
    return Rows(joint, slots, torch.cat(values, 1), {key: torch.cat(parts, 1) for key, parts in known.items()})
