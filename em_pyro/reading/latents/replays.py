"""A program replayed with its latents and the parameters of its locations moved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property

import torch
from torch import Tensor

from ...errors import ModelError
from ...program.named import Params, alike, squeeze, unwrap
from ...program.points.abreast import FEW, read_abreast
from ...program.program import Program
from ...program.site import Site
from ...records.frozen import frozen
from ..design.replays import NOISE
from .bilinear import Kind, Places, beside

FAR = {False: 300, True: 60}  # powers of two by which latents are moved at most, in double precision and in single
KEPT = 200_000  # latent entries of all runs that are kept
ROOM = {False: 900, True: 110}  # what a location may be then


class Crowded(Exception):
    """A cell has two of the entries that were moved together; says of which kind."""

    def __init__(self, kind: Kind | None, said: ModelError | None = None) -> None:
        """Of which kind, None is not known; and what is said where all are moved alone."""
        super().__init__()
        self.kind, self.said = kind, said


@frozen
class Steps:
    """Sites whose values and locations have the same shapes, the steps of a loop, with a dimension for them in front.

    Attributes:
        names: of the sites.
        value: of all of them.
        location: likewise.
    """

    names: tuple[str, ...]
    value: Tensor = field(repr=False)
    location: Tensor = field(repr=False)

    def rows(self, part: Tensor) -> Tensor:
        """Cells of every site in a row."""
        return part.reshape((len(self.names), -1))

    def moved(self, run: Parts) -> Tensor:
        """How much residuals differ in a run."""
        value, location = run.of(self.names)
        return (value - self.value) - (location - self.location)


def together(parts: Mapping[str, tuple[Tensor, Tensor]]) -> list[Steps]:
    """Put the values and the locations of all sites that have them in the same shapes side by side."""
    groups: dict[tuple[torch.Size, torch.Size], list[str]] = {}
    for name, (value, location) in parts.items():
        groups.setdefault((value.shape, location.shape), []).append(name)
    found = list[Steps]()
    for names in groups.values():
        value, location = (beside([parts[name][k] for name in names]) for k in (0, 1))
        found.append(Steps(tuple(names), value, location))
    return found


class Parts(Mapping[str, tuple[Tensor, Tensor]]):
    """Value and location of every site in one run, by name; and those of many sites in one tensor."""

    def __init__(self, steps: Sequence[Steps], names: Sequence[str]) -> None:
        """Take all sites, and their names in order; what is masked may be no number, and is put at zero."""
        self.steps = tuple(Steps(s.names, _finite(s.value), s.location) for s in steps)
        where = {name: (k, at) for k, some in enumerate(self.steps) for at, name in enumerate(some.names)}
        self._where = {name: where[name] for name in names}

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        """Return value and location of a site."""
        k, at = self._where[name]
        return self.steps[k].value[at], self.steps[k].location[at]

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the sites in their order."""
        return iter(self._where)

    def __len__(self) -> int:
        """Return how many sites there are."""
        return len(self._where)

    def of(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return values and locations of some sites, whose cells are alike, side by side."""
        first = self._where[names[0]][0]
        if names == self.steps[first].names:
            return self.steps[first].value, self.steps[first].location
        places = [self._where[name] for name in names]
        if all(k == first for k, _ in places):
            at = torch.tensor([at for _, at in places])
            return self.steps[first].value[at], self.steps[first].location[at]
        value, location = (torch.broadcast_tensors(*(self[name][k] for name in names)) for k in (0, 1))
        return beside(value), beside(location)


def _finite(value: Tensor) -> Tensor:
    finite = torch.isfinite(value)
    return value if bool(finite.all()) else torch.where(finite, value, 0.0)


def _digits(latents: Tensor) -> bytes:
    return latents.cpu().numpy().tobytes()


@frozen
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

    @property
    def ones(self) -> Tensor:
        """All latents at one: how large values and locations are then says how far latents may be moved."""
        return torch.ones(self.places.count, dtype=torch.float64)

    @property
    def farthest(self) -> float:
        """How far latents are moved, unless values and locations are so large that they would be no numbers then."""
        return 2.0 ** FAR[self.single]

    @cached_property
    def far(self) -> float:
        """How far latents are moved, a power of two: so far that their slopes are not lost beside anything."""
        every = [part for some in self.run(self.ones, {}).steps for part in (some.value, some.location)]
        size = max(float(part.abs().max()) for part in every if part.numel())
        return min(self.farthest, 2.0 ** (ROOM[self.single] - math.frexp(size)[1]))

    def run(self, latents: Tensor, moved: Params) -> Parts:
        """Return value and location of every site, both in the dimensions of its cells."""
        if (known := self._known(latents, moved)) is not None:  # some are asked for again
            return known
        found = self.cells(self._sites(latents, moved))
        if self.keeps(1):
            self._keep(latents, moved, found)
        return found

    def _sites(self, latents: Tensor, moved: Params) -> dict[str, Site]:
        with torch.no_grad():
            return self.program.run({**self.params, **moved}, self.places.values(latents))

    def _known(self, latents: Tensor, moved: Params) -> Parts | None:
        return next((parts for by, parts in self._runs.get(_digits(latents), ()) if alike(by, moved)), None)

    def _keep(self, latents: Tensor, moved: Params, parts: Parts) -> None:
        self._runs.setdefault(_digits(latents), []).append((moved, parts))

    def ahead(self, points: Sequence[Tensor], known: Mapping[str, Site] | None, moved: Params | None = None) -> None:
        """Run with several latents at once, where that can be done, and keep the runs: they will be asked for.

        Args:
            points: the latents.
            known: a run at the same parameters, and other latents; None is made.
            moved: parameters that have other values.
        """
        moved = moved or {}
        points = [point for point in points if self._known(point, moved) is None]
        if len(points) < FEW or not self.keeps(len(points)):
            return
        known = self._sites(torch.zeros_like(points[0]), moved) if known is None else known
        steps = list[tuple[str, ...]]()

        def read(sites: Mapping[str, Site]) -> dict[tuple[str, str], Tensor]:
            every = self._steps(sites)
            steps[:] = [some.names for some in every]
            parts = {(str(k), "value"): some.value for k, some in enumerate(every)}
            return parts | {(str(k), "location"): some.location for k, some in enumerate(every)}

        before = {name: known[name].value for name in self.places.shapes}
        values = [before, *(self.places.values(point) for point in points)]
        with torch.no_grad():
            found = read_abreast(self.program, known, [{**self.params, **moved}] * len(values), values, read)
        if found is None:
            return
        for k, point in enumerate(points, 1):
            each = [Steps(n, found[f"{i}", "value"][k], found[f"{i}", "location"][k]) for i, n in enumerate(steps)]
            self._keep(point, moved, Parts(each, self._names))

    @cached_property
    def _runs(self) -> dict[bytes, list[tuple[Params, Parts]]]:
        """Runs by their latents, with the parameters that were moved."""
        return {}

    def keeps(self, runs: int) -> bool:
        """Whether so many more runs are kept."""
        return sum(map(len, self._runs.values())) + runs <= self._kept

    @cached_property
    def _kept(self) -> int:
        """How many of these are kept."""
        return KEPT // max(1, sum(math.prod(shape) for shape in self.places.shapes.values()))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return (*self.names, *sorted(self.deltas))

    def cells(self, sites: Mapping[str, Site]) -> Parts:
        """Return value and location of every site of a run, both in the dimensions of its cells."""
        return Parts(self._steps(sites), self._names)

    def _steps(self, sites: Mapping[str, Site]) -> list[Steps]:
        return together({name: _parts(sites[name]) for name in self._names})


def _parts(site: Site) -> tuple[Tensor, Tensor]:
    """Lay value and location of a site out over its cells."""
    inner = unwrap(site.fn)
    event = inner.event_rank + len(inner.base.event_shape)
    location = vars(inner.base).get("v", getattr(inner.base, "loc", None))
    assert location is not None
    return _laid(site, site.value.detach(), event), _laid(site, location.detach(), event)


def _laid(site: Site, part: Tensor, event: int) -> Tensor:
    """Give a part the dimensions of all latents and plates of its site, and those of the events."""
    shape = part.shape
    batch = len(shape) - event
    cells = [shape[dim + batch] if -dim <= batch else 1 for dim in sorted(site.dims)]
    if batch > len(cells) and math.prod(cells) != math.prod(shape[:batch]):
        squeeze(part, site.dims, site.name, event)  # says which dimension is none of theirs
    return part.reshape((*cells, *(1,) * -batch, *shape[max(batch, 0) :])).double()


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
