"""A program replayed with its latents and the parameters of its locations moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ...program.named import Params, squeeze, unwrap
from ...program.points.abreast import FEW, read_abreast
from ...program.program import Program
from ...program.site import Site
from ..design.replays import NOISE
from .bilinear import Places

Parts = dict[str, tuple[Tensor, Tensor]]
"""Value and location of every site."""

PARTS = "value", "location"
FAR = {False: 300, True: 60}  # powers of two by which latents are moved at most, in double precision and in single
KEPT = 100_000  # latent entries of all runs that are kept
ROOM = {False: 900, True: 110}  # what a location may be then


class Crowded(Exception):
    """A cell has two of the entries that were moved together; says of which kind."""

    def __init__(self, kind: tuple[int, ...] | None) -> None:
        """Of which kind; None is not known."""
        super().__init__()
        self.kind = kind


@dataclass(frozen=True, eq=False)
class Replays:
    """The program with its latents and locations moved."""

    program: Program
    params: Params = field(repr=False)
    places: Places
    names: Sequence[str]  # of the sites that the latents enter
    deltas: frozenset[str]  # sites that are observed exactly

    @cached_property
    def single(self) -> bool:
        """Whether anything in it is in single precision."""
        dtypes = {*(p.dtype for p in self.params.values()), *self.places.dtypes.values()}
        return torch.float32 in dtypes

    @property
    def noise(self) -> float:
        """Relative rounding of a replay."""
        return NOISE[torch.float32 if self.single else torch.float64]

    @cached_property
    def far(self) -> float:
        """How far latents are moved, a power of two: so far that their slopes are not lost beside anything."""
        run = self.run(torch.ones(self.places.count, dtype=torch.float64), {})
        size = max(float(part.abs().max()) for parts in run.values() for part in parts if part.numel())
        return 2.0 ** min(FAR[self.single], ROOM[self.single] - math.frexp(size)[1])

    @cached_property
    def _values(self) -> dict[str, tuple[Tensor | None, Tensor]]:
        """Values that are the same tensors in every run, as they are laid out over cells."""
        return {}

    def run(self, latents: Tensor, moved: Params) -> Parts:
        """Return value and location of every site, both in the dimensions of its cells."""
        if not moved:  # some are asked for again
            for before, parts in self._runs:
                if torch.equal(before, latents):
                    return parts
        with torch.no_grad():
            sites = self.program.run({**self.params, **moved}, self.places.values(latents))
        found = self.cells(sites)
        if not moved and len(self._runs) < self._kept:
            self._runs.append((latents, found))
        return found

    def ahead(self, points: Sequence[Tensor]) -> None:
        """Run with several latents at once, where that can be done, and keep the runs: they will be asked for."""

        def read(sites: Mapping[str, Site]) -> dict[tuple[str, str], Tensor]:
            each = {name: _parts(sites[name]) for name in (*self.names, *sorted(self.deltas))}
            return {(name, part): tensors[k] for name, tensors in each.items() for k, part in enumerate(PARTS)}

        if not FEW <= len(points) <= self._kept - len(self._runs):
            return
        values = [self.places.values(point) for point in points]
        with torch.no_grad():
            known = self.program.run(self.params, values[0])
            found = read_abreast(self.program, known, [self.params] * len(points), values, read)
        if found is None:
            self._runs.append((points[0], self.cells(known)))
            return
        apart = {key: part.unbind(0) for key, part in found.items()}
        for k, point in enumerate(points):
            names = dict.fromkeys(name for name, _ in apart)
            self._runs.append((point, {name: (apart[name, PARTS[0]][k], apart[name, PARTS[1]][k]) for name in names}))

    @cached_property
    def _runs(self) -> list[tuple[Tensor, Parts]]:
        """Runs in which no parameter was moved, and their latents."""
        return []

    @cached_property
    def _kept(self) -> int:
        """How many of these are kept."""
        return KEPT // max(1, sum(math.prod(shape) for shape in self.places.shapes.values()))

    def cells(self, sites: Mapping[str, Site]) -> Parts:
        """Return value and location of every site of a run, both in the dimensions of its cells."""
        return {name: self._cells(sites[name]) for name in (*self.names, *sorted(self.deltas))}

    def _cells(self, site: Site) -> tuple[Tensor, Tensor]:
        """Lay value and location of a site out over its cells; values that are the same tensor are laid out once."""
        key, (held, laid) = site.value.data_ptr(), self._values.get(site.name, (None, site.value))
        if held is None or key != held.data_ptr() or held.shape != site.value.shape:
            laid, location = _parts(site)
            self._values[site.name] = site.value, laid
            return laid, location
        return laid, _location(site)


def _parts(site: Site) -> tuple[Tensor, Tensor]:
    """Lay value and location of a site out over its cells."""
    inner = unwrap(site.fn)
    value = _laid(site, site.value.detach(), inner.event_rank + len(inner.base.event_shape))
    return torch.where(torch.isfinite(value), value, 0.0), _location(site)  # what is masked may be no number


def _location(site: Site) -> Tensor:
    inner = unwrap(site.fn)
    location = vars(inner.base).get("v", getattr(inner.base, "loc", None))
    assert location is not None
    return _laid(site, location.detach(), inner.event_rank + len(inner.base.event_shape))


def _laid(site: Site, part: Tensor, event: int) -> Tensor:
    if not site.dims and part.dim() == event:  # a step of a loop
        return part.double()
    names = names_of(site)
    return trailing(squeeze(part, site.dims, site.name, event).align(names).double(), len(names), event)


def names_of(site: Site) -> tuple[str, ...]:
    """Latents and plates of a site, by their tensor dimension."""
    return tuple(name for _, name in sorted(site.dims.items()))


def trailing(part: Tensor, names: int, event: int) -> Tensor:
    """Give a part all dimensions of the events."""
    missing = names + event - part.dim()
    return part.reshape((*part.shape[:names], *(1,) * missing, *part.shape[names:]))


def thin(part: Tensor) -> Tensor:
    """Keep one of what is the same along a dimension."""
    for d in range(part.dim()):
        if part.shape[d] > 1 and (part.stride(d) == 0 or bool((part == part.narrow(d, 0, 1)).all())):
            part = part.narrow(d, 0, 1)
    return part.contiguous()


def thin_which(which: Tensor, rows: Sequence[int]) -> Tensor:
    """The same of latents: where there is none, any will do; but not along `rows`, which would hang together by it."""
    for d in range(which.dim()):
        if which.shape[d] > 1:
            first = which.gather(d, (which >= 0).byte().argmax(d, keepdim=True))
            if bool(((which == first) | ((which < 0) & (d not in rows))).all()):
                which = first
    return which.contiguous()
