"""Any registered family: all free arguments of a cell together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..families import Family
from ..families.charts import Chart
from ..program.named import Params
from .pooling import Statistics, flat


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
                cells = part.reshape(*part.shape[:lead], -1, *event)
                total = cells.new_zeros((*cells.shape[:lead], self.groups, *event)).index_add_(lead, group, cells)
                pooled = [*pooled, total] if k >= len(pooled) else [*pooled[:k], pooled[k] + total, *pooled[k + 1 :]]
        args = self.arguments(params, lead)
        return self.placed(self.family.solve(tuple(pooled), args, frozenset(self.solved)), params, lead)

    def arguments(self, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Current arguments of every group, in the user's units."""
        batch = next(iter(params.values())).shape[:lead]
        args = {role: value.expand((*batch, *value.shape)) for role, value in self.known.items()}
        for role, (name, chart) in self.charts.items():
            value = chart.forward(params[name].double())
            bound = flat(value, lead)[..., self._index(role)]
            args[role] = bound if self.family.roles[role].event_dim else bound.squeeze(-1)
        return args

    def placed(self, solved: Mapping[str, Tensor], params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Parameters with the solved arguments in their places."""
        new = {}
        for role, (name, chart) in self.solved.items():
            old = params[name].double()
            entries = flat(old, lead).clone()
            value = chart.inverse(solved[role])
            entries[..., self._index(role)] = value if self.family.roles[role].event_dim else value.unsqueeze(-1)
            new[name] = entries.reshape(old.shape)
        return new

    def _index(self, role: str) -> Tensor:
        """Flat entries of every group."""
        return self.entries[role].unsqueeze(-1) + torch.arange(self.sizes[role], device=self.entries[role].device)

    def family_events(self, parts: tuple[Tensor, ...]) -> tuple[int, ...]:
        """Event dimensions of every statistic: what the smallest of them lacks."""
        least = min(part.dim() for part in parts)
        return tuple(part.dim() - least for part in parts)
