"""A program of many rows read by a few of them.

Rows of a plate that are treated one by one differ in their data and in whose latents they take. What a few of them show
is then what all show (`carried`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from ...errors import EMError
from ...program.program import Program
from ...records.frozen import frozen
from ..reading import Recognition
from .bilinear import Latents
from .replays import Parts, Replays

MANY = 2_000  # rows of the largest plate from which few are read
FEW = 40  # of them


@frozen
class FewRows:
    """A program with few rows of a plate, and what is read of it.

    Attributes:
        program: with few rows.
        plate: whose they are.
        read: of the program.
        latents: of what is read.
    """

    program: Program
    plate: str
    read: Recognition
    latents: Latents

    def axis(self, names: Sequence[str]) -> int | None:
        """Where the rows lie among named dimensions."""
        return names.index(self.plate) if self.plate in names else None

    @cached_property
    def replays(self) -> Replays:
        """The program with its latents moved."""
        deltas = frozenset(self.latents.sites.keys() - self.read.readings.keys())
        names = tuple(name for name in self.latents.sites if name in self.read.readings)
        return Replays(self.program, self.read.values, self.latents.places, names, deltas)

    @cached_property
    def silent(self) -> Parts:
        """Where all latents are zero, and all parameters that enter locations."""
        return self._still(0.0)

    @cached_property
    def still(self) -> frozenset[str]:
        """Sites whose values no latent moves."""
        moved = self._still(1.0)
        return frozenset(name for name, (value, _) in self.silent.items() if torch.equal(value, moved[name][0]))

    def _still(self, latent: float) -> Parts:
        entered = {name for made in self.latents.sites.values() for name, _ in made.entries}
        none = {name: torch.zeros_like(self.program.parameters[name].initial) for name in entered}
        return self.replays.run(torch.full((self.latents.places.count,), latent, dtype=torch.float64), none)


def many_rows(program: Program) -> str | None:
    """Name the plate of whose rows a few tell what all show, if there are many; None if there are not."""
    if program.by_row or max(program.plates.values(), default=0) < MANY:
        return None
    return max(program.plates, key=lambda p: program.plates[p])


def few_rows(program: Program, plate: str, recognise: Callable[[Program], Recognition]) -> FewRows | None:
    """Read a program by a few rows of a plate; None if its arguments cannot be cut, or that does not tell of others.

    Args:
        program: what is read.
        plate: of the rows.
        recognise: reads a program.
    """
    count, few = program.plates[plate], program
    if count > FEW:
        cut = program.at(plate, torch.linspace(0, count - 1, FEW, dtype=torch.float64).long())
        if cut is None:
            return None
        few = cut
    try:
        with torch.enable_grad():
            read = recognise(few)
    except EMError:  # is said of all rows, with their numbers
        return None
    latents = read.latents
    if latents is None or read.cut or not read.refusals.keys() <= latents.sites.keys():
        return None
    if read.bank.computed is not None:  # by the program on a few rows
        return None
    return FewRows(few, plate, read, latents)
