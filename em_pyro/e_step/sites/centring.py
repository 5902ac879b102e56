"""Densities around each cell's own location, where the features of all cells would lose digits to cancellation.

Features `(1, x, x x')` of values centred once serve all cells in one matrix product, and lose about `eps r^2` of a
log-density, `r` being the largest distance from that centre in units of the smallest scale. Clusters far apart need the
form of this file: every cell has features of its own, of values centred at its current location, and its statistics are
around that location too. It costs a matrix product a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...program.named import SLICE, align
from ...reading.bound import Bound
from .site_factor import WHOLE, Block, Room, Term

EXACT = 1e-12  # relative error of a log-density up to which one centre does
EPS = torch.finfo(torch.float64).eps
FARTHEST = (EXACT / EPS) ** 0.5
"""Distance from the centre, in units of the smallest scale, up to which one centre does: about 67."""


@dataclass(frozen=True)
class Centred:
    """A unit of the E-step: one term, each of its cells centred at its location."""

    term: Term
    buffers: dict[tuple[int, ...], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def parts(self) -> tuple[Term, ...]:
        """The term whose statistics come out."""
        return (self.term,)

    @property
    def members(self) -> tuple[str, ...]:
        """The factor that it computes."""
        return (self.term.name,)

    def natural(self, bound: Bound) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Arguments of every cell, (starts) + cells + events + its own, the locations, and where cells are centred."""
        term = self.term
        inner = (*bound.starts, *term.cell_shape, *term.event_shape)
        args = {}
        for key, value in term.arguments(bound).items():
            if key != term.family.location:
                tail = value.shape[value.dim() - term.family.roles[key].event_dim :]
                args[key] = value.expand((*inner, *tail))
        return args, term.centres(bound), term.centres(bound.centre)

    def features(self, block: Block = WHOLE, room: Room | None = None) -> Tensor:
        """Nothing: the features depend on the locations."""
        return torch.zeros(0)

    def factors(
        self,
        natural: tuple[dict[str, Tensor], Tensor, Tensor],
        features: Tensor,
        block: Block = WHOLE,
        lead: int = 0,
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """Log-density of every row; to be remembered are the features of every cell and where it is centred."""
        args, locations, centre = natural
        term = self.term
        kept = lead + len(term.layout.rows)
        cells = locations.shape[:kept]
        flat = {key: value.flatten(0, kept - 1) for key, value in args.items()} if kept else {}
        where = locations.reshape((-1, *locations.shape[kept:]))
        found = torch.stack(
            [
                self._density(block, where[k], {key: value[k] for key, value in flat.items()} if kept else args)
                for k in range(len(where))
            ]
        )
        product = found.reshape((*cells[:lead], *term.block_sizes(block)))
        return [align(product, term.laid_out, term.names)], (self._around(centre, kept, block), centre)

    def _density(self, block: Block, location: Tensor, args: Mapping[str, Tensor]) -> Tensor:
        """Log-density of the rows of a block in one cell, events and folded plates summed."""
        term = self.term
        deviation, _, weight = term.rows(block, location)
        found = term.family.around(deviation, args)
        if weight is not None:
            found = torch.where(weight == 0, 0.0, found * weight)
        columns = [term.sizes[n] if n != block.plate else block.length for n in term.layout.columns]
        folded = [term.sizes[n] if n != block.plate else block.length for n in term.folded]
        found = found.expand((*columns, *folded, *term.event_shape))
        extra = tuple(range(len(columns), found.dim()))
        return (found.sum(extra) if extra else found).reshape(-1)

    def _around(self, centre: Tensor, kept: int, block: Block) -> Tensor:
        """Features of every cell, of values less its location: (starts and cells flattened, F, columns)."""
        each = centre.reshape((-1, *centre.shape[kept:]))
        shape = (len(each), *self.term.empty(block).shape)
        if shape not in self.buffers:
            self.buffers.clear()
            self.buffers[shape] = torch.empty(shape, dtype=torch.float64, device=centre.device)
        for location, out in zip(each, self.buffers[shape], strict=True):
            self.term.write(block, out, location)
        return self.buffers[shape]

    def statistics(
        self,
        shares: Sequence[Tensor | None],
        features: Tensor,
        memo: tuple[Tensor, Tensor] | None = None,
        block: Block = WHOLE,
        lead: int = 0,
    ) -> dict[str, Tensor]:
        """Expected statistics around the locations, and behind them the locations: (starts) + rows + (F + D,).

        Without locations to remember (a start is drawn) they are around the means of the rows of each cell.
        """
        (share,) = shares
        assert share is not None
        if not self.term.parameters:
            return {}
        weights = align(share, self.term.names, self.term.laid_out)
        kept = weights.shape[: lead + len(self.term.layout.rows)]
        if memo is None:
            centre = self._means(share, block, lead)
            memo = self._around(centre, len(kept), block), centre
        made, centre = memo
        sums = (made @ weights.reshape(len(made), -1, 1)).reshape((*kept, self.term.width))
        where = centre.reshape((*kept, -1))
        # The statistics of blocks add up; the locations are no sum.
        return {self.term.name: torch.cat([sums, where if block.start == 0 else torch.zeros_like(where)], -1)}

    def _means(self, share: Tensor, block: Block, lead: int) -> Tensor:
        """Mean of the rows of every cell."""
        term = self.term
        plain = replace(term, centred=False, cache={})
        n, first, *_ = plain.split(plain.statistics(share, plain.features(block), lead), lead)
        n = n.reshape((*n.shape, *(1,) * (first.dim() - n.dim())))
        assert term.shift is not None
        return torch.where(n > 0, first / n, 0.0) + term.shift


def can_be_centred(term: Term) -> bool:
    """Whether a term has a location to be centred at, and cells laid out apart from its rows."""
    known = term.family.location is not None and term.family.solver in ("normal", "multivariate_normal")
    if not known or term.role != "observed" or term.shift is None:
        return False
    return not term.layout.batch and not term.layout.folded


def reach(term: Term) -> Tensor:
    """Largest distance of any value from the common centre, by event; computed once."""
    if "reach" not in term.__dict__:
        assert term.shift is not None
        values, rows, seen = term.value.tensor, len(term.value.names), term.seen
        longest = max(range(rows), key=lambda axis: values.shape[axis])
        found = torch.zeros((), dtype=torch.float64)
        for start in range(0, values.shape[longest], SLICE):
            size = min(SLICE, values.shape[longest] - start)
            part = values.narrow(longest, start, size).double() - term.shift
            if seen is not None:
                part = torch.where(seen.narrow(longest, start, size), part, 0.0)
            found = torch.maximum(found, part.abs().nan_to_num(0.0).amax(tuple(range(rows))))
        object.__setattr__(term, "reach", found)
    return term.__dict__["reach"]
