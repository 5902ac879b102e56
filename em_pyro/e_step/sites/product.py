"""The form of every exponential family: features of the rows times natural parameters of the cells.

Other forms replace how the two products are computed, or where the features come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...program.named import Params, align
from ...reading.bank import RoleMap
from ...reading.bound import Bound, finite
from ...records.frozen import frozen
from ..chunks import Chunk
from ..second.common import Common
from ..sums import Sums
from . import centring
from .natural import Natural
from .site_factor import SiteFactor


@dataclass(frozen=True)
class InnerProduct:
    """Features of all rows times natural parameters of all cells, one matrix product for each of the two."""

    together: bool = True
    alike: ClassVar[bool] = True
    in_product: ClassVar[bool] = True

    def events(self, factor: SiteFactor) -> tuple[tuple[int, ...], ...]:
        """Those of the family."""
        return factor.data.events

    def lines(self, factor: SiteFactor) -> RoleMap | None:
        """There are no covariates."""
        return None

    def natural_of(self, factor: SiteFactor, args: Params) -> tuple[Tensor, ...]:
        """Those of the family."""
        return factor.family.natural(args)

    def natural(self, factor: SiteFactor, bound: Bound, about: Bound | None) -> Natural:
        """Bind by features, but for cells around their own locations."""
        return centring.natural(factor, bound, about)

    def digits(self, factor: SiteFactor, bound: Bound, near: Bound) -> Tensor | None:
        """By the centres."""
        return centring.digits(factor, bound, near)

    def features(self, factor: SiteFactor, chunk: Chunk) -> Any:
        """`T(x)`, (batch) + (F, columns)."""
        return factor.data.features(chunk)

    def row(self, factor: SiteFactor) -> int:
        """All of them."""
        return factor.data.width

    def beside(self, features: Sequence[Any]) -> tuple[Any, int]:
        """Columns beside columns."""
        made = torch.cat(tuple(features), -1)
        return made, made.numel()

    def densities(self, eta: Tensor, features: Any) -> Tensor:
        """`eta @ T(x)`: (..., cells, F) and (..., F, columns) give (..., cells, columns)."""
        return eta @ features

    def statistics(self, weights: Tensor, features: Any, width: int) -> Tensor:
        """`W @ T(x)'`: (..., cells, columns) and features of so many statistics give (..., cells, F)."""
        return weights @ features.mT

    def agreed(self, members: Sequence[SiteFactor]) -> list[SiteFactor]:
        """Sites that are one function; values that are centred get one centre, and its reach is that of all."""
        shifts = [factor.data.shift for factor in members if factor.data.shift is not None]
        if not shifts:
            return list(members)
        centre = torch.stack(shifts).mean(0)
        data = [replace(factor.data, shift=centre, cache={}) for factor in members]
        reach = torch.stack([part.reach for part in data]).amax()
        return [replace(f, data=replace(d, agreed=reach)) for f, d in zip(members, data, strict=True)]

    def columns(self, factor: SiteFactor, natural: Natural, features: Any) -> Tensor:
        """Log-densities in the cells of one function of sites whose features are side by side: (starts, cells, all)."""
        eta = natural.eta if factor.layout.cells else natural.eta.unsqueeze(-2)
        return self.densities(eta.reshape((len(eta), -1, eta.shape[-1])), features)

    def totals(self, factor: SiteFactor, weights: Tensor, natural: Natural | None, features: Any) -> Tensor:
        """Statistics of these under weights (starts, cells, all)."""
        return self.statistics(weights, features, factor.data.width)

    def by_features(self, factor: SiteFactor) -> Common | None:
        """`T(x)` itself."""
        return Features(factor)

    def log_density(self, factor: SiteFactor, natural: Natural, features: Any, chunk: Chunk) -> Tensor:
        """The products of all cells, those of cells around their own locations added."""
        at, eta = 1 + len(factor.layout.batch), natural.eta
        if factor.layout.cells:
            eta = eta.flatten(at, -2) if len(factor.layout.cells) > 1 else eta
        else:
            eta = eta.unsqueeze(-2)
        product = self.densities(eta, features)
        if natural.own is not None:
            flat = product.view(-1, product.shape[-1])
            centring.add_densities(factor, natural.own, flat, factor.data.columns(chunk))
        shape = len(eta), *factor.laid_out_sizes(chunk)
        return align(product if product.shape == shape else product.reshape(shape), factor.laid_out, factor.names)

    def weighted(
        self, factor: SiteFactor, weights: Tensor, natural: Natural | None, features: Any, chunk: Chunk
    ) -> Tensor:
        """Statistics of all cells, (starts) + batch + cells + (F,)."""
        layout = factor.layout
        weights = align(weights, factor.names, factor.laid_out)
        at = 1 + len(layout.batch)
        kept = weights.shape[: at + len(layout.cells)]
        flat = weights.reshape((*kept[:at], prod(kept[at:]), -1))
        found = self.statistics(flat, features, factor.data.width)
        if natural is not None and natural.own is not None:
            shares = flat.reshape(-1, flat.shape[-1])
            own = centring.own_sums(factor, natural.own, shares, factor.data.columns(chunk))
            found.view(-1, found.shape[-1])[natural.own.which] = own
        return found.reshape((*kept, -1))

    def finish(self, factor: SiteFactor, found: Tensor, natural: Natural | None) -> Sums:
        """Cut, and move to the location at the parameters."""
        parts, around = centring.finish(factor, found, natural)
        axis = None if factor.kept is None else 1 + factor.cells.index(factor.kept)
        return Sums(factor.name, factor.family, parts, around, factor.kept, axis)

    def inner(self, factor: SiteFactor, bound: Bound, sums: Sums) -> Tensor:
        """`<eta, S>`, with the natural parameters of values less what they were summed around."""
        natural = self.natural_of(factor, factor.arguments(bound, sums.around))
        terms = [torch.where(part != 0, finite(eta) * part, 0.0) for eta, part in zip(natural, sums.parts, strict=True)]
        starts = max(len(term) for term in terms)  # of the arguments, of the sums, or of both
        return torch.cat([term.reshape((len(term), -1)).expand(starts, -1) for term in terms], -1)


@frozen
class Features:
    """A site by the statistics of its family; see `Common`."""

    site: SiteFactor

    def columns(self, chunk: Chunk, centre: Tensor | None) -> Tensor:
        """`T(x - centre)`."""
        made = self.site.data.empty(chunk)
        self.site.data.write(chunk, made, centre)
        return made

    def eta(self, bound: Bound, centre: Tensor | None) -> Tensor:
        """The natural parameters."""
        return self.site.eta(bound, centre)

    def middle(self, bound: Bound) -> Tensor | None:
        """The shift of the data."""
        return None

    def centres(self, bound: Bound) -> Tensor | None:
        """The locations, where cells may be computed around them."""
        return self.site.locations(bound) if self.site.centres else None

    def narrowness(self, bound: Bound) -> Tensor | None:
        """By the smallest scale of a cell."""
        return centring.narrowness(self.site, bound) if self.site.centres else None
