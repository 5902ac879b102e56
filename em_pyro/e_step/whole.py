"""Factors of one start, all rows at once: what the posterior is made of, and what is compared with the model."""

from __future__ import annotations

import torch

from ..program.named import Named
from ..reading.bound import Bound
from .engine import Engine
from .sites.natural import Natural
from .units import Unit


def compiled_factors(engine: Engine, bound: Bound) -> dict[str, Named]:
    """Return the factors of the compiled sites; those that are one function are bound once, as in a step."""
    factors, naturals = dict[str, Named](), dict[str, Natural]()
    leading = {n: leader for leader, names in engine.members.items() for n in names if leader in engine.sites}
    for name, factor in engine.sites.items():
        if name in engine.recognition.entered:
            continue
        leader = leading.get(name, name)
        if leader not in naturals:
            naturals[leader] = engine.sites[leader].natural(bound)
        density = factor.log_density(naturals[leader], factor.features()).squeeze(0)
        base = factor.data.base()
        factors[name] = Named(density if base is None else density + base.align(factor.names), factor.names)
    return factors


@torch.no_grad()
def log_factors(engine: Engine, bound: Bound) -> dict[str, Named]:
    """Return the log-factors of all that is contracted."""
    replays = engine.replays(engine.moved(bound))
    factors = {name: replays[name] for name in engine.joined if name in replays}
    for unit in engine.units:
        densities, _ = unit.log_factors(unit.natural(bound, None, replays))
        for name, density in zip(unit.members, densities, strict=True):
            factors[name] = based(unit, name, Named(density.squeeze(0), engine.joined[name].names))
    return factors


def based(unit: Unit, member: str, density: Named) -> Named:
    """Return a member of a unit, one start and all rows, with the base measures of the sites that it is made of."""
    total = density.tensor
    for site in unit.made_of(member):
        base = site.data.base()
        if base is not None:
            kept = base.align((*density.names, *(n for n in base.names if n not in density.names)))
            extra = tuple(range(len(density.names), kept.dim()))
            total = total + (kept.sum(extra) if extra else kept)
    return Named(total, density.names)
