"""Factors that are contracted together, over blocks of rows: the general way of an E-step.

Rows of the largest plate are taken in blocks that stay in cache, where the program allows it; the statistics of blocks
add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..program.named import Named
from .chains.hmm import Hmm
from .chains.markov import Markov
from .contraction import Schedule
from .sites.bundle import Bundle
from .sites.centring import Centred
from .sites.site_factor import WHOLE, Block
from .sites.stack import Stack

Unit = Stack | Bundle | Centred | Hmm | Markov


@dataclass(frozen=True)
class Sums:
    """What one part adds to an E-step.

    Attributes:
        log_evidence: log-sum-product of its factors, shape `(starts)`.
        statistics: expected sufficient statistics of its terms.
        weights: posterior weights of its replayed sites.
    """

    log_evidence: Tensor | float
    statistics: Mapping[str, Tensor] = field(repr=False)
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Part:
    """Factors that are contracted together, over some blocks of rows."""

    schedule: Schedule = field(repr=False)
    blocks: tuple[Block, ...]
    names: tuple[str, ...]
    units: tuple[Unit, ...]
    replayed: tuple[str, ...]
    moving: tuple[str, ...]  # replayed sites that some parameter enters: their weights are wanted
    narrowed: dict[Block, Schedule] = field(default_factory=dict, repr=False, compare=False)

    def sums(
        self,
        natural: Mapping[str, Any],
        replays: Mapping[str, Named],
        offsets: Mapping[str, Named],
        lead: int = 0,
    ) -> Sums:
        """Contract all blocks and add up what they give.

        Args:
            natural: natural parameters of every unit, by its first member.
            replays: log-factors of the sites that are not compiled.
            offsets: log base measures that differ between states.
            lead: dimensions of starts.
        """
        evidence: Tensor | float = 0.0
        statistics: dict[str, Tensor] = {}
        weights: dict[str, list[Tensor]] = {}
        for block in self.blocks:
            schedule = self.schedule_of(block)
            features = [unit.features(block) for unit in self.units]
            inputs = {name: _cut(replays[name], block) for name in self.replayed}
            memos = []
            for unit, columns in zip(self.units, features, strict=True):
                found, memo = unit.factors(natural[unit.members[0]], columns, block, lead)  # type: ignore[arg-type]
                memos.append(memo)
                inputs.update(zip(unit.members, found, strict=True))
            for name in offsets.keys() & inputs.keys():
                inputs[name] = inputs[name] + _cut(offsets[name], block)
            log_z, weighed = schedule.contract([inputs[name] for name in self.names])
            evidence = evidence + log_z
            share = dict(zip(self.names, weighed, strict=True))
            for unit, columns, memo in zip(self.units, features, memos, strict=True):
                shares = [share[name] for name in unit.members]
                found_here = unit.statistics(shares, columns, memo, block, lead)  # type: ignore[arg-type]
                for name in unit.replayed if isinstance(unit, Hmm) else ():
                    if name in found_here:
                        weights.setdefault(name, []).append(found_here.pop(name))
                add(statistics, found_here)
            for name in self.moving:
                part = share[name]
                assert part is not None
                weights.setdefault(name, []).append(part)
        return Sums(evidence, statistics, {name: self._beside(parts, replays[name]) for name, parts in weights.items()})

    def schedule_of(self, block: Block) -> Schedule:
        """The contraction of one block."""
        if block.plate is None:
            return self.schedule
        if block not in self.narrowed:
            self.narrowed[block] = self.schedule.narrow(block.plate, block.start, block.length)
        return self.narrowed[block]

    def _beside(self, parts: list[Tensor], replay: Named) -> Tensor:
        """Weights of all blocks, one beside the other; of what all rows share, their sum."""
        plate = self.blocks[0].plate
        if len(parts) == 1 or plate not in replay.names:
            return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        return torch.cat(parts, replay.names.index(plate))


def add(total: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Add statistics to those found so far."""
    for name, part in more.items():
        total[name] = total[name].add_(part) if name in total else part


def blocks_of(plate: str, size: int, rows: int) -> tuple[Block, ...]:
    """Cut a plate into blocks of at most `rows` rows; one block is the whole."""
    if rows >= size:
        return (WHOLE,)
    return tuple(Block(plate, start, min(rows, size - start)) for start in range(0, size, rows))


def _cut(part: Named, block: Block) -> Tensor:
    if block.plate not in part.names:
        return part.tensor
    return part.tensor.narrow(part.names.index(block.plate), block.start, block.length)
