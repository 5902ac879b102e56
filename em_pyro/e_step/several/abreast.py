"""Sites laid out alike whose arguments differ, a step of a loop each: bound and multiplied in one operation.

Transitions that depend on a covariate, or have parameters of their own at every step, are no one function, as the sites
of a `Stack` are. But they are one array: what selects parameters, what multiplies them and what is known get a
dimension more, and a site with that dimension among its cells stands for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from ...program.named import Named, Sizes, align
from ...reading import predictor
from ...reading.bank import RoleMap
from ...reading.bound import Bound
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from ..sites.dimensions import Layout
from ..sites.natural import Natural
from ..sites.product import InnerProduct
from ..sites.site_factor import SiteFactor
from ..sums import Sums
from ..units import Unit
from .stack import row_width


@frozen
class Abreast(Unit):
    """Some sites of one layout.

    Attributes:
        sites: every one has statistics of its own.
        whole: what they are together, with the dimension `along` before the others.
    """

    sites: tuple[SiteFactor, ...]
    whole: SiteFactor = field(repr=False)
    along: str
    shifts: Tensor | None = field(default=None, repr=False)  # of each site, (sites) + events + event: `whole` has none

    @property
    def first(self) -> SiteFactor:
        """The site that gives the statistics of all their name, until they are told apart."""
        return self.sites[0]

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the factors that it computes."""
        return tuple(factor.name for factor in self.sites)

    @property
    def factors(self) -> tuple[SiteFactor, ...]:
        """All of them."""
        return self.sites

    def natural(self, bound: Bound, about: Bound | None = None, replays: Mapping[str, Named] | None = None) -> Natural:
        """Natural parameters of every cell of every site."""
        natural = self.whole.natural(bound, about)
        excess = [bound.excess(factor) for factor in self.sites]
        if all(part is None for part in excess):
            return natural
        return natural._replace(eta=torch.stack([factor.eta(bound) for factor in self.sites], 1))

    def log_factors(self, natural: Natural, chunk: Chunk = WHOLE) -> tuple[list[Tensor], Any]:
        """Log-density of every site, each in the order of its own names; the features are remembered."""
        found, memo = self.log_density(natural, chunk)
        parts = align(found, self.whole.names, (self.along, *self._inside)).unbind(1)
        return [align(p, self._inside, self._named(factor)) for p, factor in zip(parts, self.sites, strict=True)], memo

    def log_density(self, natural: Natural, chunk: Chunk = WHOLE) -> tuple[Tensor, Any]:
        """Log-densities of all, (starts) + names of the whole; the features are remembered."""
        features = self.whole.features(chunk)
        return self.whole.log_density(natural, features, chunk), features

    def sums(
        self, shares: Sequence[Tensor | None], natural: Natural | None, memo: Any, chunk: Chunk = WHOLE
    ) -> dict[str, Tensor]:
        """Expected statistics of all sites, under the name of the first."""
        pairs = zip(shares, self.sites, strict=True)
        each = [align(share, self._named(factor), self._inside) for share, factor in pairs if share is not None]
        weights = align(torch.stack(each, 1), (self.along, *self._inside), self.whole.names)
        return self.weighted(weights, natural, memo, chunk)

    def weighted(self, weights: Tensor, natural: Natural | None, memo: Any, chunk: Chunk) -> dict[str, Tensor]:
        """The same of weights (starts) + names of the whole."""
        features = self.whole.features(chunk) if memo is None else memo
        return {self.first.name: self.whole.weighted(weights, natural, features, chunk)}

    def finish(self, found: Mapping[str, Tensor], natural: Natural | None) -> dict[str, Sums]:
        """Statistics of every site."""
        if self.first.name not in found:
            return {}
        layout = self.whole.layout
        if self.shifts is None:
            each = found[self.first.name].movedim(1 + (*layout.batch, *layout.cells).index(self.along), 0)
            return {site.name: site.finish(part, None) for site, part in zip(self.sites, each, strict=True)}
        together = self.whole.finish(found[self.first.name], natural)
        assert together.around is not None
        arounds = (together.around + self._to_cells).unbind(1)
        parts = zip(*(part.unbind(1) for part in together.parts), strict=True)
        return {
            site.name: replace(together, site=site.name, parts=part, around=around)
            for site, part, around in zip(self.sites, parts, arounds, strict=True)
        }

    @property
    def _to_cells(self) -> Tensor:
        """The shifts, (sites) + cells + events + event."""
        assert self.shifts is not None
        cells = (1,) * (len(self.whole.cells) - 1)
        return self.shifts.reshape((len(self.sites), *cells, *self.shifts.shape[1:]))

    def inner(self, bound: Bound, sums: Mapping[str, Sums]) -> Tensor:
        """The share of all sites in `Q`, in one product."""
        each = [sums[name] for name in self.members if name in sums]
        if len(each) < len(self.sites) or any(one.coordinates is not None for one in each):
            return Unit.inner(self, bound, sums)
        together = beside(each)
        if together.around is not None:
            together = replace(together, around=together.around - self._to_cells)
        return self.whole.inner(bound, together).sum(-1)

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """As of one site."""
        return self.whole.form.digits(self.whole, bound, near)

    def width(self, plate: str) -> int:
        """Features and log-densities of a row."""
        return row_width(self.sites, plate)

    @property
    def _inside(self) -> tuple[str, ...]:
        """Dimensions of one site, in the words of the whole."""
        return tuple(name for name in self.whole.names if name != self.along)

    def _named(self, factor: SiteFactor) -> tuple[str, ...]:
        """Dimensions of a site, in the words of the whole."""
        words = dict(zip(factor.laid_out, [n for n in self.whole.laid_out if n != self.along], strict=True))
        return tuple(words[name] for name in factor.names)


def kind_of(factor: SiteFactor, words: Mapping[str, str]) -> object:
    """Equal for sites that may stand abreast, their dimensions in other words; None for one that stands alone."""
    data, layout = factor.data, factor.layout
    if factor.form != InnerProduct() or factor.kept or data.folded or layout.batch:
        return None
    if factor.moves and (data.weight is not None or not _lone(factor)):
        return None
    parts = {**data.known, "value": data.value} | ({} if data.weight is None else {"weight": data.weight})
    return (
        id(factor.family),
        factor.role,
        factor.plates,
        _in(words, factor.laid_out),
        tuple(factor.sizes[n] for n in factor.laid_out),
        data.events,
        data.event_shape,
        data.passing,
        tuple((key, _in(words, p.names), p.tensor.shape, p.tensor.dtype) for key, p in sorted(parts.items())),
        tuple((key, *_shapes(role)) for key, role in sorted(factor.roles.items())),
    )


def _lone(factor: SiteFactor) -> bool:
    """Whether a site of a location family has one value alone, which is its centre, and locations that differ by it."""
    return factor.roles[str(factor.family.location)].affine is not None and bool(factor.data.reach == 0)


def _shapes(role: RoleMap) -> tuple[object, ...]:
    """What of two maps has to be the same for one array to hold both."""
    affine = None if role.affine is None else role.affine.kind
    return (
        tuple(None if p is None else p.shape for p in (role.index, role.coefficient, role.constant)),
        affine,
        role.rows,
    )


def _in(words: Mapping[str, str], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(words.get(name, name) for name in names)


def abreast(sites: Sequence[SiteFactor], words: Mapping[str, str], along: str) -> Abreast:
    """Put sites of one kind side by side; `words` renames the dimensions of the first.

    Where each has one value alone, which is its centre, values are zero, and locations what is left of them.
    """
    first, count = sites[0], len(sites)
    sizes = Sizes({along: count, **{words.get(n, n): size for n, size in first.sizes.items()}})
    data = [factor.data for factor in sites]
    shifts = torch.stack([part.shift for part in data if part.shift is not None]) if first.moves else None
    values = [part.value if part.shift is None else _less(part.value, part.shift) for part in data]
    value, differs = _one_or_all(values, words, along)
    known = {key: _one_or_all([part.known[key] for part in data], words, along) for key in first.data.known}
    weights = [part.weight for part in data if part.weight is not None]
    weight, heavier = _one_or_all(weights, words, along) if weights else (None, False)
    by_step = differs or heavier or any(apart for _, apart in known.values())
    cells, columns = _in(words, first.layout.cells), _in(words, first.layout.columns)
    layout = Layout((along,), cells, columns, ()) if by_step else Layout((), (along, *cells), columns, ())
    new = {"layout": layout, "value": value, "known": {key: part for key, (part, _) in known.items()}}
    new |= {"weight": weight, "sizes": sizes, "shift": None if shifts is None else torch.zeros_like(shifts[0])}
    whole = replace(
        side_by_side([_around_centre(factor) for factor in sites], (along, *cells)),
        data=replace(first.data, cache={}, turned={}, rooms={}, **new),  # type: ignore[arg-type]
    )
    return Abreast(tuple(sites), whole, along, shifts)


def alike(sites: Iterable[SiteFactor]) -> list[list[SiteFactor]]:
    """Group sites by their kind, whatever their dimensions are called."""
    groups = dict[object, list[SiteFactor]]()
    for factor in sites:
        kind = kind_of(factor, {name: f"{k}" for k, name in enumerate(factor.laid_out)})
        groups.setdefault(factor.name if kind is None else kind, []).append(factor)
    return list(groups.values())


def side_by_side(sites: Sequence[SiteFactor], cells: tuple[str, ...]) -> SiteFactor:
    """Put the arguments of sites of one kind side by side, in cells of these names; the data are those of the first."""
    first = sites[0]
    return replace(
        first,
        roles={key: _beside([factor.roles[key] for factor in sites], cells) for key in first.roles},
        cells=cells,
        cell_shape=(len(sites), *first.cell_shape),
        parameters=frozenset().union(*(factor.parameters for factor in sites)),
    )


def beside(each: Sequence[Sums]) -> Sums:
    """Put the statistics of such sites side by side, behind the starts."""
    parts = tuple(torch.stack(part, 1) for part in zip(*(one.parts for one in each), strict=True))
    arounds = [one.around for one in each if one.around is not None]
    return replace(each[0], parts=parts, around=torch.stack(arounds, 1) if arounds else None)


def _less(value: Named, shift: Tensor) -> Named:
    """Values around a centre."""
    return Named(value.tensor.double() - shift, value.names)


def _around_centre(factor: SiteFactor) -> SiteFactor:
    """A site whose locations are those of values around its centre."""
    role = factor.roles.get(str(factor.family.location))
    if factor.data.shift is None or role is None or role.affine is None:
        return factor
    affine = replace(role.affine, offset=role.affine.offset - factor.data.shift)
    return replace(factor, roles={**factor.roles, str(factor.family.location): replace(role, affine=affine)})


def _one_or_all(parts: Sequence[Named], words: Mapping[str, str], along: str) -> tuple[Named, bool]:
    """What is the same in all sites as it is, what differs side by side; and whether it differs."""
    tensor, names = predictor.stacked([part.tensor for part in parts]), _in(words, parts[0].names)
    return (Named(tensor[0], names), False) if len(tensor) == 1 else (Named(tensor, (along, *names)), True)


def _beside(roles: Sequence[RoleMap], names: tuple[str, ...]) -> RoleMap:
    """Maps into the bank side by side."""

    def every(parts: Sequence[Tensor | None]) -> Tensor | None:
        known = [part for part in parts if part is not None]
        return torch.stack(known) if known else None

    index = every([role.index for role in roles])
    assert index is not None
    affines = [role.affine for role in roles if role.affine is not None]
    return RoleMap(
        names,
        index,
        every([role.coefficient for role in roles]),
        every([role.constant for role in roles]),
        predictor.side_by_side(affines) if affines else None,
        roles[0].rows,
    )
