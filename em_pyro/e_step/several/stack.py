"""Sites that are the same function of the same parameters, evaluated together.

The steps of a chain and the items of a Python loop differ only in their data: their natural parameters are bound once,
and their features stand side by side in one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from math import prod
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from ...program.named import Named, align
from ...reading.bank import RoleMap
from ...reading.bound import Bound
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from ..sites import centring
from ..sites.natural import Natural
from ..sites.site_data import CACHE, Room
from ..sites.site_factor import Form, SiteFactor
from ..sums import Sums
from ..units import Unit

COMPARED = 100_000  # entries of an index map up to which two of them are compared


class OneFunction(Form, Protocol):
    """A form in which several sites may be one function."""

    def agreed(self, members: Sequence[SiteFactor]) -> list[SiteFactor]:
        """What they are, when they have agreed on what they share beside the function."""

    def columns(self, factor: SiteFactor, natural: Natural, features: Any) -> Tensor:
        """Log-densities of what `beside` has put together, (starts, cells, columns of all)."""

    def totals(self, factor: SiteFactor, weights: Tensor, natural: Natural | None, features: Any) -> Tensor:
        """Statistics under such weights, (starts, cells, numbers of a cell)."""


@frozen
class Stack(Unit):
    """One or more sites with the same natural parameters; the first of them gives the statistics their name."""

    in_one_product: ClassVar[bool] = True
    sites: tuple[SiteFactor, ...]
    same: bool  # the features are the same too: the latents of a chain
    cache: dict[Chunk, Any] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> SiteFactor:
        """The site that stands for all."""
        return self.sites[0]

    @property
    def factors(self) -> tuple[SiteFactor, ...]:
        """The site whose statistics come out."""
        return (self.first,)

    @property
    def every(self) -> tuple[SiteFactor, ...]:
        """All sites in it."""
        return self.sites

    @property
    def stands_for(self) -> Mapping[str, tuple[str, ...]]:
        """All sites, under the name of the first."""
        return {self.first.name: self.members}

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the factors that it computes."""
        return tuple(factor.name for factor in self.sites)

    def natural(self, bound: Bound, about: Bound | None = None, replays: Mapping[str, Named] | None = None) -> Natural:
        """Natural parameters of every cell."""
        return self.first.natural(bound, about)

    def features(self, chunk: Chunk = WHOLE, room: Room | None = None) -> Any:
        """Features of all sites, side by side; of a lone one written into `room()`, if that is given."""
        if self.same:
            return self.first.data.features(chunk, room) if room else self.first.features(chunk)
        if chunk in self.cache:
            return self.cache[chunk]
        made, numbers = self.first.form.beside([factor.features(chunk) for factor in self.sites])
        chunks = 1 if chunk.plate is None else -(-self.first.sizes[chunk.plate] // chunk.length)
        if numbers * chunks <= CACHE and not self.first.data.passing:
            self.cache[chunk] = made
            for factor in self.sites:
                factor.data.cache.clear()
        return made

    def log_factors(self, natural: Natural, chunk: Chunk = WHOLE) -> tuple[list[Tensor], Tensor]:
        """Log-density of every site, each in the order of its own names; the features are remembered."""
        first, features = self.first, self.features(chunk)
        if self.same:
            product = first.log_density(natural, features, chunk)
            product = align(product, first.names, first.laid_out)
            return [align(product, factor.laid_out, factor.names) for factor in self.sites], features
        flat, sizes, at = self.densities(natural, features, chunk), first.laid_out_sizes(chunk), len(first.layout.cells)
        product = flat.reshape((flat.shape[0], *sizes[:at], len(self.sites), *sizes[at:]))
        parts = zip(self.sites, product.unbind(1 + at), strict=True)
        return [align(part, factor.laid_out, factor.names) for factor, part in parts], features

    @property
    def form(self) -> OneFunction:
        """The form of all sites."""
        return cast(OneFunction, self.first.form)

    def densities(self, natural: Natural, features: Any, chunk: Chunk) -> Tensor:
        """Log-densities of all sites side by side, (starts, cells, sites x columns)."""
        flat = self.form.columns(self.first, natural, features)
        if natural.own is not None:
            each = flat.view((flat.shape[0] * flat.shape[1], len(self.sites), -1))
            for k, factor in enumerate(self.sites):
                centring.add_densities(factor, natural.own, each[:, k], factor.data.columns(chunk))
        return flat

    def statistics(self, weights: Tensor, natural: Natural | None, features: Any, chunk: Chunk) -> Tensor:
        """Statistics of all sites together, of weights (starts, cells, sites x columns): (starts, cells, F)."""
        found = self.form.totals(self.first, weights, natural, features)
        if natural is not None and natural.own is not None:
            each = weights.reshape((weights.shape[0] * weights.shape[1], len(self.sites), -1))
            own = [
                centring.own_sums(factor, natural.own, each[:, k], factor.data.columns(chunk))
                for k, factor in enumerate(self.sites)
            ]
            found.view(-1, found.shape[-1])[natural.own.which] = sum(own[1:], own[0])
        return found

    def sums(
        self, shares: Sequence[Tensor | None], natural: Natural | None, memo: Tensor | None, chunk: Chunk = WHOLE
    ) -> dict[str, Tensor]:
        """Expected statistics of all sites together, under the name of the first."""
        first, features = self.first, self.features(chunk) if memo is None else memo
        known = zip(shares, self.sites, strict=True)
        parts = [align(share, factor.names, factor.laid_out) for share, factor in known if share is not None]
        if not first.parameters or not parts:
            return {}
        if self.same:
            total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
            return {first.name: first.weighted(align(total, first.laid_out, first.names), natural, features, chunk)}
        kept = parts[0].shape[: 1 + len(first.layout.cells)]
        flat = torch.cat([part.reshape((kept[0], prod(kept[1:]), -1)) for part in parts], -1)
        return {first.name: self.statistics(flat, natural, features, chunk).reshape((*kept, -1))}

    def finish(self, found: Mapping[str, Tensor], natural: Natural | None) -> dict[str, Sums]:
        """Statistics of the family, from those of all chunks."""
        name = self.first.name
        return {name: self.first.finish(found[name], natural)} if name in found else {}

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """Say by how much digits run short."""
        return self.first.form.digits(self.first, bound, near)

    def width(self, plate: str) -> int:
        """Features and log-densities of a row."""
        return row_width(self.factors, plate) * len(self.sites)


def row_width(factors: Sequence[SiteFactor], plate: str) -> int:
    """Return how many numbers a row of `plate` takes: its features, and three for each of its cells."""
    inside = [factor for factor in factors if plate in factor.names]
    if not inside:
        return 0
    cells = prod(inside[0].sizes[n] for n in inside[0].names if n != plate)
    return sum(factor.form.row(factor) for factor in inside) + 3 * cells


def stacked(factors: Mapping[str, SiteFactor]) -> tuple[Stack, ...]:
    """Group sites by what they are a function of."""
    groups: dict[object, list[SiteFactor]] = {}
    for name, factor in factors.items():
        groups.setdefault(_signature(factor) or name, []).append(factor)
    stacks = []
    for members in groups.values():
        if len(members) > 1:
            members = cast(OneFunction, members[0].form).agreed(members)
        same = len(members) == 1 or _same_features(members)
        if same and len(members) > 1:  # made once
            members = [replace(f, data=replace(f.data, cache=members[0].data.cache)) for f in members]
        stacks.append(Stack(tuple(members), same))
    return tuple(stacks)


def _signature(factor: SiteFactor) -> object:
    """Equal for sites with the same natural parameters and the same shape of features; None if it stands alone."""
    if factor.family.solver == "rows" or factor.layout.batch or factor.data.groups is not None:
        return None
    affine = any(role.affine is not None for role in factor.roles.values())
    if affine and (factor.role == "latent" or factor.plates.intersection(factor.cells)):
        return None  # whether predictors of other rows agree is another matter
    roles = sorted(factor.roles.items())
    if sum(_size(role) for _, role in roles) > COMPARED:
        return None
    cells, columns, data = factor.layout.cells, factor.layout.columns, factor.data
    return (
        id(factor.family),
        factor.role,
        factor.plates,  # sites of other plates are contracted apart
        tuple(factor.sizes[n] for n in cells),
        tuple(factor.sizes[n] for n in columns if n not in factor.plates),
        tuple(n for n in columns if n in factor.plates),
        tuple(n for n in cells if n in factor.plates),
        data.folded,
        data.events,
        data.event_shape,
        data.counting,
        data.shift is None,
        type(factor.form),
        tuple((key, None if role.affine is None else role.affine.kind, _bytes(role)) for key, role in roles),
    )


def _size(role: RoleMap) -> int:
    """Numbers that tell a map."""
    affine = role.affine
    pieces = () if affine is None else affine.pieces
    return role.index.numel() + sum(piece.index.numel() + piece.value.numel() for piece in pieces)


def _bytes(role: RoleMap) -> tuple[bytes | None, ...]:
    parts = [role.index, role.coefficient, role.constant]
    if role.affine is not None:
        parts += [role.affine.offset, *(part for piece in role.affine.pieces for part in (piece.index, piece.value))]
    return tuple(None if p is None else p.detach().cpu().contiguous().numpy().tobytes() for p in parts)


def _same_features(members: Sequence[SiteFactor]) -> bool:
    """Whether the values are the same in all sites: those of latents are their support."""
    known = members[0].data.known.keys()
    if any(factor.role != "latent" or factor.data.known.keys() != known for factor in members):
        return False
    first = members[0]
    return all(_same_rows(first, f) or _equal(first.features(), f.features()) for f in members[1:])


def _same_rows(a: SiteFactor, b: SiteFactor) -> bool:
    """Whether the features of two sites of one signature are seen to be the same before they are made."""
    plain = all(not f.data.known and f.data.weight is None and f.data.shift is None for f in (a, b))
    return plain and a.family is b.family and _equal(a.data.value.tensor, b.data.value.tensor)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
