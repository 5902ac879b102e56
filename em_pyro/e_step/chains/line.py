"""A chain of latents, laid out: what it is made of, its dimensions, and the logarithms that its recursion takes.

Dimensions: starts, then `apart` (rows that have transitions of their own), states, steps, and `rows` (the other rows,
which share them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...program.named import align
from ...program.unroll import FROM, STATE, TIME, TO
from ...reading.bound import Bound
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from ..several.abreast import Abreast
from ..several.stack import Stack
from ..sites.site_factor import SiteFactor
from ..sums import Sums
from ..units import Unit
from .parts import Part, together

Mark = Tensor | None
"""Entries that enter the statistics, (apart, steps, rows); None is all."""


@frozen
class Line(Unit):
    """A chain, laid out."""

    name: str
    title: str  # what the plan calls it
    steps_of: tuple[str, ...]  # latents of the program, in order; none where the states are hidden in a site
    states: int
    steps: int
    initial: tuple[Part, ...]
    transitions: tuple[Part, ...]
    emissions: tuple[Part, ...]
    outside: tuple[str, ...]  # latents and plates around the chain, those of more than one row
    sizes: Mapping[str, int] = field(repr=False)
    entered: bool = False  # whether a transition leads to the first step
    weighted: bool = True  # whether rows may have another share than one
    method: str = "torch"  # of the recursion
    reason: str = ""  # for that method

    @property
    def members(self) -> tuple[str, ...]:
        """The factor that it computes."""
        return (self.name,)

    @property
    def names(self) -> tuple[str, ...]:
        """Dimensions of the factor."""
        return self.outside

    @property
    def latents(self) -> tuple[str, ...]:
        """The site whose states are no latents of the program, if they are hidden in one."""
        return () if self.steps_of else (self.name,)

    @property
    def inside(self) -> tuple[str, ...]:
        """Its states, by step where they are latents of the program."""
        return self.steps_of or (self.name,)

    @property
    def held(self) -> int:
        """Numbers in the laws of all pairs of successive states; hidden ones are dimensions of the factors."""
        return self.steps * self.states**2 * prod(self.sizes[n] for n in self.outside) if self.steps_of else 0

    @property
    def notes(self) -> Mapping[str, str]:
        """By which recursion it is run, and why."""
        how = "compiled recursions" if self.method == "numba" else "a scan in torch"
        return {self.title: f"{how}, because {self.reason}"}

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All parts."""
        return (*self.initial, *self.transitions, *self.emissions)

    @cached_property
    def compiled(self) -> tuple[Stack | Abreast, ...]:
        """The compiled sites."""
        return tuple(part.unit for part in self.parts if part.unit is not None)

    @cached_property
    def factors(self) -> tuple[SiteFactor, ...]:
        """The site factors whose sums come out."""
        return tuple(factor for unit in self.compiled for factor in unit.factors)

    def inner(self, bound: Bound, sums: Mapping[str, Sums]) -> Tensor:
        """The share of all parts in `Q`."""
        return sum((unit.inner(bound, sums) for unit in self.compiled), torch.zeros((), dtype=torch.float64))

    @cached_property
    def every(self) -> tuple[SiteFactor, ...]:
        """All site factors in it."""
        return tuple(factor for unit in self.compiled for factor in unit.every)

    @property
    def stands_for(self) -> Mapping[str, tuple[str, ...]]:
        """The sites of all steps, under the names of those that are the same function."""
        return {name: same for unit in self.compiled for name, same in unit.stands_for.items()}

    @cached_property
    def absorbed(self) -> tuple[str, ...]:
        """The sites, or parts of a site, that come from the model itself."""
        return tuple(part.name for part in self.parts if part.unit is None)

    def dimensions(self, name: str) -> tuple[str, ...]:
        """Dimensions of a replayed part, as the model has them."""
        return next(part.rows for part in self.parts if part.unit is None and part.name == name)

    @cached_property
    def sites(self) -> frozenset[str]:
        """All that its factor is made of."""
        return frozenset(self.absorbed).union(*(unit.members for unit in self.compiled))

    @property
    def emission(self) -> SiteFactor | None:
        """What is seen of the states of a site, if it is compiled."""
        unit = self.emissions[0].unit
        return None if unit is None else unit.first

    @cached_property
    def apart(self) -> tuple[str, ...]:
        """Dimensions of the rows that have transitions of their own."""
        return tuple(n for n in self.outside if any(n in part.names for part in self.transitions))

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """Dimensions of the other rows."""
        return tuple(n for n in self.outside if n not in self.apart)

    @property
    def moves(self) -> int:
        """Number of transitions."""
        return self.steps if self.entered else self.steps - 1

    @cached_property
    def steady(self) -> bool:
        """Whether all transitions are the same."""
        return all(TIME not in part.names and len(part.steps) == self.moves for part in self.transitions)

    @property
    def _time(self) -> tuple[str, ...]:
        return () if self.steady else (TIME,)

    def logs(
        self, natural: Sequence[Any], chunk: Chunk = WHOLE
    ) -> tuple[Tensor, Tensor, Callable[[], Tensor], list[Any]]:
        """Logarithms of the three parts.

        Returns:
            The law of the initial state `(..., K, rows or 1)`; transitions as `smooth` takes them; a function that
            returns the log-likelihoods `(..., K, T, rows)` in memory of its own; what the parts remember.
        """
        memos: list[Any] = [None] * len(self.parts)
        given = list(zip(self.parts, natural, strict=True))
        apart, rows = self._shape(self.apart, chunk), self._shape(self.rows, chunk)

        def taken(first: int, many: int) -> list[Tensor]:
            logs = []
            for k in range(first, first + many):
                part, eta = given[k]
                log, memos[k] = part.log_factor(eta, chunk)
                logs.append(log)
            return logs

        logs = taken(0, len(self.initial))
        want = (*self.apart, STATE, *self.rows)
        if logs:
            start = sum(align(log, p.names, want) for p, log in zip(self.initial, logs, strict=True))
            assert isinstance(start, Tensor)
            inner = rows if start.shape[start.dim() - len(rows) :].numel() > 1 else [1] * len(rows)
            start = start.expand((*start.shape[: start.dim() - len(want)], *apart, self.states, *inner))
            start = start.reshape((*start.shape[: start.dim() - len(rows)], -1))
        else:
            start = torch.zeros((1, self.states, 1), dtype=torch.float64, device=self._device)

        logs = taken(len(self.initial), len(self.transitions))
        want = (*self.apart, *self._time, FROM, TO)
        shape = [*apart, *(self.moves for _ in self._time), self.states, self.states]
        moves, _ = together(self.transitions, logs, want, shape)
        moves = moves if self.steady else moves.unsqueeze(-3)

        def seen() -> Tensor:
            logs = taken(len(self.initial) + len(self.transitions), len(self.emissions))
            shape = [*apart, self.states, self.steps, *rows]
            if not logs:  # all that is seen depends on two states
                return moves.new_zeros(
                    (*moves.shape[: -3 - len(self._time) - len(apart)], *shape[: 2 + len(apart)], prod(rows))
                )
            total, own = together(self.emissions, logs, (*self.apart, STATE, TIME, *self.rows), shape)
            flat = total.reshape((*total.shape[: total.dim() - len(rows)], -1))
            return flat if own and flat.is_contiguous() else flat.clone(memory_format=torch.contiguous_format)

        return start, moves, seen, memos

    @property
    def _device(self) -> torch.device:
        return next((factor.data.value.tensor.device for factor in self.factors), torch.device("cpu"))

    def _mark(self, part: Part, chunk: Chunk) -> Mark:
        """Entries of a chunk that enter the statistics of a part, `(apart, steps of the part, rows)`."""
        if part.alive is None:
            return None
        alive, have = part.alive.tensor, part.alive.names
        if chunk.plate in have and alive.shape[have.index(chunk.plate)] > 1:
            alive = alive.narrow(have.index(chunk.plate), chunk.start, chunk.length)
        alive = align(alive, have, (*self.apart, TIME, *self.rows))
        apart, rows = self._shape(self.apart, chunk), self._shape(self.rows, chunk)
        alive = alive.expand((*apart, len(part.steps), *rows))
        return alive.reshape((*apart, len(part.steps), -1))

    def _shape(self, names: Sequence[str], chunk: Chunk = WHOLE) -> list[int]:
        return [chunk.size(n, self.sizes[n]) for n in names]
