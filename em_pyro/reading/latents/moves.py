"""Covariates and responses as functions of the latents: by how much locations move with the parameters and with them.

Where a location is affine, a step of any length tells its slope, and of all of them a long one tells it best: what is
added to it is lost beside it, and not the other way round. Steps are powers of two, so that they round nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from functools import cached_property

import torch
from torch import Tensor

from ...records.frozen import frozen
from .replays import Parts, Replays, thin

LEAP = {False: 2.0**400, True: 2.0**80}  # how far parameters move beside something, in double precision and in single
AFTER = {False: 2.0**200, True: 2.0**30}  # and where latents have moved as well


@frozen
class Moves:
    """Parameters of locations moved by colours: no cell has two entries of one colour.

    Attributes:
        replays: the program.
        entries: of the parameters, as (name, flat position).
        colours: of each.
        has: for every site and colour, the cells with an entry of it.
    """

    replays: Replays
    entries: Sequence[tuple[str, int]]
    colours: Sequence[int]
    has: Mapping[str, Sequence[Tensor]] = field(repr=False)

    @cached_property
    def none(self) -> dict[str, Tensor]:
        """All of them at zero."""
        return self._at(-1, 0.0)

    def _at(self, colour: int, step: float) -> dict[str, Tensor]:
        """One colour at a step, the others at zero."""
        found: dict[str, Tensor] = {}
        for (name, at), mine in zip(self.entries, self.colours, strict=True):
            if name not in found:
                found[name] = torch.zeros_like(self.replays.program.parameters[name].initial)
            if mine == colour:
                found[name].view(-1)[at] = step
        return found

    def constants(self, base: Parts) -> dict[str, tuple[Tensor, ...]]:
        """Covariates of every colour, then the response, where all latents are zero; `base` is that at no move."""
        zero = torch.zeros(self.replays.places.count, dtype=torch.float64)
        found: dict[str, list[Tensor]] = {name: [] for name in base}
        for colour in range(max(self.colours, default=-1) + 1):
            run, step = self._run(zero, colour, base, LEAP[self.replays.single])
            for some in base.steps:
                for name, part in zip(some.names, (run.of(some.names)[1] - some.location) / step, strict=True):
                    found[name].append(thin(part))
        for some in base.steps:
            for name, part in zip(some.names, some.value - some.location, strict=True):
                found[name].append(thin(part))
        return {name: tuple(have) for name, have in found.items()}

    def slopes(
        self, latents: Tensor, far: float, base: Parts, constants: Mapping[str, Sequence[Tensor]], names: Iterable[str]
    ) -> dict[str, tuple[Tensor, ...]]:
        """How much they are more, by the unit, where some latents are at `far`."""
        known = self.replays.run(latents, self.none)
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        steps = [tuple(name for name in some.names if name in found) for some in base.steps]
        for colour in range(max(self.colours, default=-1) + 1):
            run, step = self._run(latents, colour, known, AFTER[self.replays.single])
            for name, have in found.items():
                size = run[name][1].abs() + known[name][1].abs()
                more = run[name][1] - known[name][1] - step * constants[name][colour]
                have.append(thin(torch.where(more.abs() <= self.replays.noise * size, 0.0, more) / step / far))
        for some in filter(None, steps):  # each by itself, so that large ones round nothing
            (value, location), before = known.of(some), base.of(some)
            for name, part in zip(some, ((value - before[0]) - (location - before[1])) / far, strict=True):
                found[name].append(thin(part))
        return {name: tuple(have) for name, have in found.items()}

    def ahead(self, points: Sequence[Tensor]) -> None:
        """Make the runs that `slopes` at some latents will ask for, at once where that can be done."""
        colours = range(max(self.colours, default=-1) + 1)
        if not colours or not self.replays.keeps((1 + len(colours)) * len(points)):
            return
        self.replays.ahead(points, None, self.none)
        for colour in colours:
            steps = [self._step(colour, self.replays.run(z, self.none), AFTER[self.replays.single]) for z in points]
            for step in set(steps):
                some = [z for z, mine in zip(points, steps, strict=True) if mine == step]
                self.replays.ahead(some, None, self._at(colour, step))

    def _run(self, latents: Tensor, colour: int, known: Parts, leap: float) -> tuple[Parts, float]:
        """Run with a colour moved, and say how far."""
        step = self._step(colour, known, leap)
        return self.replays.run(latents, self._at(colour, step)), step

    def _step(self, colour: int, known: Parts, leap: float) -> float:
        """How far a colour is moved: by one, or by a leap where it is beside something that is known."""
        beside = (bool(((known[name][1] != 0) & cells[colour]).any()) for name, cells in self.has.items())
        return leap if any(beside) else 1.0
