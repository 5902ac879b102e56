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
from typing import Any

import torch
from torch import Tensor

from ...program.handlers import quiet
from ...program.named import Batch, Named, Params, squeeze, unwrap
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
        same: sites whose arguments are, operation by operation, those of another one, which stands for them.
    """

    program: Program = field(repr=False)
    latents: tuple[Tensor, ...] = field(repr=False)
    places: Places
    locations: Mapping[str, tuple[Part, ...]]
    scales: Mapping[str, tuple[str, tuple[int, ...]]]
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
        runs = [self.program.run(params, self.places.values(z)) for z in self.latents]
        found = dict[str, Tensor]()
        for name, parts in self.locations.items():
            base = location(runs[0][name])
            kept = [base if k == 0 else location(runs[k][name]) - base for k, _ in parts]
            flat = [_narrowed(part, dims).reshape(-1) for part, (_, dims) in zip(kept, parts, strict=True)]
            found[location_of(name)] = torch.cat(flat)
        for name, (key, dims) in self.scales.items():
            found[scale_of(name)] = _narrowed(argument(runs[0][name], key).tensor.double(), dims)
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
    with torch.no_grad():
        runs = [[program.run(params, places.values(z)) for z in latents] for params in points]
    locations, scales = dict[str, tuple[Part, ...]](), dict[str, tuple[str, tuple[int, ...]]]()
    for name, key in sites.items():
        parts = list[Part]()
        bases = [location(run[0][name]) for run in runs]
        for k in range(len(latents)):
            kept = bases if k == 0 else [location(r[k][name]) - b for r, b in zip(runs, bases, strict=True)]
            if k == 0 or any(bool((part != 0).any()) for part in kept):
                parts.append((k, idle(kept, kept[0].dim(), single=single)))
        locations[name] = tuple(parts)
        kept = [argument(run[0][name], key).tensor.double() for run in runs]
        scales[name] = key, idle(kept, kept[0].dim() - 2 * (key == "scale_tril"), single=single)
    return Computed(program, latents, places, locations, scales).recorded(points)


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
