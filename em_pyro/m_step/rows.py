"""Families that solve from the rows themselves: values and weights of every group of cells are handed to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.sites.rows import ByRow
from ..e_step.sums import Sums
from ..families import RowFamily
from ..program.named import Batch
from ..records.frozen import frozen
from .joint import Joint, first_batch, grouped, tried
from .uses import Block, made_up, terms_of


@frozen
class Rows:
    """All free arguments of a cell together, by `RowFamily.solve_rows`; cells with the same entries are pooled.

    Attributes:
        joint: which cells those are.
        slots: site -> flat cells of each group, -1 for none, shape (groups, most cells of one).
        value: rows of each group, shape (groups, rows) + event.
        known: known arguments, shape (groups, rows).
    """

    how: ClassVar[str] = "closed form"
    separable: ClassVar[bool] = False
    absorbs: ClassVar[bool] = False
    swept: ClassVar[str] = ""

    joint: Joint
    slots: Mapping[str, Tensor] = field(repr=False)
    value: Tensor = field(repr=False)
    known: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, engine: Engine, block: Block) -> Rows:
        """Lay the rows of every group of cells out side by side, and ask the family whether it solves for them."""
        factors = terms_of(engine, block.names)
        joint = grouped(engine, block)
        slots, values = {}, []
        known: dict[str, list[Tensor]] = {}
        for (name, group), factor in zip(joint.uses, factors, strict=True):
            slots[name] = _slots(group, joint.groups)
            form = cast(ByRow, factor.form)
            shape = (*factor.cell_shape, *factor.event_shape, form.count)
            values.append(_gathered(form.value, slots[name], shape, factor.family.event_dim))
            for key, part in form.known.items():
                known.setdefault(key, []).append(_gathered(part, slots[name], shape, 0))
        of_rows = {key: torch.cat(parts, 1) for key, parts in known.items()}
        solver = cls(joint, slots, torch.cat(values, 1), of_rows)
        # Without weight: nothing is to be solved, and only what the family cannot do comes to light.
        nothing = {n: replace(s, parts=(torch.zeros_like(s.parts[0]),)) for n, s in made_up(factors).items()}
        tried(joint.family, lambda: solver.solve(nothing, first_batch(engine, block)))
        return solver

    @property
    def parameters(self) -> tuple[str, ...]:
        """Those that are solved for."""
        return self.joint.parameters

    def solve(self, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Tensor]:
        """Collect the rows of every group, solve and map back."""
        parts = []
        for name, slots in self.slots.items():
            (weights,) = sums[name].parts
            cells = weights.reshape((len(weights), -1, weights.shape[-1]))
            cells = torch.cat([cells, cells.new_zeros((len(cells), 1, cells.shape[-1]))], 1)  # what slot -1 takes
            parts.append(cells[:, slots].flatten(-2))
        weights = torch.cat(parts, -1)
        starts = len(weights)

        def every(part: Tensor) -> Tensor:
            """What is the same for all starts, once for each of them: (S groups,) + the rest."""
            return part if starts == 1 else part.expand((starts, *part.shape)).flatten(0, 1)

        args = {key: part.flatten(0, 1) for key, part in self.joint.arguments(batch, starts).items()}
        args |= {key: every(part) for key, part in self.known.items()}
        family = cast(RowFamily, self.joint.family)
        solved = family.solve_rows(every(self.value), weights.flatten(0, 1), args, frozenset(self.joint.solved))
        return self.joint.placed({key: part.unflatten(0, (starts, -1)) for key, part in solved.items()}, batch)


def _slots(group: Tensor, groups: int) -> Tensor:
    """Flat cells of every group, -1 for none: shape (groups, most cells of one)."""
    counts = torch.bincount(group, minlength=groups)
    cells = group.argsort(stable=True)
    table = torch.full((groups, int(counts.max())), -1)
    table[group[cells], torch.arange(len(group)) - (counts.cumsum(0) - counts)[group[cells]]] = cells
    return table


def _gathered(part: Tensor, slots: Tensor, shape: tuple[int, ...], event: int) -> Tensor:
    """The rows of every group."""
    tail = part.shape[part.dim() - event :]
    part = part.expand((*shape, *tail)).reshape((-1, shape[-1], *tail))
    return part[slots.clamp(min=0)].flatten(1, 2)
