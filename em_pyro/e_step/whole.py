"""Factors of one start, all rows at once: what the posterior is made of, and what is compared with the model."""

from __future__ import annotations

import torch

from ..program.named import Named
from ..reading.bound import Bound
from .engine import Engine
from .sites.natural import Natural


def compiled_factors(engine: Engine, bound: Bound) -> dict[str, Named]:
    """Factors of the compiled sites; those that are one function are bound once, as in a step."""
    factors, naturals = dict[str, Named](), dict[str, Natural]()
    leading = {name: leader for leader, names in engine.members.items() for name in names}
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
    """All that is contracted."""
    replays = engine.replays(engine.moved(bound))
    factors = {name: replays[name] for name in engine.joined if name in replays}
    for unit in engine.units:
        densities, _ = unit.log_factors(unit.natural(bound, None, replays))
        for name, density in zip(unit.members, densities, strict=True):
            names, total = engine.joined[name].names, density.squeeze(0)
            for site in unit.made_of(name):
                base = site.data.base()
                if base is not None:
                    kept = base.align((*names, *(n for n in base.names if n not in names)))
                    extra = tuple(range(len(names), kept.dim()))
                    total = total + (kept.sum(extra) if extra else kept)
            factors[name] = Named(total, names)
    return factors
