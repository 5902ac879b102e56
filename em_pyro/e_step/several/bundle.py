"""Sites that hang on the same latents and the same rows: their log-densities add, so one matrix product does them all.

The items of a latent class model have parameters of their own; side by side, their natural parameters and features are
one wide matrix each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ...program.named import Named, align
from ...reading.bound import Bound
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from ..left import Left
from ..sites import centring
from ..sites.centring import Columns
from ..sites.natural import Natural
from ..sites.site_data import Room
from ..sites.site_factor import SiteFactor
from ..sums import Sums
from ..units import Unit, worst
from .stack import row_width


class Side(NamedTuple):
    """Natural parameters of several sites side by side.

    Attributes:
        eta: (starts) + cells + (F of all,).
        each: of every site.
        owned: whether a cell of any of them is around its own location.
    """

    eta: Tensor
    each: tuple[Natural, ...]
    owned: bool

    @property
    def apart(self) -> bool:
        """Whether all cells of all sites are around their own locations."""
        return self.owned and all(part.own is not None and part.own.every for part in self.each)

    def of(self, cells: slice) -> Side:
        """Some of the cells around their own locations alone."""
        each = (part._replace(own=None if part.own is None else part.own.of(cells)) for part in self.each)
        return self._replace(each=tuple(each))


@frozen
class Bundle(Unit):
    """One site or several as one factor, under the name of the first."""

    in_one_product: ClassVar[bool] = True
    sites: tuple[SiteFactor, ...]
    cache: dict[Chunk, Tensor] = field(default_factory=dict, repr=False)

    @property
    def factors(self) -> tuple[SiteFactor, ...]:
        """The sites whose statistics come out."""
        return self.sites

    @property
    def members(self) -> tuple[str, ...]:
        """Name of the factor that it computes: the sum of all."""
        return (self.sites[0].name,)

    def natural(self, bound: Bound, about: Bound | None = None, replays: Mapping[str, Named] | None = None) -> Side:
        """Natural parameters of all sites, side by side."""
        each = tuple(factor.natural(bound, about) for factor in self.sites)
        eta = each[0].eta if len(each) == 1 else torch.cat([part.eta for part in each], -1)
        return Side(eta, each, any(part.own is not None for part in each))

    def features(self, chunk: Chunk = WHOLE, room: Room | None = None) -> Tensor:
        """Features of all sites, one above the other; what is not kept is written into `room()`, if that is given."""
        if len(self.sites) == 1:
            return self.sites[0].data.features(chunk, room)
        if chunk not in self.cache:
            first, widths = self.sites[0].data, [factor.data.width for factor in self.sites]
            keep = first.kept(sum(widths))
            made = room() if room and not keep else first.empty(chunk, sum(widths))
            for factor, part in zip(self.sites, made.split(widths), strict=True):
                factor.data.write(chunk, part)
            if not keep:
                return made
            self.cache[chunk] = made
        return self.cache[chunk]

    @cached_property
    def together(self) -> bool:
        """Whether all have features that may stand one above the other: those that are looked up have none."""
        return all(factor.form.together for factor in self.sites)

    def log_factors(self, natural: Side, chunk: Chunk = WHOLE) -> tuple[list[Tensor], Tensor | None]:
        """The sum of all log-densities; features that all have in common are remembered."""
        if not self.together:
            pairs = zip(self.sites, natural.each, strict=True)
            each = [factor.log_density(part, factor.features(chunk), chunk) for factor, part in pairs]
            return [sum(each[1:], each[0])], None
        features, first = self.features(chunk), self.sites[0]
        product = first.log_density(Natural(natural.eta), features, chunk)
        if natural.owned:
            product = align(product, first.names, first.laid_out).contiguous()
            columns = product.shape[1 + len(first.layout.cells) :].numel()
            self.add_own(natural, product.view(-1, columns), self.columns(chunk))
            product = align(product, first.laid_out, first.names)
        return [product], features

    def columns(self, chunk: Chunk) -> list[Columns]:
        """Values of the rows of every site, and how much each counts."""
        return [factor.data.columns(chunk) for factor in self.sites]

    def add_own(self, natural: Side, product: Tensor, columns: Sequence[Columns]) -> None:
        """Add what cells around their own locations have to their rows of `product`, (starts and cells, columns)."""
        for factor, part, values in zip(self.sites, natural.each, columns, strict=True):
            if part.own is not None:
                centring.add_densities(factor, part.own, product, values)

    def own_sums(self, natural: Side, weights: Tensor, columns: Sequence[Columns]) -> dict[str, Tensor]:
        """Statistics of the cells around their own locations, by site; `weights` are (starts and cells, columns)."""
        parts = zip(self.sites, natural.each, columns, strict=True)
        return {f.name: centring.own_sums(f, p.own, weights, values) for f, p, values in parts if p.own is not None}

    def sums(
        self, shares: Sequence[Tensor | None], natural: Side | None, memo: Tensor | None, chunk: Chunk = WHOLE
    ) -> dict[str, Tensor]:
        """Expected statistics of every site, by name."""
        (share,), first = shares, self.sites[0]
        assert share is not None
        if not self.together:
            each = [None] * len(self.sites) if natural is None else natural.each
            pairs = [(f, part) for f, part in zip(self.sites, each, strict=True) if f.parameters]
            return {f.name: f.weighted(share, part, f.features(chunk), chunk) for f, part in pairs}
        features = self.features(chunk) if memo is None else memo
        found = self.cut(first.weighted(share, None, features, chunk))
        if natural is not None and natural.owned:
            flat = align(share, first.names, first.laid_out)
            flat = flat.reshape((-1, flat.shape[1 + len(first.layout.cells) :].numel()))
            self.put_own(found, natural, self.own_sums(natural, flat, self.columns(chunk)))
        return found

    def cut(self, found: Tensor) -> dict[str, Tensor]:
        """Statistics of all sites side by side, cut into those of each."""
        widths = [factor.data.width for factor in self.sites]
        parts = (found,) if len(widths) == 1 else found.split(widths, -1)
        return {f.name: part for f, part in zip(self.sites, parts, strict=True) if f.parameters}

    def put_own(self, found: dict[str, Tensor], natural: Side, own: Mapping[str, Tensor]) -> None:
        """Put the statistics of cells around their own locations in place of those by one centre."""
        for factor, part in zip(self.sites, natural.each, strict=True):
            if part.own is not None and factor.name in found:
                here = found[factor.name].clone()
                here.view(-1, here.shape[-1])[part.own.which] = own[factor.name]
                found[factor.name] = here

    def made_of(self, member: str) -> tuple[SiteFactor, ...]:
        """All sites."""
        return self.every

    def finish(self, found: Mapping[str, Tensor], natural: Side | None) -> dict[str, Sums]:
        """Statistics of every family, from those of all chunks."""
        each = [None] * len(self.sites) if natural is None else natural.each
        pairs = zip(self.sites, each, strict=True)
        return {f.name: f.finish(found[f.name], part) for f, part in pairs if f.name in found}

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """Say by how much digits run short."""
        return worst(factor.form.digits(factor, bound, near) for factor in self.sites)

    def width(self, plate: str) -> int:
        """Features of all sites and log-densities of a row."""
        return row_width(self.sites, plate)


def take(left: Left) -> tuple[list[Unit], Left]:
    """Take lone sites with the same dimensions out of what is left, each group as one unit."""
    groups: dict[object, list[SiteFactor]] = {}
    for group in left.stacks:
        site, factor = group.first, left.factors[group.first.name]
        apart = site.layout.batch or factor.alive is not None
        rows = all(n not in left.owners for n in site.layout.columns)
        if len(group.every) == 1 and site.role == "observed" and site.form.together and rows and not apart:
            groups.setdefault((site.layout, site.names, factor.plates), []).append(site)
    units: list[Unit] = [Bundle(tuple(members)) for members in groups.values() if len(members) > 1]
    kept = [left.factors[unit.members[0]] for unit in units]
    return units, left.taking([name for unit in units for name in unit.stands_for], *kept)
