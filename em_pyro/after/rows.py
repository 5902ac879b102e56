"""How many independent rows a program has: the `n` of information criteria."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from math import log, prod

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..program.handlers import LABELS
from ..program.masks import anywhere, seen
from ..program.named import connected, listed
from ..program.site import Site
from ..program.unroll import STATE, TIME
from ..records.frozen import frozen


@frozen
class Rows:
    """Latents, or observed sites where there are none, that hang together, row by row of the plates they share.

    Attributes:
        plates: those that all of them are in, or of the one with the fewest rows.
        names: the latents, or the sites.
        counts: how much every row counts, dimensions as `plates`: its weight, or zero where nothing is seen of it.
    """

    plates: tuple[str, ...]
    names: tuple[str, ...]
    counts: Tensor = field(repr=False)


def independent_rows(engine: Engine) -> tuple[float, str]:
    """Return how many independent rows there are, and what they are.

    Rows are those of the plate that owns the latents: of the plates that hold all latents which hang together, so a
    chain is one row, and a group with its members is one. Where these share no plate (groups nested by an index, or
    crossed), it is the plate with the fewest rows. Latents that do not hang together have their rows added up, and rows
    inside larger ones do not count. Weights (`poutine.scale`) are added up, and a row of which nothing is seen has
    none. Without latents the rows are those of the observed sites.
    """
    parts = outermost(parts_of(engine.full))
    n = sum(float(part.counts.sum()) for part in parts)
    owners = dict.fromkeys(" and ".join(f'"{plate}"' for plate in part.plates) for part in parts)
    what = (
        f"rows of plate {listed(list(owners))}"
        if all(part.plates for part in parts)
        else "outside all plates: what hangs together is one row"
    )
    return n, what


def most_entropy(engine: Engine) -> float:
    """Return the entropy of discrete latents of which nothing is known: the logarithms of their states, added up.

    Entries that nothing observed depends on are left out, and rows count by their weights.
    """
    engine = engine.full
    program, sites, total = engine.program, engine.recognition.runs[0], 0.0
    for name, latent in program.latents.items():
        weight = _weight(sites[name], latent.plates)
        if name in engine.alive:
            weight = weight * engine.alive[name].align(latent.plates)
        total += log(latent.size) * float(weight.expand([program.plates[plate] for plate in latent.plates]).sum())
    for name in engine.inner.keys() - program.latents.keys():
        names = (*sites[name].plates, name + TIME)
        weight = _weight(sites[name], sites[name].plates).unsqueeze(-1) * _seen(sites[name], names)
        total += log(engine.sizes[name + STATE]) * float(weight.expand([engine.sizes[n] for n in names]).sum())
    return total


def outermost(parts: Iterable[Rows]) -> list[Rows]:
    """Leave out those whose rows are the same as others', or inside them; without plates each is a row by itself."""
    parts, found = list(parts), dict[tuple[str, ...], Rows]()
    alone = [part for part in parts if not part.plates]
    for part in () if alone else parts:
        if not any(set(other.plates) < set(part.plates) for other in parts):
            found.setdefault(part.plates, part)
    return alone or list(found.values())


def parts_of(engine: Engine) -> list[Rows]:
    """Split the latents, or the observed sites where there are none, into those that hang together."""
    program, sites = engine.program, engine.recognition.runs[0]
    discrete = [*program.latents, *(name for name in engine.inner if name not in program.latents)]
    latents = [*discrete, *(name for name in sites if name in program.integrated)]
    if not latents:
        observed = [name for name, site in sites.items() if site.role == "observed"]
        return [_part(engine, [name], [name]) for name in observed]
    meetings = {name: _meets(engine, name) for name in sites}
    found = []
    for group in connected(latents, meetings.values()):
        reached = [name for name, met in meetings.items() if met & set(group) and sites[name].role == "observed"]
        found.append(_part(engine, group, [name for name in reached if name not in program.integrated]))
    return found


def _meets(engine: Engine, name: str) -> set[str]:
    """Name the latents that a site depends on, itself if it is one."""
    program, latents = engine.program, engine.recognition.latents
    above: set[str] | frozenset[str] = program.upstream.get(name, frozenset())
    factor = engine.factors.get(name)
    if factor is not None:  # by its dimensions; latents of one state have none
        above = frozenset(n for n in above if n in factor.names or program.latents[n].size == 1)
    met = {name, name.removesuffix(LABELS), *above}
    if latents is not None and name in latents.sites:
        entries = [slot.which.unique() for slot in latents.sites[name].slots]
        for latent, shape in latents.places.shapes.items():
            first = latents.places.first[latent]
            inside = (bool(((e >= first) & (e < first + prod(shape))).any()) for e in entries)
            met |= {latent} if any(inside) else set()
    return met


def _part(engine: Engine, names: list[str], reached: list[str]) -> Rows:
    """Return a group of latents with the rows of the plates that all are in, of which sites tell whether they count."""
    sites, sizes = engine.recognition.runs[0], engine.program.plates
    shared = frozenset.intersection(*(frozenset(sites[name].plates) for name in names))
    top = min((sites[name] for name in names), key=lambda site: (prod(sizes[p] for p in site.plates), len(site.plates)))
    plates = tuple(plate for plate in sizes if plate in (shared or top.plates))
    counts = _weight(top, plates)
    if reached:
        visible = sum(_seen(sites[name], plates).double() for name in reached)
        counts = torch.where(torch.as_tensor(visible) > 0, counts, 0.0)
    return Rows(plates, tuple(names), counts.expand([sizes[plate] for plate in plates]))


def _weight(site: Site, plates: tuple[str, ...]) -> Tensor:
    """How much a row counts (`poutine.scale`), one dimension for each of `plates`; one if the weight has others."""
    weight = site.row_weights
    known = set(weight.names) <= set(plates)
    return weight.align(plates) if known else torch.ones([1] * len(plates), dtype=torch.float64)


def _seen(site: Site, plates: tuple[str, ...]) -> Tensor:
    """In which rows anything of a site is seen, one dimension for each of `plates`."""
    mask = seen(site)
    return torch.ones([1] * len(plates), dtype=torch.bool) if mask is None else anywhere(mask, plates).align(plates)
