"""Log evidence by the model's own densities, where continuous latents are integrated: at one value of these."""

from __future__ import annotations

from math import prod
from typing import cast

import torch

from ...program.named import Params, batched, ordered
from ..engine import Engine
from .unit import Gaussian


@torch.no_grad()
def at_the_mean(engine: Engine, params: Params) -> float | None:
    """Log evidence as `log p(x, z) - log p(z | x)` with `z` at its posterior mean, the first term by the model itself.

    None where discrete latents are in the program as well: the second would be a mixture.
    """
    unit = next((unit for unit in engine.units if unit.continuous), None)
    if unit is None or engine.program.latents:
        return None
    unit = cast(Gaussian, unit)
    laws = unit.latent_laws(unit.natural(engine.bind(batched(params))))
    values = unit.places.values(laws.means[0])
    total = 0.0
    for site in engine.program.run(params, values).values():
        if site.role != "prior":
            density = site.log_prob()
            scale = site.row_weights
            every = ordered((*density.names, *scale.names), engine.sizes)
            sizes = [engine.program.plates[name] for name in site.plates if name not in every]
            total += float((density.align(every).double() * scale.align(every)).sum()) * prod(sizes)
    outer = engine.joined[unit.name].scale
    return total - float(laws.peaks.sum()) * (1.0 if outer is None else float(outer.tensor))
