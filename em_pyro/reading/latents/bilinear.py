"""Residuals that are affine in the latents and in the parameters: the constants of `r = y(z) - x(z)' b`.

Given the latents the program is an ordinary one, and what its locations select or multiply has been read. Here the
covariates `x` and the response `y` are found as affine functions of the latents, by replays at zero and at one: entries
of which no cell has two move together, and are told apart by marks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from ...program.named import Params
from ...program.site import Site
from ...program.stated import stem
from ...records.frozen import frozen

ALONE = 8  # latents that are moved one by one
STEPS = 8  # of a loop, from which it is taken that neighbours meet

Kind = tuple[tuple[int, ...], str]
"""Of latents that may move together: their shape, and of steps of a long loop what their names have in common."""


@frozen
class Slot:
    """One latent entry a cell: which, and what multiplies it.

    Attributes:
        which: its number, -1 for none; dimensions of the cells, of size one where it does not vary.
        slopes: of the covariates, then of the response; None where it does not enter. Dimensions as of `which`.
    """

    which: Tensor = field(repr=False)
    slopes: tuple[Tensor | None, ...] = field(repr=False)


@frozen
class Bilinear:
    """The residual of every cell of one site; all tensors have the dimensions of its cells, of size one where they can.

    Attributes:
        site: in one run.
        names: latents and plates, by their tensor dimension; events follow.
        shape: of all cells, coordinates of vectors last.
        index: of every covariate the entry that it multiplies, -1 for none.
        entries: (parameter, flat position).
        constants: covariates, then the response, where all latents are zero.
        slots: the latents.
    """

    site: Site = field(repr=False)
    names: tuple[str, ...]
    shape: tuple[int, ...]
    index: tuple[Tensor, ...] = field(repr=False)
    entries: tuple[tuple[str, int], ...] = field(repr=False)
    constants: tuple[Tensor, ...] = field(repr=False)
    slots: tuple[Slot, ...] = field(repr=False)

    def residual(self, params: Params, latents: Tensor) -> Tensor:
        """Return what it says: residuals at values of the parameters, and of all latents side by side."""
        return self._added(params, latents, torch.Tensor.double, -1)

    def terms(self, params: Params, latents: Tensor) -> Tensor:
        """Return the absolute terms of the residuals, added up: what rounding is relative to."""
        return self._added(params, latents, lambda part: part.double().abs(), 1)

    def _added(self, params: Params, latents: Tensor, as_is: Callable[[Tensor], Tensor], sign: int) -> Tensor:
        theta = [as_is(params[name].reshape(-1)[at]) for name, at in self._sources]
        table = torch.cat([*theta, torch.zeros(1, dtype=torch.float64)])  # an index of -1 takes the zero
        values = self.values(latents, as_is)
        total = values[-1]
        for x, index in zip(values, self.index, strict=False):
            total = total + sign * x * table[index]
        return total.expand(self.shape)

    @cached_property
    def _sources(self) -> tuple[tuple[str, Tensor], ...]:
        """Parameters in the order of the entries, each with its flat positions."""
        groups = groupby(self.entries, key=lambda entry: entry[0])
        return tuple((name, torch.tensor([at for _, at in some])) for name, some in groups)

    def values(self, latents: Tensor, as_is: Callable[[Tensor], Tensor] = torch.Tensor.double) -> list[Tensor]:
        """Return the covariates, then the response, at values of all latents side by side."""
        values = [as_is(part) for part in self.constants]
        for slot in self.slots:
            z = torch.where(slot.which < 0, 0.0, as_is(latents[slot.which.clamp(min=0)]))
            values = [v if s is None else v + as_is(s) * z for v, s in zip(values, slot.slopes, strict=True)]
        return values


def stacked(
    sites: Mapping[str, Bilinear], kinds: Mapping[str, Hashable] | None = None
) -> list[tuple[tuple[str, ...], Bilinear]]:
    """Sites of one form, the steps of a loop say, as one residual with a dimension for them in front of all others.

    Args:
        sites: by name.
        kinds: of each, where more than the form has to agree.
    """
    groups: dict[Hashable, list[str]] = {}
    for name, made in sites.items():
        slots = [tuple(None if part is None else part.shape for part in (s.which, *s.slopes)) for s in made.slots]
        parts = [part.shape for part in (*made.index, *made.constants)]
        kind = kinds[name] if kinds else None
        groups.setdefault((kind, made.shape, made.names, made.entries, *parts, *slots), []).append(name)
    return [(tuple(names), _stacked([sites[name] for name in names])) for names in groups.values()]


def _stacked(sites: Sequence[Bilinear]) -> Bilinear:
    first = sites[0]
    slots = []
    for f, slot in enumerate(first.slots):
        of_each = zip(*(made.slots[f].slopes for made in sites), strict=True)
        slopes = tuple(None if parts[0] is None else beside([p for p in parts if p is not None]) for parts in of_each)
        slots.append(replace(slot, which=beside([made.slots[f].which for made in sites]), slopes=slopes))
    return replace(
        first,
        shape=(len(sites), *first.shape),
        index=tuple(beside(parts) for parts in zip(*(made.index for made in sites), strict=True)),
        constants=tuple(beside(parts) for parts in zip(*(made.constants for made in sites), strict=True)),
        slots=tuple(slots),
    )


def beside(parts: Sequence[Tensor]) -> Tensor:
    """Parts of one shape, with a dimension for them in front; one of them alone is not copied."""
    return torch.stack([*parts]) if len(parts) > 1 else parts[0].unsqueeze(0)


@frozen
class Places:
    """Where the entries of every latent stand among all of them.

    Attributes:
        shapes: of the values.
        events: how many of their last dimensions are events.
        dtypes: of the values, as the model has them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    events: Mapping[str, int]
    dtypes: Mapping[str, torch.dtype]

    @cached_property
    def first(self) -> dict[str, int]:
        """The number of the first entry of every latent."""
        found, at = {}, 0
        for name, shape in self.shapes.items():
            found[name] = at
            at += math.prod(shape)
        return found

    @property
    def count(self) -> int:
        """Number of entries."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def named(self, entries: Tensor) -> list[str]:
        """Name the latents that some entries are of, -1 for none."""
        ends = {n: (first, first + math.prod(self.shapes[n])) for n, first in self.first.items()}
        return [n for n, (a, b) in ends.items() if bool(((entries >= a) & (entries < b)).any())]

    def values(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut entries side by side into the values of the latents."""
        cut = flat.split([math.prod(shape) for shape in self.shapes.values()])
        found = dict[str, Tensor]()
        for (name, shape), part in zip(self.shapes.items(), cut, strict=True):
            part = part if len(shape) == 1 else part.reshape(shape)
            found[name] = part if part.dtype == self.dtypes[name] else part.to(self.dtypes[name])
        return found

    def frames(self, coarse: Mapping[Kind, int]) -> Iterator[tuple[Kind, Tensor]]:
        """Yield sets of entries that move together, with their kind: one coordinate of all latents of a kind.

        Args:
            coarse: of every kind, which of its `cuts` is made.
        """
        for kind, names in self.kinds.items():
            events = self.events[names[0]]
            shape = kind[0]
            size = math.prod(shape[len(shape) - events :])
            ids = torch.stack([torch.arange(math.prod(shape)) + self.first[n] for n in names])
            ids = ids.reshape((len(names), -1, size))
            sites, rows = self.cuts(kind)[coarse[kind]]
            for a in range(sites):
                for b in range(rows):
                    for part in ids[a::sites, b::rows].flatten(0, 1).unbind(-1):
                        if len(part):
                            yield kind, part

    def parts(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield one for some entries and zero for the others: few latents each alone, then a drawn half and the other.

        Where latents of other units meet in a cell, some part has one of them without the other.
        """
        if 1 < len(self.shapes) <= ALONE:
            for name, shape in self.shapes.items():
                one = torch.zeros(self.count, dtype=torch.float64)
                one[self.first[name] :][: math.prod(shape)] = 1.0
                yield one
        half = (torch.rand(self.count, generator=generator) < 0.5).double()
        yield half
        yield 1 - half

    @cached_property
    def kinds(self) -> dict[Kind, list[str]]:
        """The steps of a loop of the same shape, and by shape what is in no long one: it may meet all steps."""
        steps = Counter((shape, stem(name)) for name, shape in self.shapes.items())
        found: dict[Kind, list[str]] = {}
        for name, shape in self.shapes.items():
            loop = stem(name) if steps[shape, stem(name)] > STEPS else ""
            found.setdefault(((*shape,), loop), []).append(name)
        return found

    def cuts(self, kind: Kind) -> list[tuple[int, int]]:
        """Into how many parts latents of a kind, and the entries of each, may be cut: coarser ones first."""
        sites = len(self.kinds[kind])
        shape = kind[0]
        rows = math.prod(shape) // math.prod(shape[len(shape) - self.events[self.kinds[kind][0]] :])
        steps = [m for m in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32) if m < sites]
        wide = [m for m in (2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32) if m < rows]
        found = [(m, 1) for m in steps] + [(sites, 1)]
        found += [(m, k) for m in dict.fromkeys((1, sites)) for k in wide] + [(sites, rows)]
        return list(dict.fromkeys(found))


@frozen
class Latents:
    """Continuous latents that are integrated.

    Attributes:
        places: of their entries.
        sites: the residuals that they enter.
        sizes: entries of every parameter of the program.
        free: parameters that nothing constrains.
    """

    places: Places
    sites: Mapping[str, Bilinear] = field(repr=False)
    sizes: Mapping[str, int] = field(repr=False)
    free: frozenset[str] = field(repr=False)

    @cached_property
    def loadings(self) -> frozenset[str]:
        """Parameters that multiply a latent: at zero there is no slope, and no way out."""
        found = set[str]()
        for site in self.sites.values():
            for j, index in enumerate(site.index):
                if any(slot.slopes[j] is not None for slot in site.slots):
                    found |= {site.entries[int(i)][0] for i in index.unique() if i >= 0}
        return frozenset(found & self.sizes.keys())
