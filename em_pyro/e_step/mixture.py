"""Rows that hang on one latent each: the E-step of a block is two matrix products and a softmax.

This is what a mixture is, whatever its families. The terms of the rows lie side by side in one matrix product (see
`sites/bundle.py`), the latent's prior is added to it, and buffers are reused from block to block: no memory beyond the
data grows with the number of rows. The general contraction of `part.py` gives the same and is its oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import log, prod
from typing import Any

import torch
from torch import Tensor

from ..program.named import Named
from .contraction import FLOOR, Factor
from .part import Sums, Unit, add
from .sites.bundle import Bundle
from .sites.lean import Features, features_of
from .sites.site_factor import Block, Term
from .sites.stack import Stack

SMALLEST = {dtype: 2 * torch.tensor(floor, dtype=torch.float64).exp().item() for dtype, floor in FLOOR.items()}
FEW = 2000  # rows below which features that are left out save less than their bookkeeping costs
RANGE = 500.0  # log of what a product of softmax peaks may shrink to


@dataclass(frozen=True)
class Mixture:
    """Blocks of rows, each row with one latent.

    Attributes:
        features: of the terms of the rows.
        prior: the factors over the latent alone.
        plates: dimensions of the rows, in order, with their sizes.
        scale: weight of each row.
    """

    latent: str
    features: Features
    prior: tuple[Stack, ...]
    plates: Mapping[str, int]
    scale: Named | None
    blocks: tuple[Block, ...]
    buffers: dict[str, dict[tuple[int, int], Tensor]] = field(default_factory=dict, repr=False, compare=False)
    scales: dict[Block, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rows(self) -> Stack | Bundle:
        """The unit of the rows."""
        return self.features.rows

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the rows."""
        return self.rows.terms

    @property
    def lean(self) -> Mixture:
        """The same without the features that follow from others; itself if there are none, or too few rows."""
        if prod(self.plates.values()) < FEW:
            return self
        features = features_of(self.rows, lean=True)
        return replace(self, features=features) if features.lean else self

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units whose statistics come out."""
        return (*self.prior, self.rows)

    def sums(
        self,
        natural: Mapping[str, Any],
        replays: Mapping[str, Named],
        offsets: Mapping[str, Named],
        lead: int = 0,
    ) -> Sums:
        """Evidence and statistics of all blocks; arguments as for `Part.sums`."""
        features = self.features
        eta = features.natural(natural[self.rows.members[0]])
        eta.select(-1, features.column).add_(self._prior(natural, offsets, lead))
        flat = eta if lead == 0 else eta.reshape(-1, eta.shape[-1])
        evidence: Tensor | float = 0.0
        found: Tensor | None = None
        for block in self.blocks:
            columns = features.matrix(block, partial(self._room, block))
            size = len(flat), columns.shape[-1]
            logits, weights = self._buffer("logits", *size), self._buffer("weights", *size)
            torch.mm(flat, columns, out=logits)
            if lead == 0:
                here = posterior_weights(logits, weights, self._scale(block))
            else:
                shape = (*eta.shape[:-1], -1)
                here = posterior_weights(logits.view(shape), weights.view(shape), self._scale(block))
            sums = weights @ columns.mT
            evidence, found = (here, sums) if found is None else (evidence + here, found.add_(sums))
        assert found is not None
        found = found if lead == 0 else found.view_as(eta)
        return Sums(evidence, self._statistics(found, lead))

    def _prior(self, natural: Mapping[str, Any], offsets: Mapping[str, Named], lead: int) -> Tensor:
        """Sum of the factors over the latent alone, (starts) + (K,)."""
        parts = []
        for unit in self.prior:
            parts += unit.factors(natural[unit.first.name], unit.features(), lead=lead)[0]
            parts += [offsets[name].tensor for name in unit.members if name in offsets]
        return parts[0] if len(parts) == 1 else torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def _statistics(self, found: Tensor, lead: int) -> dict[str, Tensor]:
        """Statistics of every unit, from those of the features."""
        count = found[..., self.features.column]
        statistics: dict[str, Tensor] = {}
        for unit in self.prior:
            add(statistics, unit.statistics([count], unit.features(), lead=lead))
        return statistics | self.rows.divided(self.features.statistics(found))

    def _room(self, block: Block) -> Tensor:
        """Where to write the features of a block."""
        size = prod(block.length if p == block.plate else n for p, n in self.plates.items())
        return self._buffer("features", self.features.width, size)

    def _buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """A matrix to write into; its memory is that of the largest asked for under this name."""
        views = self.buffers.setdefault(name, {})
        if (rows, columns) not in views:
            have = next(iter(views.values()), None)
            if have is None or have.untyped_storage().nbytes() < 8 * rows * columns:
                views.clear()
                device = self.terms[0].value.tensor.device
                have = torch.empty((rows, columns), dtype=torch.float64, device=device)
            views[rows, columns] = have.as_strided((rows, columns), (columns, 1))
        return views[rows, columns]

    def _scale(self, block: Block) -> Tensor | None:
        """Weight of every row of a block."""
        if self.scale is None or block in self.scales:
            return self.scales.get(block)
        tensor, names = self.scale.tensor, self.scale.names
        if block.plate in names:
            tensor = tensor.narrow(names.index(block.plate), block.start, block.length)
        sizes = [block.length if p == block.plate else n for p, n in self.plates.items()]
        self.scales[block] = Named(tensor, names).align(tuple(self.plates)).expand(sizes).reshape(-1)
        return self.scales[block]


def posterior_weights(logits: Tensor, out: Tensor, scale: Tensor | None) -> Tensor:
    """Write the softmax of `logits` over its states to `out`, and return the sum of their log-sum-exps.

    The largest weight `p` of a row is `exp(top) / sum exp`, so that the log-sum-exp of the row is `top - log p`. All
    `p` lie between 1/K and 1; without row weights the logarithm of a product of several is taken, which is one
    logarithm in place of many.

    Args:
        logits: shape `(..., K, rows)`; overwritten.
        out: of the same shape.
        scale: weight of each row, shape `(rows,)`; it multiplies the row's weights and its log-sum-exp.

    Returns:
        Shape `(...)`.
    """
    top = logits.amax(-2, keepdim=True)
    torch.maximum(logits, top + FLOOR[logits.dtype], out=logits)  # exp is many times slower where it underflows
    torch.softmax(logits, -2, out=out)
    torch.threshold_(out, SMALLEST[logits.dtype], 0.0)  # exact zeros stay zero
    peak = out.amax(-2)
    if scale is not None:
        out *= scale
        return ((top.squeeze(-2) - peak.log()) * scale).sum(-1)
    return top.sum((-1, -2)) - log_of_product(peak, logits.shape[-2])


def log_of_product(peak: Tensor, states: int) -> Tensor:
    """`sum log(peak)` over the last dimension, for values between `1 / states` and 1, without underflow."""
    together = int(RANGE / log(max(states, 2)))
    rows = peak.shape[-1]
    together = min(together, 16, rows)
    whole = rows - rows % together
    if whole == rows:
        return peak.view((*peak.shape[:-1], together, -1)).prod(-2).log().sum(-1)
    return log_of_product(peak[..., :whole].contiguous(), states) + peak[..., whole:].log().sum(-1)


def as_mixture(
    units: Sequence[Unit],
    factors: Sequence[Factor],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
    blocks: tuple[Block, ...],
) -> Mixture | None:
    """Recognise factors whose rows hang on one latent each; None where they are anything else."""
    latents = {name for factor in factors for name in factor.names if name in owners}
    members = [name for unit in units for name in unit.members]
    if len(latents) != 1 or sorted(members) != sorted(factor.name for factor in factors):
        return None
    (latent,) = latents
    if any(f.plates != owners[latent] or f.alive is not None or f.pool is not None for f in factors):
        return None
    of_rows = [unit for unit in units if unit.parts[0].role == "observed"]
    prior = [unit for unit in units if unit.parts[0].role != "observed"]
    if len(of_rows) != 1 or not isinstance(of_rows[0], (Stack, Bundle)) or len(of_rows[0].members) != 1:
        return None
    rows = of_rows[0]
    plates = {name: n for name, n in sizes.items() if name in owners[latent] and n > 1}
    plain = all(
        type(t) is Term and (t.layout.batch, t.layout.rows, t.layout.columns) == ((), (latent,), tuple(plates))
        for t in rows.terms
    )
    alone = all(isinstance(u, Stack) and len(u.members) == 1 and u.first.names == (latent,) for u in prior)
    if not (plain and alone and plates):
        return None
    scale = factors[0].scale
    features = features_of(rows, lean=False)
    return Mixture(latent, features, tuple(prior), plates, scale, blocks)  # type: ignore[arg-type]
