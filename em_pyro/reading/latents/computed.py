"""Arguments that the model computes from parameters, in no way that has been read.

A location that is affine in the latents is `l_0 + sum_f l_f z_f`, whatever its coefficients are of the parameters: a
run at zero tells `l_0`, and one with the entries of a frame at one tells `l_f`. These, and scales, are taken for
parameters wherever the latents are summed out, and are differentiated where torch climbs `Q`. The runs are recorded
together, once, as tensor operations: what they have in common is then computed once. Where that cannot be, the model is
run for them in every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ...program.handlers import quiet
from ...program.named import Batch, Named, Params, squeeze, unwrap
from ...program.points.abreast import pays
from ...program.program import Program
from ...program.site import Site
from ...recording.graph import Graph
from ...recording.graph import Slot as Value
from ...recording.record import Untraceable, record
from ...recording.recorded import SAME as AGREEING
from ...recording.recorded import close
from ...records.frozen import frozen
from ..design.compared import idle
from .bilinear import Places, Slot
from .replays import names_of, thin, trailing

Part = tuple[int, tuple[int, ...]]
"""The number of a run, and the dimensions along which nothing varies."""


@frozen
class Computed:
    """What is computed of which runs.

    Attributes:
        program: the model.
        latents: values of all latents in every run, zero first.
        places: of the latents.
        locations: by site, what is kept of which runs.
        scales: by site, the name of the argument and the dimensions along which nothing varies.
        graph: the same as tensor operations; None where the model is run for it.
        why: it could not be recorded.
        at_once: whether all runs are made at once.
        same: sites whose arguments are, operation by operation, those of another one, which stands for them.
    """

    program: Program = field(repr=False)
    latents: tuple[Tensor, ...] = field(repr=False)
    places: Places
    locations: Mapping[str, tuple[Part, ...]]
    scales: Mapping[str, tuple[str, tuple[int, ...]]]
    at_once: bool = False
    graph: Graph | None = field(default=None, repr=False)
    why: str = ""
    same: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return the arguments by name, starts first; differentiable in the parameters."""
        starts = len(next(iter(batch.values())))
        each = [self.once({name: value[s] for name, value in batch.items()}) for s in range(starts)]
        return {name: torch.stack([one[name] for one in each]) for name in each[0]}

    def once(self, params: Params) -> dict[str, Tensor]:
        """Return the arguments at one set of parameters: flat locations by site, and scales as they are laid out."""
        return self.run(params) if self.graph is None else self.graph(params)

    def run(self, params: Params) -> dict[str, Tensor]:
        """Return the same by runs of the model."""
        keys = {name: key for name, (key, _) in self.scales.items()}
        locations, scales = runs_of(self.program, params, self.places, self.latents, keys, at_once=self.at_once)
        found = dict[str, Tensor]()
        for name, parts in self.locations.items():
            every, flat = locations[name], list[Tensor]()
            for dims, some in groupby(parts, key=lambda part: part[1]):
                numbers = [k for k, _ in some]
                kept = every[torch.tensor(numbers)]
                if numbers[0] == 0:
                    kept = torch.cat([kept[:1], kept[1:] - every[0]]) if len(numbers) > 1 else kept
                else:
                    kept = kept - every[0]
                flat.append(_narrowed(kept, [d + 1 for d in dims]).reshape(-1))
            found[location_of(name)] = torch.cat(flat)
        for name, (_, dims) in self.scales.items():
            found[scale_of(name)] = _narrowed(scales[name], dims)
        return found

    def recorded(self, points: Sequence[Params]) -> Computed:
        """Record the runs, and compare the recording with them at some parameters; the same if it cannot be."""

        def outputs(params: Params) -> dict[str, Tensor]:
            with quiet():  # validation would read numbers out of tensors
                return self.run(params)

        start = {n: v.to(self.program.parameters[n].initial.dtype) for n, v in points[-1].items()}
        try:
            graph = record(outputs, start, {})
        except Untraceable as error:
            return replace(self, why=str(error))
        for params in points:
            with torch.no_grad():
                mine, truth = graph(params), self.run(params)
            if off := [name for name in truth if not close(mine[name], truth[name], AGREEING)]:
                return replace(self, why=f"its {off[0][1:-1]} has other values elsewhere than its recording")
        return replace(self, graph=graph)._together()

    def _together(self) -> Computed:
        """Let the first of the sites that have the same arguments, the steps of a loop, stand for all of them."""
        assert self.graph is not None
        ends, first, same = dict(self.graph.outputs), dict[Any, str](), dict[str, str]()
        for name, parts in self.locations.items():
            key = parts, self.scales[name], _end(ends[location_of(name)]), _end(ends[scale_of(name)])
            same[name] = first.setdefault(key, name)
        kept = {of(name): ends[of(name)] for name in first.values() for of in (location_of, scale_of)}
        return replace(self, graph=replace(self.graph, outputs=kept), same=same)

    @property
    def scaling(self) -> frozenset[str]:
        """Parameters of which scales are made, as far as the recording tells."""
        if self.graph is None:
            return frozenset()
        return frozenset[str]().union(*(self.graph.depends[scale_of(self.of(name))] for name in self.scales))

    def of(self, site: str) -> str:
        """Return the site that stands for one."""
        return self.same.get(site, site)


def _end(end: Value | Tensor) -> Any:
    """What tells one output from another: the operation that it comes from, or its numbers."""
    return end if isinstance(end, Value) else (tuple(end.shape), tuple(end.reshape(-1).tolist()))


def location_of(site: str) -> str:
    """The name under which the parts of a location stand, which is none that a parameter can have by chance."""
    return f"[loc of {site}]"


def scale_of(site: str) -> str:
    """The name under which a scale stands."""
    return f"[scale of {site}]"


def location(site: Site) -> Tensor:
    """The location of every cell of a site."""
    inner = unwrap(site.fn)
    event = inner.event_rank + len(inner.base.event_shape)
    names = names_of(site)
    loc: Tensor = inner.base.loc  # type: ignore[attr-defined]
    part = squeeze(loc, site.dims, site.name, event)
    return trailing(part.align(names).double(), len(names), event)


def argument(site: Site, key: str) -> Named:
    """A scale, or the factor of a covariance."""
    inner = unwrap(site.fn)
    part: Tensor = getattr(inner.base, "scale_tril" if key == "scale_tril" else "scale")
    return squeeze(part, site.dims, site.name, inner.event_rank + 2 * (key == "scale_tril"))


def _narrowed(part: Tensor, dims: Sequence[int]) -> Tensor:
    for d in dims:
        part = part.narrow(d, 0, 1)
    return part


def computed(
    program: Program,
    points: Sequence[Params],
    places: Places,
    frames: Sequence[Tensor],
    sites: Mapping[str, str],
    *,
    single: bool,
) -> Computed:
    """Find what has to be kept of which runs.

    Args:
        program: the model.
        points: parameters at which it is tried.
        places: of the latents.
        frames: values of all latents, one a frame: one for the entries that move together.
        sites: whose arguments are computed, with the name of the scale.
        single: whether anything is in single precision.
    """
    latents = (torch.zeros(places.count, dtype=torch.float64), *frames)
    at_once = _agree_at_once(program, points[0], places, latents, sites)
    with torch.no_grad():
        runs = [runs_of(program, params, places, latents, sites, at_once=at_once) for params in points]
    locations, scales = dict[str, tuple[Part, ...]](), dict[str, tuple[str, tuple[int, ...]]]()
    for name, key in sites.items():
        every = [torch.cat([run[0][name][:1], run[0][name][1:] - run[0][name][0]]) for run in runs]
        moved = torch.stack([(one != 0).reshape((len(latents), -1)).any(1) for one in every]).any(0).tolist()
        numbers = [k for k, mine in enumerate(moved) if mine or k == 0]
        locations[name] = tuple((k, idle([o[k] for o in every], every[0].dim() - 1, single=single)) for k in numbers)
        kept = [run[1][name] for run in runs]
        scales[name] = key, idle(kept, kept[0].dim() - 2 * (key == "scale_tril"), single=single)
    return Computed(program, latents, places, locations, scales, at_once).recorded(points)


Found = tuple[dict[str, Tensor], dict[str, Tensor]]
"""By site its location in every run, runs first; and its scale."""


def runs_of(
    program: Program,
    params: Params,
    places: Places,
    latents: Sequence[Tensor],
    sites: Mapping[str, str],
    *,
    at_once: bool,
) -> Found:
    """Return locations and scales of sites in runs at several values of all latents.

    Args:
        program: what is run.
        params: values of its parameters.
        places: of the latents.
        latents: the values, which scales do not depend on.
        sites: with the names of their scales.
        at_once: whether the model runs once for all values.
    """

    def read(z: Tensor) -> list[Tensor]:
        run = program.run(params, places.values(z))
        return [location(run[n]) for n in sites] + [argument(run[n], key).tensor.double() for n, key in sites.items()]

    if at_once:
        found = list(torch.func.vmap(lambda z: tuple(read(z)))(torch.stack([*latents])))
    else:
        found = [torch.stack(parts) for parts in zip(*map(read, latents), strict=True)]
    count = len(sites)
    return dict(zip(sites, found[:count], strict=True)), {n: f[0] for n, f in zip(sites, found[count:], strict=True)}


def _agree_at_once(
    program: Program, params: Params, places: Places, latents: Sequence[Tensor], sites: Mapping[str, str]
) -> bool:
    """Tell whether the model runs at several values of the latents at once, and as it runs at each."""
    with torch.no_grad():
        if not pays(program, program.run(params, places.values(latents[0])), len(latents)):
            return False
        try:
            every = runs_of(program, params, places, latents, sites, at_once=True)
        except Exception:  # whatever it is, runs one by one have it too, or none
            return False
        ends = latents[0], latents[-1]
        alone = runs_of(program, params, places, ends, sites, at_once=False)
    pairs = [(every[0][n][k], alone[0][n][k]) for n in sites for k in (0, -1)]
    pairs += [(every[1][n], alone[1][n]) for n in sites]
    return all(close(mine, truth, AGREEING) for mine, truth in pairs)


def taken_apart(
    made: Computed, name: str, shape: Sequence[int], takes: Sequence[Tensor | None], values: Sequence[Tensor]
) -> tuple[tuple[tuple[str, int], ...], tuple[Tensor, ...], tuple[Tensor, ...], tuple[Slot, ...]]:
    """Entries, index, constants and slots of a `Bilinear`: the parts of a location are its parameters.

    Args:
        made: what is computed.
        name: of the site.
        shape: of its cells.
        takes: of every frame which entry a cell takes, None for none.
        values: of the site in every run, zero first.
    """
    index, at, order = list[Tensor](), 0, list[int]()
    for k, dims in made.locations[name]:
        size = [1 if d in dims else n for d, n in enumerate(shape)]
        count = int(torch.tensor(size).prod())
        index.append((at + torch.arange(count)).reshape(size))
        order.append(k)
        at += count
    one = torch.ones((1,) * len(shape), dtype=torch.float64)
    constants = (*(one if k == 0 else 0 * one for k in order), thin(values[0].expand(tuple(shape))))
    slots = []
    for f, which in enumerate(takes, 1):
        if which is None:
            continue
        there = (which >= 0).double()
        response = thin(values[f] - values[0])
        covariates = (there if k == f else None for k in order)
        slots.append(Slot(which, (*covariates, response if bool((response != 0).any()) else None)))
    name = made.of(name)
    return tuple((location_of(name), k) for k in range(at)), tuple(index), constants, tuple(slots)
