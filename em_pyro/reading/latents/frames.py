"""Which latent entry every cell takes, by moving many entries at once, each to a mark of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field

import torch
from torch import Tensor

from ...records.frozen import frozen
from .bilinear import Kind
from .replays import Crowded, Parts, Replays, Steps, thin_which

AGAIN = (1 + math.sqrt(5)) / 2  # times as far: no multiple of a unit in the last place is another one
STEADY = {False: 1e-6, True: 1e-2}  # of a faint slope that is one, in double precision and in single
BLURRED = {False: 1e4, True: 1.0}  # times the noise, of an effect: what is no other entry's, but rounding; likewise


@frozen
class Frame:
    """Latent entries that move together: all at one, or each at a mark of its own.

    Attributes:
        kind: of their latents.
        ids: their numbers.
        count: of all entries.
    """

    kind: Kind
    ids: Tensor = field(repr=False)
    count: int

    def at(self, values: Tensor | float) -> Tensor:
        """All latents: these at the values, the others at zero."""
        found = torch.zeros(self.count, dtype=torch.float64)
        found[self.ids] = torch.as_tensor(values, dtype=torch.float64)
        return found

    def codes(self, *, single: bool) -> list[Tensor]:
        """Values by which the entries are told apart: marks, or in single precision the digits of their numbers."""
        if not single:
            return [self.marks]
        numbers = torch.arange(len(self.ids))
        return [(numbers >> k & 1).double() for k in range(max(1, (len(self.ids) - 1).bit_length()))]

    @property
    def marks(self) -> Tensor:
        """Irrational, so that no average of two is the mark of a third."""
        return 1 + torch.frac(torch.arange(1, len(self.ids) + 1, dtype=torch.float64) * (math.sqrt(5) - 1) / 2)


def takes_of(
    replays: Replays, frame: Frame, far: float, start: Parts, rows: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Which of the entries that move together every cell takes, by site.

    Args:
        replays: the program.
        frame: the entries.
        far: how far they move.
        start: every site where all latents are zero.
        rows: of every site the dimensions along which there is a discrete latent for each row.

    Raises:
        Crowded: a cell has two of them.
    """
    noise = replays.noise
    moved = _effects(replays, points_of(replays, frame, far), start.steps)
    read = _binary if replays.single else _marked
    found: dict[str, Tensor] = {}
    for stack, (first, *others) in zip(start.steps, moved, strict=True):
        floor = 10 * noise * (stack.value.abs() + stack.location.abs())
        idle, most = first.abs() <= floor / 10 + 1e-300, torch.stack([other.abs() for other in others]).amax(0)
        takes = ~stack.rows(idle & (most <= 4 * floor)).all(1)
        if not bool(takes.any()):
            continue
        place, gap = read(frame, torch.where(idle, 1.0, first), others)
        slack = torch.where(idle, 4 * floor, BLURRED[replays.single] * noise * first.abs() + 4 * floor)
        if bool((stack.rows(torch.where(idle, most, gap) > slack).any(1) & takes).any()):
            raise Crowded(frame.kind)
        which = torch.where(idle, -1, frame.ids[place])
        found |= {n: thin_which(which[k], rows[n]) for k, n in enumerate(stack.names) if takes[k]}
    return found


def points_of(replays: Replays, frame: Frame, far: float) -> list[Tensor]:
    """Return the latents at which it is seen: entries of a frame so far out, all alike, and told apart."""
    one = torch.ones(len(frame.ids), dtype=torch.float64)
    return [frame.at(far * code) for code in (one, *frame.codes(single=replays.single))]


def _effects(replays: Replays, points: Sequence[Tensor], stacks: Sequence[Steps]) -> list[list[Tensor]]:
    """How much the residual of every cell differs at some latents from that where all are zero, less what is rounding.

    What adds up to nothing leaves a rounding of the size of what was added, that of an effect on other cells: of other
    steps, where these are sites of their own. If the latents move further, it does not grow with them.
    """
    found: list[list[Tensor]] = [[] for _ in stacks]
    for point in points:
        run = replays.run(point, {})
        for stack, effects in zip(stacks, found, strict=True):
            effects.append(stack.moved(run))
    largest = max((float(part.abs().max()) for effects in found for part in effects if part.numel()), default=0.0)
    faint = [[(part != 0) & (part.abs() <= replays.noise * largest) for part in effects] for effects in found]
    for k, point in enumerate(points):
        if any(bool(some[k].any()) for some in faint):
            again = replays.run(AGAIN * point, {})
            for stack, effects, some in zip(stacks, found, faint, strict=True):
                off = (stack.moved(again) - AGAIN * effects[k]).abs()
                steady = off <= STEADY[replays.single] * effects[k].abs()
                effects[k] = torch.where(some[k] & ~steady, 0.0, effects[k])
    return found


def _marked(frame: Frame, first: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Which entry every cell takes, by its mark, and how far from it a cell is."""
    (second,) = others
    marks, order = frame.marks.sort()
    if len(marks) == 1:
        nearest = torch.zeros(first.shape, dtype=torch.long)
    else:
        ratio = second / first
        at = torch.searchsorted(marks, ratio.contiguous()).clamp(1, len(marks) - 1)
        nearest = torch.where(ratio - marks[at - 1] < marks[at] - ratio, at - 1, at)
    return order[nearest], (second - marks[nearest] * first).abs()


def _binary(frame: Frame, first: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The same by the digits of its number: few digits of a float32 are enough for each."""
    place, gap = torch.zeros(first.shape, dtype=torch.long), torch.zeros_like(first)
    for k, other in enumerate(others):
        digit = (other / first).round().clamp(0, 1)
        place, gap = place + (digit.long() << k), torch.maximum(gap, (other - digit * first).abs())
    return place.clamp(max=len(frame.ids) - 1), gap
