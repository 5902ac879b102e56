"""States to begin from: k-means++ on the sufficient statistics of what every latent owns."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ...e_step.chains.chain import Chain
from ...e_step.engine import Engine
from ...program.devices import seeded
from ...program.named import align
from ...program.unroll import TIME

SEEDING_ROWS = 20_000  # rows among which k-means++ picks


def draw_states(engine: Engine, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw states of every latent: by k-means++ where observed data belong to it, else uniform.

    Latents of one kind (the steps of a chain) are seeded together, so that a state means the same in all of them.

    Returns:
        The states, in the shape of the plates; and by how many rows each state was drawn, shape `(states,)`.
    """
    program = engine.program
    groups: dict[tuple[int, int], list[tuple[str, Tensor]]] = {}
    states: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for name, latent in program.latents.items():
        features = _owned_features(engine, name)
        if features is None:
            shape = tuple(program.plates[p] for p in latent.plates)
            states[name] = seeded(torch.randint, latent.size, shape, generator=generator)
            rows[name] = torch.ones(latent.size, dtype=torch.float64)
        else:
            groups.setdefault((latent.size, features.shape[1]), []).append((name, features))
    for (size, _), members in groups.items():
        drawn = plus_plus(torch.cat([f for _, f in members]), size, generator)
        count = torch.bincount(drawn, minlength=size).double()
        at = 0
        for name, features in members:
            shape = tuple(program.plates[p] for p in program.latents[name].plates)
            states[name] = drawn[at : at + len(features)].reshape(shape)
            rows[name] = count
            at += len(features)
    return states, rows


def _owned_features(engine: Engine, latent: str) -> Tensor | None:
    """Sufficient statistics of what the latent alone explains: shape (rows, features); None if nothing."""
    program, found = engine.program, []
    plates = program.latents[latent].plates
    shape = [program.plates[p] for p in plates]
    for factor in engine.sites.values():
        kept = (*factor.layout.batch, *factor.layout.columns)
        if factor.role != "observed" or latent not in factor.cells or not set(kept) <= set(plates) or not kept:
            continue
        if any(n in program.latents and n != latent for n in factor.names):
            continue
        features = factor.data.features()
        flat = features.reshape((*features.shape[:-1], *(factor.sizes[n] for n in factor.layout.columns)))
        flat = align(flat.movedim(len(factor.layout.batch), -1), kept, plates, 1)
        found.append(flat.expand([*shape, flat.shape[-1]]).reshape(-1, flat.shape[-1]))
    if not found:
        return None
    return _standardised(torch.cat(found, -1))


def _standardised(features: Tensor) -> Tensor | None:
    """Features that vary, each with mean zero and deviation one; None if none does."""
    spread = features.std(0) if len(features) > 1 else torch.zeros(features.shape[1], dtype=torch.float64)
    moving = spread > 1e-12 * (1 + features.abs().amax(0))
    if not bool(moving.any()):
        return None
    return (features[:, moving] - features[:, moving].mean(0)) / spread[moving]


def plus_plus(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Assign every row to the nearest of `size` seeds, each drawn by its squared distance to those before it.

    References: Arthur & Vassilvitskii (2007), k-means++.
    """
    pool = rows
    if len(rows) > SEEDING_ROWS:
        pool = rows[seeded(torch.randint, len(rows), (SEEDING_ROWS,), generator=generator).to(rows.device)]
    first = int(seeded(torch.randint, len(pool), (), generator=generator))
    centres = [pool[first]]
    distance = (pool - centres[0]).square().sum(-1)
    for _ in range(size - 1):
        cumulative = distance.cumsum(0)
        if float(cumulative[-1]) <= 0:
            pick = int(seeded(torch.randint, len(pool), (), generator=generator))
        else:
            target = seeded(torch.rand, (), generator=generator, dtype=torch.float64).to(cumulative) * cumulative[-1]
            pick = min(int(torch.searchsorted(cumulative, target)), len(pool) - 1)
        centres.append(pool[pick])
        distance = torch.minimum(distance, (pool - pool[pick]).square().sum(-1))
    stacked = torch.stack(centres)
    cross = rows @ stacked.mT
    return (stacked.square().sum(-1) - 2 * cross).argmin(-1)


def hidden_states(chain: Chain, generator: torch.Generator) -> Tensor:
    """Draw states that are hidden in a site by k-means++ on its observations, shape (T, rows)."""
    site = chain.emission
    every = (chain.name + TIME, *chain.outside)
    shape = [chain.sizes[n] for n in every]
    rows = None
    if site is not None:
        features, have = site.data.features(), (*site.layout.batch, *site.layout.columns)
        flat = features.movedim(-2, -1).reshape((*(site.sizes[n] for n in have), -1))
        flat = align(flat, have, every, 1)
        rows = _standardised(flat.expand((*shape, flat.shape[-1])).reshape(-1, flat.shape[-1]))
    if rows is None:
        drawn = seeded(torch.randint, chain.states, (prod(shape),), generator=generator)
    else:
        drawn = plus_plus(rows, chain.states, generator)
    return drawn.reshape(shape)
