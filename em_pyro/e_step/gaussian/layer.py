"""Components that are alike laid out: what depends on parameters is done for patterns of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

import torch
from torch import Tensor

from ...errors import ModelError
from ...reading.latents.bilinear import Places
from ...reading.latents.which import as_parameter
from ...records.frozen import frozen
from ..forward_backward.compiled import choose
from .alike.components import Members, place_of
from .alike.repeats import within
from .block import Block, block_of, patterns_of
from .group import Group
from .precision.places import width_of
from .rows import Rows

LARGEST = 4096  # latents of a component: its precision matrix is a whole one
WIDE = 32  # latents of a block from which torch's products of matrices are faster than loops


@frozen
class Layer:
    """What all kinds of components have in common.

    Attributes:
        rows: of all sites.
        given: which latent entries are not observed exactly, and the values of the others; None is all.
        plates: of the discrete latents that reach them, and how many rows each has.
        outer: how often every row of these is there; None is once.
        latents: where the entries of all of them stand.
    """

    rows: Sequence[Rows] = field(repr=False)
    given: tuple[Tensor, Tensor] | None = field(repr=False)
    plates: Mapping[str, int]
    outer: Tensor | None = field(repr=False)
    latents: Places

    def groups(self, members: Sequence[Members], repeats: Sequence[Tensor | None]) -> list[Group]:
        """Lay all kinds out, each with how often its members are there."""
        return [self._group(*both) for both in zip(members, repeats, strict=True)]

    def _group(self, members: Members, repeats: Tensor | None) -> Group:
        rows, k = self.rows, members.entries.shape[1]
        width = width_of([part for part in members.slots if part is not None], k)
        if k > LARGEST and not width:
            raise ModelError(
                f"The model: expected at most {LARGEST:,} continuous latents that hang together, got {k:,}, whose "
                f"precision matrix would be a whole one. Fewer levels, or effects that are nested, make it small."
            )
        free = None if self.given is None else self.given[0]
        patterns = patterns_of(members, rows, free)
        blocks = tuple(
            block_of(s, rows[s], mine, slots, there, patterns)
            for s, (mine, slots, there) in enumerate(zip(members.rows, members.slots, members.present, strict=True))
            if mine is not None and slots is not None
        )
        live = _live(blocks, len(patterns.sizes), k)
        if free is not None:
            live = live & free[members.entries[patterns.first]]
        values = None if self.given is None or bool(live.all()) else self.given[1][members.entries]
        at = self._places(members) if self.plates else None
        repeats = within(repeats, self.outer, at)
        counts = patterns.sizes
        if repeats is not None:
            repeats = repeats.expand(len(members.entries))
            counts = repeats.new_zeros(len(counts)).index_add_(0, patterns.of, repeats)
        how = _method(blocks, len(patterns.sizes), k, width)
        return Group(blocks, members.entries, patterns, live, values, None, counts, width, at, repeats, *how)

    def _places(self, members: Members) -> Tensor:
        """The row of the factor that every member belongs to.

        Raises:
            ModelError: a component reaches several of them.
        """
        found = torch.zeros(len(members.entries), dtype=torch.long)
        for plate, size in self.plates.items():
            place = place_of(self.rows, members, plate, size)
            if place is None:
                names = self.latents.named(members.entries)
                raise ModelError(
                    f'Plate "{plate}": expected continuous latents that hang together within one of its rows, got '
                    f'"{names[0]}" across {size:,} rows, each with a discrete state of its own: every choice of all '
                    f"their states would have a law of its own. {as_parameter(names[0])} Or let a discrete "
                    f"latent hold for all that hangs together."
                )
            found = found * size + place
        return found


def _method(blocks: Sequence[Block], patterns: int, k: int, width: int) -> tuple[str, str]:
    """How chains are factored, and why; whole matrices are by torch."""
    if not width:
        return "torch", ""
    states = max(len(part) for block in blocks for slot in block.slopes for part in slot if part is not None)
    against = "its blocks are wide" if width > WIDE else ""
    return choose(states * patterns * k * width, blocks[0].slots.device, against)


def _live(blocks: Sequence[Block], patterns: int, k: int) -> Tensor:
    """Which latents of every pattern have a density, or enter one: (p, k)."""
    found = torch.zeros((patterns, k + 1), dtype=torch.long)
    for block in blocks:
        if not block.slopes:
            continue
        enters = torch.stack(torch.broadcast_tensors(*(_enters(slot) for slot in block.slopes)), -1)
        if block.weight is not None:
            enters = enters & (block.weight != 0).unsqueeze(-1)
        enters = enters.any(2).expand((patterns, *block.slots.shape))
        at = torch.where(block.slots >= 0, block.slots, k)
        found.index_add_(1, at.reshape(-1), enters.flatten(1).long())
    return found[:, :k] > 0


def _enters(slot: Sequence[Tensor | None]) -> Tensor:
    """Where a slot has any slope in any state: (p, c, e)."""
    total = torch.zeros((1, 1, 1), dtype=torch.bool)
    for part in slot:
        if part is not None:
            total = total | (part != 0).any(0)
    return total
