"""Factors that are contracted together, over chunks of rows: the general way of an E-step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from ..program.named import Named
from ..reading.bound import Bound
from ..records.frozen import frozen
from .chunks import LEAST, WHOLE, Chunk, chunks_of
from .contraction.schedule import Schedule
from .shares import Collect, Found, add
from .sums import Sums
from .units import Unit, worst


class Contracted(Protocol):
    """Factors that are contracted together: a `Part`, or a `Mixture`."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units among them."""

    def chunks(self, starts: int = 1) -> tuple[Chunk, ...]:
        """Chunks of rows that stay in cache for so many starts."""

    def entries(self) -> int:
        """Entries of its largest product, in the smallest chunk of rows."""

    def natural(self, bound: Bound, about: Bound | None, replays: Mapping[str, Named]) -> Any:
        """Bind the arguments of all units; statistics are wanted around the locations `about`."""

    def expect(
        self, natural: Any, replays: Mapping[str, Named], offsets: Mapping[str, Named], starts: int, collect: Collect
    ) -> Found:
        """Contract all chunks and add up what they give.

        Args:
            natural: arguments bound.
            replays: log-factors of the sites that are not compiled.
            offsets: log base measures that differ between states.
            starts: how many there are.
            collect: what is wanted.
        """

    def finish(self, found: Mapping[str, Tensor], natural: Any) -> dict[str, Sums]:
        """Statistics of the families, from those of all chunks."""

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """Say by how much digits run short, as `Unit.digits`."""

    def beside(self, other: Contracted) -> Contracted:
        """The same, written into the rooms of another one, which is not at work meanwhile."""


@frozen
class Part:
    """Factors that are contracted together by a schedule, whatever they are.

    Attributes:
        schedule: of the contraction.
        names: of the factors, in its order.
        units: that compute some of them.
        replayed: those that the model itself computes.
        moving: of these, those that some parameter enters: their weights are wanted.
        plate: whose rows are taken in chunks, if any.
        size: its rows.
        length: rows of a chunk.
    """

    schedule: Schedule = field(repr=False)
    names: tuple[str, ...]
    units: tuple[Unit, ...]
    replayed: tuple[str, ...]
    moving: tuple[str, ...]
    plate: str | None = None
    size: int = 0
    length: int = 0
    narrowed: dict[Chunk, Schedule] = field(default_factory=dict, repr=False)

    def chunks(self, starts: int = 1) -> tuple[Chunk, ...]:
        """Chunks of rows, so few in each that what all starts hold of it stays in cache."""
        if self.plate is None:
            return (WHOLE,)
        rows = self.length if starts == 1 else max(min(LEAST, self.length), self.length // starts)
        return chunks_of(self.plate, self.size, rows)

    def entries(self) -> int:
        """Entries of its largest product, in the smallest chunk of rows; or of what a unit holds."""
        inside = {latent for unit in self.units for latent in unit.inside}  # of no product
        factors = [factor for unit in self.units for factor in unit.every]
        names = {n: factor.sizes[n] for factor in factors for n in factor.names if n not in inside}
        least = min(LEAST, self.length)
        largest = prod(min(size, least) if name == self.plate else size for name, size in names.items())
        return max(largest, *(unit.held for unit in self.units)) if self.units else largest

    def natural(self, bound: Bound, about: Bound | None, replays: Mapping[str, Named]) -> tuple[Any, ...]:
        """Bind the arguments of every unit."""
        return tuple(unit.natural(bound, about, replays) for unit in self.units)

    def expect(
        self,
        natural: Sequence[Any],
        replays: Mapping[str, Named],
        offsets: Mapping[str, Named],
        starts: int,
        collect: Collect,
    ) -> Found:
        """Contract all chunks and add up what they give; see `Contracted`."""
        evidence = torch.zeros(starts, dtype=torch.float64)
        sums: dict[str, Tensor] = {}
        weights: dict[str, list[Tensor]] = {}
        for chunk in self.chunks(starts):
            schedule = self.schedule_of(chunk)
            inputs = {n: chunk.cut(replays[n]).expand((starts, *chunk.cut(replays[n]).shape)) for n in self.replayed}
            memos = []
            for unit, bound in zip(self.units, natural, strict=True):
                found, memo = unit.log_factors(bound, chunk)
                memos.append(memo)
                inputs.update(zip(unit.members, found, strict=True))
            for name in offsets.keys() & inputs.keys():
                inputs[name] = inputs[name] + chunk.cut(offsets[name])
            every = [inputs[name] for name in self.names]
            if not collect.sums:
                evidence = evidence + schedule.forward(every)[0]
                continue
            log_z, weighed = schedule.contract(every)
            evidence = evidence + log_z
            share = dict(zip(self.names, weighed, strict=True))
            for unit, bound, memo in zip(self.units, natural, memos, strict=True):
                found_here = unit.sums([share[name] for name in unit.members], bound, memo, chunk)
                for name in unit.absorbed:
                    if name in found_here:
                        weights.setdefault(name, []).append(found_here.pop(name).squeeze(0))
                add(sums, found_here)
            for name in self.moving:
                part = share[name]
                assert part is not None
                weights.setdefault(name, []).append(part.squeeze(0))
        return Found(evidence, sums, {n: self._beside(parts, replays[n].names) for n, parts in weights.items()})

    def finish(self, found: Mapping[str, Tensor], natural: Sequence[Any]) -> dict[str, Sums]:
        """Statistics of the families, from those of all chunks."""
        sums: dict[str, Sums] = {}
        for unit, bound in zip(self.units, natural, strict=True):
            sums |= unit.finish(found, bound)
        return sums

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """Say by how much digits run short."""
        return worst(unit.digits(bound, near) for unit in self.units)

    def beside(self, other: Contracted) -> Part:
        """It has no rooms of its own."""
        return self

    def schedule_of(self, chunk: Chunk) -> Schedule:
        """The contraction of one chunk."""
        if chunk.plate is None:
            return self.schedule
        if chunk not in self.narrowed:
            self.narrowed[chunk] = self.schedule.narrow(chunk.plate, chunk.start, chunk.length)
        return self.narrowed[chunk]

    def _beside(self, parts: list[Tensor], names: tuple[str, ...]) -> Named:
        """Weights of all chunks, one beside the other; of what all rows share, their sum."""
        if len(parts) == 1:
            return Named(parts[0], names)
        if self.plate not in names:
            return Named(torch.stack(parts).sum(0), names)
        return Named(torch.cat(parts, names.index(self.plate)), names)
