"""Rows that hang on one latent each: the E-step of a chunk is two matrix products and a softmax.

This is what a mixture is, whatever its families. The sites of the rows lie side by side in one matrix product (see
`several/bundle.py`), the latent's prior is added to it, and buffers are reused from chunk to chunk: no memory beyond
the data grows with the number of rows. The general contraction of `part.py` gives the same and is its oracle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property, partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...program.named import Named
from ...reading.bound import Bound
from ...records.frozen import frozen
from ..chunks import LEAST, Chunk, chunks_of
from ..several.bundle import Bundle, Side
from ..several.lean import Features, features_of
from ..several.stack import Stack
from ..shares import Collect, Found, add
from ..sums import Sums
from ..units import Unit, worst
from .apart import EVERY, shared, split
from .schedule import Factor
from .softmax import posterior_weights

FEW = 2000  # rows below which features that are left out save less than their bookkeeping costs


class MixtureNatural(NamedTuple):
    """Arguments bound: of the rows, of the latent's own factors, and by which features."""

    rows: Side
    prior: tuple[Any, ...]
    features: Features


@frozen
class Mixture:
    """Chunks of rows, each row with one latent.

    Attributes:
        features: of the sites of the rows.
        prior: the factors over the latent alone.
        plates: dimensions of the rows, in order, with their sizes.
        scale: weight of each row.
        plate: whose rows are taken in chunks, and how many of them.
    """

    latent: str
    features: Features
    prior: tuple[Stack, ...]
    plates: Mapping[str, int]
    scale: Named | None
    plate: str
    length: int
    buffers: dict[str, dict[tuple[int, int], Tensor]] = field(default_factory=dict, repr=False)
    scales: dict[Chunk, Tensor] = field(default_factory=dict, repr=False)
    largest: dict[tuple[Chunk, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> Bundle:
        """The unit of the rows."""
        return self.features.rows

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units whose statistics come out."""
        return (*self.prior, self.rows)

    @cached_property
    def lean(self) -> Features | None:
        """The features without those that follow from others; None if there are none, or too few rows."""
        if prod(self.plates.values()) < FEW:
            return None
        features = features_of(self.rows, lean=True)
        return features if features.lean else None

    def chunks(self, starts: int = 1) -> tuple[Chunk, ...]:
        """Chunks of rows, so few in each that what all starts hold of it stays in cache."""
        rows = self.length if starts == 1 else max(LEAST, self.length // starts)
        return chunks_of(self.plate, self.plates[self.plate], rows)

    def entries(self) -> int:
        """Entries of its largest product, in the smallest chunk of rows."""
        states = self.rows.sites[0].sizes[self.latent]
        return states * prod(min(n, LEAST) if name == self.plate else n for name, n in self.plates.items())

    # ---- the E-step ----

    def natural(self, bound: Bound, about: Bound | None, replays: Mapping[str, Named]) -> MixtureNatural:
        """Bind the arguments, and choose the features that keep their digits."""
        rows = self.rows.natural(bound, about)
        prior = tuple(unit.natural(bound) for unit in self.prior)
        if self.lean is None:
            return MixtureNatural(rows, prior, self.features)
        if bound.plain and about is None:
            return MixtureNatural(rows, prior, self.lean)
        digits = self.lean.digits(bound)
        digits = digits if about is None else torch.maximum(digits, self.lean.digits(about))
        return MixtureNatural(rows, prior, self.lean if bool((digits <= 1).all()) else self.features)

    def expect(
        self,
        natural: MixtureNatural,
        replays: Mapping[str, Named],
        offsets: Mapping[str, Named],
        starts: int,
        collect: Collect,
    ) -> Found:
        """Return evidence and statistics of all chunks; arguments as for `Part.expect`.

        With natural parameters `eta (K, F)` of all states, the latent's own factors among them, and features `T (F, N)`
        of a chunk, `logits = eta T`, `weights = softmax(logits)` and `found += weights T'`. Features behind
        `features.width` are in no matrix: what rows look up is added to the logits, and weights are added up by place.
        """
        features, prior = natural.features, self._prior(natural, offsets)
        if natural.rows.apart:
            return self._apart(natural, prior, starts, collect)
        eta = features.natural(natural.rows.eta, prior)
        flat = eta.reshape(-1, eta.shape[-1])
        evidence: list[Tensor] = []
        found = torch.zeros_like(flat)
        dense, into = flat, found
        if features.width < flat.shape[-1]:
            dense, into = flat[:, : features.width], found[:, : features.width]
        own: dict[str, Tensor] = {}
        for chunk in self.chunks(starts):
            size = flat.shape[0], prod(chunk.size(p, n) for p, n in self.plates.items())
            logits, weights = self._buffer("logits", *size), self._buffer("weights", *size)
            columns = features.matrix(chunk, partial(self._room, features, chunk))
            torch.mm(dense, columns, out=logits)
            looked_up = features.entries(chunk) if features.looked_up else ()
            for factor, at, entries in looked_up:
                logits += factor.form.densities(flat[:, at], entries)
            if natural.rows.owned:
                self.rows.add_own(natural.rows, logits, self.rows.columns(chunk))
            pair = [logits, weights]
            if starts > 1:
                pair = [part.view((starts, -1, size[1])) for part in pair]
            evidence.append(posterior_weights(pair[0], pair[1], self._scale(chunk)))
            if collect.sums:
                into.addmm_(weights, columns.mT)
                for factor, at, entries in looked_up:
                    found[:, at] += factor.form.statistics(weights, entries, factor.data.width)
                if natural.rows.owned:
                    add(own, self.rows.own_sums(natural.rows, weights, self.rows.columns(chunk)))
        total = sum(evidence[1:], evidence[0]).view(starts)
        return Found(total, self._statistics(natural, found.view_as(eta), own) if collect.sums else {})

    def _apart(self, natural: MixtureNatural, prior: Tensor, starts: int, collect: Collect) -> Found:
        """The same where all cells are around their own locations: one centre only says which of them a row is near."""
        features, side = natural.features, natural.rows
        rough = [part.own.rough for part in side.each if part.own is not None and part.own.rough is not None]
        eta = features.natural(torch.cat(rough, -1), torch.zeros_like(prior))
        flat, log_prior = eta.flatten(0, -2), prior.expand(eta.shape[:-1]).flatten()
        evidence: list[Tensor] = []
        count = torch.zeros_like(log_prior)
        own = {factor.name: eta.new_zeros((len(flat), factor.data.width)) for factor in self.rows.sites}
        for chunk in self.chunks(starts):
            values, parts = self.rows.columns(chunk), [EVERY]
            if starts == 1:
                matrix = features.matrix(chunk, partial(self._room, features, chunk))
                entries = sum(value[..., 0].numel() for value, _ in values)
                parts = split(flat, log_prior, matrix, self._largest(chunk, matrix), entries)
            for cells, taken in shared(self.rows, side, values, log_prior, self._scale(chunk), parts, starts):
                evidence.append(taken.log_evidence)
                count[cells] += taken.counts
                for name, part in taken.sums.items():
                    own[name][cells] += part
        by_feature = torch.zeros_like(eta)
        by_feature[..., features.column] = count.view(eta.shape[:-1])
        total = sum(evidence[1:], evidence[0])
        return Found(total, self._statistics(natural, by_feature, own) if collect.sums else {})

    def _prior(self, natural: MixtureNatural, offsets: Mapping[str, Named]) -> Tensor:
        """Sum of the factors over the latent alone, (starts) + (K,)."""
        parts = []
        for unit, part in zip(self.prior, natural.prior, strict=True):
            parts += unit.log_factors(part)[0]
            parts += [offsets[name].tensor for name in unit.members if name in offsets]
        return parts[0] if len(parts) == 1 else torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def _statistics(self, natural: MixtureNatural, found: Tensor, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Statistics of every unit, from those of the features."""
        count = found[..., natural.features.column]
        statistics: dict[str, Tensor] = {}
        for unit, part in zip(self.prior, natural.prior, strict=True):
            statistics |= unit.sums([count], part, None)
        of_rows = self.rows.cut(natural.features.statistics(found))
        if own:
            self.rows.put_own(of_rows, natural.rows, own)
        return statistics | of_rows

    def finish(self, found: Mapping[str, Tensor], natural: MixtureNatural) -> dict[str, Sums]:
        """Statistics of the families, from those of all chunks."""
        sums: dict[str, Sums] = {}
        for unit, part in zip(self.units, (*natural.prior, natural.rows), strict=True):
            sums |= unit.finish(found, part)
        return sums

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """Say by how much digits run short: of a scale, or of what is left out of the features."""
        narrow = self.rows.digits(bound, near)
        if self.lean is None:
            return narrow
        few = self.lean.digits(near)
        return worst((narrow, torch.stack((few if bound.plain else few * (self.lean.digits(bound) <= 1), few))))

    # ---- buffers ----

    def beside(self, other: object) -> Mixture:
        """The same with the buffers of another one, which is not at work meanwhile."""
        return replace(self, buffers=other.buffers) if isinstance(other, Mixture) else self

    def _room(self, features: Features, chunk: Chunk) -> Tensor:
        """Where to write the features of a chunk."""
        size = prod(chunk.size(p, n) for p, n in self.plates.items())
        return self._buffer("features", features.width, size)

    def _buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """A matrix to write into; its memory is that of the largest asked for under this name."""
        views = self.buffers.setdefault(name, {})
        if (rows, columns) not in views:
            have = next(iter(views.values()), None)
            if have is None or have.untyped_storage().nbytes() < 8 * rows * columns:
                views.clear()
                device = self.rows.sites[0].data.value.tensor.device
                have = torch.empty((rows, columns), dtype=torch.float64, device=device)
            views[rows, columns] = have.as_strided((rows, columns), (columns, 1))
        return views[rows, columns]

    def _largest(self, chunk: Chunk, features: Tensor) -> Tensor:
        """Largest absolute value of every feature of a chunk."""
        if (chunk, len(features)) not in self.largest:
            self.largest[chunk, len(features)] = features.abs().amax(-1)
        return self.largest[chunk, len(features)]

    def _scale(self, chunk: Chunk) -> Tensor | None:
        """Weight of every row of a chunk."""
        if self.scale is None or chunk in self.scales:
            return self.scales.get(chunk)
        sizes = [chunk.size(p, n) for p, n in self.plates.items()]
        cut = Named(chunk.cut(self.scale), self.scale.names)
        self.scales[chunk] = cut.align(tuple(self.plates)).expand(sizes).reshape(-1)
        return self.scales[chunk]


def as_mixture(
    units: Sequence[Unit],
    factors: Sequence[Factor],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
    length: int,
) -> Mixture | None:
    """Recognise factors whose rows hang on one latent each; None where they are anything else.

    Args:
        units: that compute the factors.
        factors: what is contracted together.
        owners: for every latent, the plates around its site.
        sizes: of all latents and plates.
        length: rows of a chunk.
    """
    latents = {name for factor in factors for name in factor.names if name in owners}
    members = [name for unit in units for name in unit.members]
    if len(latents) != 1 or sorted(members) != sorted(factor.name for factor in factors):
        return None
    (latent,) = latents
    if any(f.plates != owners[latent] or f.alive is not None for f in factors):
        return None
    plates = {name: n for name, n in sizes.items() if name in owners[latent] and n > 1}
    of_rows = [unit for unit in units if any(f.role == "observed" for f in unit.factors)]
    prior = [unit for unit in units if unit not in of_rows]
    alone = all(len(unit.members) == 1 and [f.names for f in unit.factors] == [(latent,)] for unit in prior)
    if not of_rows or not plates or not (alone and all(_is_plain(unit, latent, plates) for unit in of_rows)):
        return None
    rows = sorted((f for unit in of_rows for f in unit.factors), key=lambda factor: not factor.form.together)
    features = features_of(Bundle(tuple(rows)), lean=False)
    plate = max(plates, key=lambda name: plates[name])
    return Mixture(latent, features, tuple(prior), plates, factors[0].scale, plate, length)  # type: ignore[arg-type]


def _is_plain(unit: Unit, latent: str, plates: Collection[str]) -> bool:
    """Whether the factors of a unit are one product of states and rows."""
    want = ((), (latent,), tuple(plates))
    rows = all((f.layout.batch, f.layout.cells, f.layout.columns) == want for f in unit.factors)
    products = all(f.form.in_product for f in unit.factors)
    return unit.in_one_product and len(unit.members) == 1 and rows and products
