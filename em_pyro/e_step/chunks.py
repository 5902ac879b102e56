"""How many rows a block should have: measured on the first rows of the data, on this machine.

The size that `build` starts from fills the cache with the features and log-densities of a block. What is best depends
on the cache, on the matrix product at hand and on the number of threads, so a few sizes around it are tried.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from ..program.named import Params
from .engine import Engine
from .mixture import Mixture
from .part import Part, blocks_of

ENOUGH = 8  # blocks from which a measurement pays
TRIED = (1.0, 0.5, 2.0)
BETTER = 0.95  # share of the cost from which another size is taken
ROUNDS = 2


def tuned(engine: Engine, params: Params) -> Engine:
    """The engine with its large plates cut into blocks of the size that is fastest at `params`."""
    if all(len(part.blocks) < ENOUGH for part in engine.parts):
        return engine
    values = {name: value.double() for name, value in params.items()}
    parts = tuple(
        _fastest(engine, part, values) if len(part.blocks) >= ENOUGH and not engine.moving else part
        for part in engine.parts
    )
    return replace(engine, parts=parts)


def _fastest(engine: Engine, part: Part | Mixture, params: Params) -> Part | Mixture:
    """The part in blocks of the best size."""
    first = part.blocks[0].length
    cut = {int(first * factor): recut(part, engine.sizes, int(first * factor)) for factor in TRIED}
    cost = {size: float("inf") for size in cut}
    for _ in range(ROUNDS):
        for size, trial in cut.items():
            lean = trial.lean if isinstance(trial, Mixture) else trial
            few = replace(lean, blocks=trial.blocks[: max(1, 2 * first // size)])
            began = time.process_time()
            replace(engine, parts=(few,)).expect(params)
            spent = time.process_time() - began
            cost[size] = min(cost[size], spent / sum(block.length for block in few.blocks))
    best = min(cost, key=lambda size: cost[size])
    return cut[best] if cost[best] < BETTER * cost[first] else part


def cut_along(part: Part | Mixture) -> str | None:
    """The plate whose rows are taken in blocks, or could be; None where they are taken whole."""
    plate = part.blocks[0].plate
    if plate is None and isinstance(part, Mixture):
        return max(part.plates, key=lambda name: part.plates[name])
    return plate


def recut(part: Part | Mixture, sizes: Mapping[str, int], rows: int) -> Part | Mixture:
    """The same part in blocks of so many rows."""
    plate = cut_along(part)
    if plate is None:
        return part
    blocks = blocks_of(plate, sizes[plate], rows)
    if isinstance(part, Mixture):
        features = replace(part.features, cache={})
        return replace(part, features=features, blocks=blocks, buffers={}, scales={})
    return replace(part, blocks=blocks, narrowed={})
