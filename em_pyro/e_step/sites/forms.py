"""In which form a site's factor is computed: a row of the table `FORMS` each.

Every form leads from arguments to log-densities and from posterior weights to statistics of one kind. Sites of a form
with `together` may share one matrix product with others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...program.named import Params, align
from ...reading.bound import Bound, finite
from ..chunks import WHOLE, Chunk
from ..sums import Sums
from . import centring
from .natural import Natural
from .site_factor import Form, SiteFactor

MANY = 12  # categories from which looking up is faster than a matrix product with zeros


@dataclass(frozen=True)
class InnerProduct:
    """Features of all rows times natural parameters of all cells, one matrix product for each of the two."""

    together: bool = True
    alike: ClassVar[bool] = True

    def events(self, factor: SiteFactor) -> tuple[tuple[int, ...], ...]:
        """Those of the family."""
        return factor.data.events

    def natural_of(self, factor: SiteFactor, args: Params) -> tuple[Tensor, ...]:
        """Those of the family."""
        return factor.family.natural(args)

    def natural(self, factor: SiteFactor, bound: Bound, about: Bound | None) -> Natural:
        """Bind by features, but for cells around their own locations."""
        return centring.natural(factor, bound, about)

    def features(self, factor: SiteFactor, chunk: Chunk) -> Tensor:
        """`T(x)`, (batch) + (F, columns)."""
        return factor.data.features(chunk)

    def densities(self, eta: Tensor, features: Tensor) -> Tensor:
        """`eta @ T(x)`: (..., cells, F) and (..., F, columns) give (..., cells, columns)."""
        return eta @ features

    def statistics(self, weights: Tensor, features: Tensor, width: int) -> Tensor:
        """`W @ T(x)'`: (..., cells, columns) and features of so many statistics give (..., cells, F)."""
        return weights @ features.mT

    def log_density(self, factor: SiteFactor, natural: Natural, features: Tensor, chunk: Chunk) -> Tensor:
        """The products of all cells, those of cells around their own locations added."""
        at, eta = 1 + len(factor.layout.batch), natural.eta
        if factor.layout.cells:
            eta = eta.flatten(at, -2) if len(factor.layout.cells) > 1 else eta
        else:
            eta = eta.unsqueeze(-2)
        product = self.densities(eta, features)
        if natural.own is not None:
            centring.add_densities(factor, natural.own, product.view(-1, product.shape[-1]), chunk)
        shape = len(eta), *factor.laid_out_sizes(chunk)
        return align(product if product.shape == shape else product.reshape(shape), factor.laid_out, factor.names)

    def weighted(
        self, factor: SiteFactor, weights: Tensor, natural: Natural | None, features: Tensor, chunk: Chunk
    ) -> Tensor:
        """Statistics of all cells, (starts) + batch + cells + (F,)."""
        layout = factor.layout
        weights = align(weights, factor.names, factor.laid_out)
        at = 1 + len(layout.batch)
        kept = weights.shape[: at + len(layout.cells)]
        flat = weights.reshape((*kept[:at], prod(kept[at:]), -1))
        found = self.statistics(flat, features, factor.data.width)
        if natural is not None and natural.own is not None:
            own = centring.own_sums(factor, natural.own, flat.reshape(-1, flat.shape[-1]), chunk)
            found.view(-1, found.shape[-1])[natural.own.which] = own
        return found.reshape((*kept, -1))

    def finish(self, factor: SiteFactor, found: Tensor, natural: Natural | None) -> Sums:
        """Cut, and move to the location at the parameters."""
        parts, around = centring.finish(factor, found, natural)
        axis = None if factor.kept is None else 1 + factor.cells.index(factor.kept)
        return Sums(factor.name, factor.family, parts, around, factor.kept, axis)

    def inner(self, factor: SiteFactor, bound: Bound, sums: Sums) -> Tensor:
        """`<eta, S>`, with the natural parameters of values less what they were summed around."""
        natural = factor.natural_of(factor.arguments(bound, sums.around))
        terms = [torch.where(part != 0, finite(eta) * part, 0.0) for eta, part in zip(natural, sums.parts, strict=True)]
        starts = max(len(term) for term in terms)  # of the arguments, of the sums, or of both
        return torch.cat([term.reshape((len(term), -1)).expand(starts, -1) for term in terms], -1)


@dataclass(frozen=True)
class Indicator(InnerProduct):
    """The features are the identity: a product with a latent's own support is a copy."""

    together: bool = False

    def densities(self, eta: Tensor, features: Tensor) -> Tensor:
        """The natural parameters themselves."""
        return eta

    def statistics(self, weights: Tensor, features: Tensor, width: int) -> Tensor:
        """The weights themselves."""
        return weights


@dataclass(frozen=True)
class Table(InnerProduct):
    """One-hot statistics: look columns up and add into them, instead of multiplying with zeros."""

    places: Tensor = field(default_factory=lambda: torch.zeros(0), repr=False)  # (columns...), `width` where masked
    together: bool = False

    def features(self, factor: SiteFactor, chunk: Chunk) -> Tensor:
        """Places of the rows of a chunk, flattened, shape `(1, columns)`."""
        places, columns = self.places, factor.layout.columns
        if chunk.plate in columns:
            places = places.narrow(columns.index(chunk.plate), chunk.start, chunk.length)
        return places.reshape(1, -1)

    def densities(self, eta: Tensor, features: Tensor) -> Tensor:
        """The natural parameter at the place of every row; none where the value is masked."""
        table = pad(eta, (0, 1)).flatten(0, -2)
        found = table.gather(-1, features.expand(len(table), -1))
        return found.reshape((*eta.shape[:-1], -1))

    def statistics(self, weights: Tensor, features: Tensor, width: int) -> Tensor:
        """Weights added up by place."""
        flat = weights.flatten(0, -2)
        sums = flat.new_zeros((len(flat), width + 1))
        sums.scatter_add_(-1, features.expand(len(sums), -1), flat)
        return sums[:, :-1].reshape((*weights.shape[:-1], width))


def table_of(factor: SiteFactor) -> Table | None:
    """The observations of a site as places in a table, if they can be and it pays."""
    data = factor.data
    if data.layout.batch or data.folded or data.event_shape or data.width < MANY:
        return None
    columns = data.layout.columns
    known = {key: part.tensor for key, part in data.known.items()}
    places = factor.family.codes(data.value.tensor, known)
    if places is None or set(data.value.names) - set(columns):
        return None
    shape = [data.sizes[n] for n in columns]
    places = align(places, data.value.names, columns).expand(shape)
    if data.weight is not None:
        weight = data.weight.align(columns).expand(shape)
        if not bool(((weight == 0) | (weight == 1)).all()):
            return None
        places = torch.where(weight == 0, data.width, places)
    return Table(places=places.contiguous())


def indicator_of(factor: SiteFactor) -> Indicator | None:
    """A latent whose features are the identity."""
    if factor.role != "latent" or factor.layout.batch or factor.layout.cells:
        return None
    features = factor.data.features(WHOLE)
    square = features.shape[0] == features.shape[1]
    return Indicator() if square and torch.equal(features, torch.eye(len(features)).to(features)) else None


FORMS: tuple[Callable[[SiteFactor], Form | None], ...] = (indicator_of,)
"""Forms of a factor of its own, the first that takes it; `InnerProduct` is for all.

`table_of` is for emissions of chains, and `rows.by_row` for families without finite statistics: the two are asked for
by name.
"""


def form_of(factor: SiteFactor) -> Form:
    """The form of a recognised site."""
    return next((form for take in FORMS if (form := take(factor)) is not None), factor.form)
