"""The bank of atoms: every parameter entry, through every function of it that the program uses, in one flat vector.

Binding the arguments of a recognised program to new parameter values is then a handful of gathers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .charts import Chart, log_pair

Params = Mapping[str, Tensor]


@dataclass(frozen=True)
class Segment:
    """One parameter seen through one chart (`1 - chart` where `complement`): a stretch of the bank."""

    parameter: str
    chart: Chart
    complement: bool
    offset: int
    size: int
    event_dim: int = 0  # 2 for a bank of whole matrices


@dataclass(frozen=True)
class Affine:
    """A location `offset + design @ entries`: dimensions of the role map that it belongs to, then one per entry."""

    entries: tuple[tuple[str, int], ...]  # parameter, flat entry
    offset: Tensor = field(repr=False)
    design: Tensor = field(repr=False)

    def columns(self, parameter: str) -> list[int]:
        """Design columns that belong to `parameter`."""
        return [i for i, (name, _) in enumerate(self.entries) if name == parameter]


@dataclass(frozen=True)
class RoleMap:
    """Where an argument comes from: `coefficient * bank[index]`, the constant where the index is -1, or affine.

    Dimensions: the named ones, then the events of the site, then the events of the role (a matrix is one entry).
    """

    names: tuple[str, ...]
    index: Tensor = field(repr=False)
    coefficient: Tensor | None = field(default=None, repr=False)
    constant: Tensor | None = field(default=None, repr=False)
    affine: Affine | None = field(default=None, repr=False)

    @property
    def known(self) -> bool:
        """Whether no parameter enters."""
        return self.affine is None and bool((self.index < 0).all())

    def entries(self) -> Tensor:
        """Bank positions that occur."""
        return self.index[self.index >= 0].unique()


@dataclass(frozen=True)
class Bank:
    """Layout of the atoms; `matrices` number whole matrices instead of entries."""

    segments: tuple[Segment, ...]
    matrices: tuple[Segment, ...]

    def segment(self, position: int, *, matrix: bool = False) -> Segment:
        """The segment that holds a position."""
        for segment in self.matrices if matrix else self.segments:
            if segment.offset <= position < segment.offset + segment.size:
                return segment
        raise AssertionError(position)

    def parameters(self, role: RoleMap, *, matrix: bool = False) -> frozenset[str]:
        """Parameters that enter an argument."""
        if role.affine is not None:
            return frozenset(name for name, _ in role.affine.entries)
        used = role.entries()
        segments = self.matrices if matrix else self.segments
        return frozenset(s.parameter for s in segments if ((used >= s.offset) & (used < s.offset + s.size)).any())

    def values(self, params: Params, lead: int = 0) -> Tensor:
        """All atoms, shape `(M,)` after `lead` dimensions of starts."""
        return _joined([_complement(s, s.chart.forward(params[s.parameter])) for s in self.segments], lead)

    def logs(self, params: Params, lead: int = 0) -> tuple[Tensor, Tensor]:
        """Logarithms of all atoms and of one minus them (not a number where an atom is no probability)."""
        pairs = []
        for s in self.segments:
            log, log_complement = log_pair(s.chart, params[s.parameter])
            pairs.append((log_complement, log) if s.complement else (log, log_complement))
        return _joined([p[0] for p in pairs], lead), _joined([p[1] for p in pairs], lead)

    def stack(self, params: Params, lead: int = 0) -> Tensor:
        """All matrices as Cholesky factors, shape `(M, D, D)`."""
        parts = [s.chart.forward(params[s.parameter]) for s in self.matrices]
        return torch.cat([p.reshape(p.shape[:lead] + (-1,) + p.shape[-2:]) for p in parts], lead)


def gather(role: RoleMap, atoms: Tensor, params: Params, lead: int = 0) -> Tensor:
    """Bind one argument."""
    if role.affine is not None:
        entries = torch.stack([params[name].flatten(lead)[..., i] for name, i in role.affine.entries], -1)
        return role.affine.offset + (role.affine.design @ entries.unsqueeze(-1)).squeeze(-1)
    if role.known:
        assert role.constant is not None
        return role.constant
    bound = atoms[(slice(None),) * lead + (role.index.clamp(min=0),)]
    if role.coefficient is not None:
        bound = bound * role.coefficient
    return bound if role.constant is None else torch.where(role.index < 0, role.constant, bound)


def _complement(segment: Segment, value: Tensor) -> Tensor:
    return 1 - value if segment.complement else value


def _joined(parts: list[Tensor], lead: int) -> Tensor:
    if not parts:
        return torch.zeros(0)
    return torch.cat([p.reshape(p.shape[:lead] + (-1,)) for p in parts], -1)
