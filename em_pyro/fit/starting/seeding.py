"""States to begin from: k-means++ on the statistics of what the latents own, or share.

States that are drawn for each row by itself would make all components alike, near the saddle where every row belongs to
all of them. Rows are therefore assigned to the nearest of a few seeds, which are rows themselves, each drawn by its
squared distance to those before it: in the space of the standardised sufficient statistics of the sites that a latent
alone explains. Latents that explain a site only together are seeded together, a state of each for every seed. Sites
that no family recognises have their values for statistics.

References: Arthur & Vassilvitskii (2007), k-means++.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...program.devices import seeded
from ...program.named import Named, align, squeeze, unraveled
from ...program.unroll import TIME
from ...records.frozen import frozen

if TYPE_CHECKING:
    from ...e_step.chains.chain import Chain

SEEDING_ROWS = 20_000  # rows among which k-means++ picks
TOGETHER = 64  # states of all latents that are seeded together, at most
APART = 1e-9  # of the squared distances: by less are equal seeds told apart, at random


@frozen
class Owned:
    """What some latents of the same plates explain: the statistics of a site by row, and the parameters in it."""

    latents: tuple[str, ...]
    statistics: Tensor  # (rows, features)
    parameters: frozenset[str]


def draw_states(engine: Engine, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw states of every latent: by k-means++ where observed data belong to it, else uniform.

    Latents whose sites have the same parameters (the steps of a chain) are seeded together, so that a state means the
    same in all of them.

    Returns:
        The states, in the shape of the plates; and by how many rows each state was drawn, at least one, shape
        `(states,)`.
    """
    program = engine.program
    states: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for members in groups_of(engine).values():
        sizes = tuple(program.latents[name].size for name in members[0].latents)
        statistics = _standardised(torch.cat([owned.statistics for owned in members]))
        if statistics is None:
            continue
        drawn = plus_plus(statistics, prod(sizes), generator)
        if len(sizes) > 1:
            drawn = seeded(torch.randperm, prod(sizes), generator=generator)[drawn]
        for k, every in enumerate(unraveled(drawn, sizes)):
            own = handed_out(engine, members, k, every)
            states |= own
            rows |= dict.fromkeys(own, torch.bincount(every, minlength=sizes[k]).double().clamp(min=1))
    return with_uniform(engine, states, rows, generator)


def handed_out(engine: Engine, members: Sequence[Owned], k: int, every: Tensor) -> dict[str, Tensor]:
    """Return what was drawn for the rows of all members as states of the latent of each, in the shape of its plates."""
    plates, latents = engine.program.plates, engine.program.latents
    parts = every.split([len(owned.statistics) for owned in members])
    named = {owned.latents[k]: part for owned, part in zip(members, parts, strict=True)}
    return {name: part.reshape([plates[p] for p in latents[name].plates]) for name, part in named.items()}


def with_uniform(
    engine: Engine, states: dict[str, Tensor], rows: dict[str, Tensor], generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw the states of all other latents uniformly: no data tell them."""
    found, counts = dict(states), dict(rows)
    for name, latent in engine.program.latents.items():
        if name not in states:
            shape = tuple(engine.program.plates[p] for p in latent.plates)
            found[name] = seeded(torch.randint, latent.size, shape, generator=generator)
            counts[name] = torch.ones(latent.size, dtype=torch.float64)
    return found, counts


Group = tuple[tuple[int, ...], int, frozenset[str]]
"""States of each of some latents, how many statistics they explain, and the parameters in these."""


def groups_of(engine: Engine) -> dict[Group, list[Owned]]:
    """Return what latents explain, those together whose states are to mean the same."""
    groups: dict[Group, list[Owned]] = {}
    for owned in _everything_owned(engine):
        sizes = tuple(engine.program.latents[name].size for name in owned.latents)
        groups.setdefault((sizes, owned.statistics.shape[1], owned.parameters), []).append(owned)
    return groups


def _everything_owned(engine: Engine) -> Iterator[Owned]:
    """Yield what each latent explains by itself; and of those left, what they explain together."""
    latents, explained = engine.program.latents, _explained(engine)
    sites: dict[str, list[str]] = {name: [] for name in latents}
    for site, of in explained.items():
        for name in of:
            sites[name].append(site)
    left, place = set(latents), {name: k for k, name in enumerate(latents)}
    for name in latents:
        owned = _owned(engine, (name,), [site for site in sites[name] if len(explained[site]) == 1])
        if owned is not None:
            left.remove(name)
            yield owned
    for name in latents:
        if name not in left or not sites[name]:
            continue
        mine, plates = explained[sites[name][0]], latents[name].plates
        group = tuple(sorted((n for n in mine if n in left and latents[n].plates == plates), key=place.__getitem__))
        owned = _owned(engine, group, [site for site in sites[name] if set(group) <= explained[site]])
        if owned is not None and prod(latents[n].size for n in group) <= TOGETHER:
            left -= set(group)
            yield owned


def _owned(engine: Engine, latents: tuple[str, ...], sites: Sequence[str]) -> Owned | None:
    """What some sites tell of latents of the same plates; None if nothing."""
    plates, reaches = engine.program.latents[latents[0]].plates, engine.recognition.reaches
    found = [part for site in sites if (part := _statistics(engine, site, plates)) is not None]
    parameters = frozenset[str]().union(*(reaches.get(site, frozenset()) for site in sites))
    return Owned(latents, torch.cat(found, -1), parameters) if found else None


def _explained(engine: Engine) -> dict[str, frozenset[str]]:
    """Return the latents that enter every observed site."""
    latents = engine.program.latents
    observed = {n: f.cells for n, f in engine.sites.items() if f.role == "observed"}
    observed |= {n: f.names for n, f in engine.replayed.items() if n not in latents and n not in observed}
    return {n: found for n, names in observed.items() if (found := frozenset(names) & latents.keys())}


def _statistics(engine: Engine, site: str, plates: tuple[str, ...]) -> Tensor | None:
    """Sufficient statistics of a site by row of some plates, shape (rows, features); None if it has others as well."""
    shape = [engine.program.plates[p] for p in plates]
    made = _of_site(engine, site)
    if made is None or not set(made.names) <= set(plates) or (prod(shape) > 1 and not made.names):
        return None
    flat = made.align(plates)
    return flat.expand([*shape, flat.shape[-1]]).reshape(-1, flat.shape[-1])


def _of_site(engine: Engine, site: str) -> Named | None:
    """Statistics of all rows, (plates) + (features,): the values where no family has recognised the site."""
    factor = engine.sites.get(site)
    if factor is not None:
        kept = (*factor.layout.batch, *factor.layout.columns)
        flat = factor.data.features()
        flat = flat.reshape((*flat.shape[:-1], *(factor.sizes[n] for n in factor.layout.columns)))
        return Named(flat.movedim(len(factor.layout.batch), -1), kept)
    seen = engine.recognition.runs[0].get(site)
    if seen is None:
        return None
    event = seen.fn.event_dim  # type: ignore[attr-defined]
    value = squeeze(seen.value.double().nan_to_num(0.0, 0.0, 0.0), seen.dims, site, event)
    return Named(value.tensor.reshape((*value.tensor.shape[: len(value.names)], -1)), value.names)


def _standardised(features: Tensor) -> Tensor | None:
    """Features that vary, each with mean zero and deviation one; None if none does."""
    spread = features.std(0) if len(features) > 1 else torch.zeros(features.shape[1], dtype=torch.float64)
    moving = spread > 1e-12 * features.abs().amax(0)
    if not bool(moving.any()):
        return None
    return (features[:, moving] - features[:, moving].mean(0)) / spread[moving]


def plus_plus(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Assign every row to the nearest of `size` seeds, each drawn by its squared distance to those before it.

    Where there are fewer different rows than seeds, equal seeds share their rows at random.
    """
    pool = rows
    if len(rows) > SEEDING_ROWS:
        pool = rows[drawn_rows(len(rows), generator).to(rows.device)]
    return nearest(rows, *seeds(pool, size, generator), generator)


def drawn_rows(many: int, generator: torch.Generator) -> Tensor:
    """Draw the rows among which k-means++ picks."""
    return seeded(torch.randint, many, (SEEDING_ROWS,), generator=generator)


def seeds(pool: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, bool]:
    """Pick rows of a pool, each by its squared distance to those before it; and say whether there are no others."""
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
    return torch.stack(centres), float(distance.amax()) <= 0


def nearest(rows: Tensor, centres: Tensor, few: bool, generator: torch.Generator) -> Tensor:  # noqa: FBT001
    """Assign every row to the nearest of some seeds; at random to equal ones, if there are too `few` different."""
    distance = centres.square().sum(-1) - 2 * (rows @ centres.mT)
    if few:
        noise = seeded(torch.rand, distance.shape, generator=generator, dtype=torch.float64)
        distance = distance + APART * (1 + distance.abs().amax()) * noise
    return distance.argmin(-1)


def hidden_states(chain: Chain, generator: torch.Generator) -> Tensor:
    """Draw states that are hidden in a site by k-means++ on its observations, shape (T, rows)."""
    shape, seen = observations(chain)
    rows = None if seen is None else _standardised(seen)
    if rows is None:
        drawn = seeded(torch.randint, chain.states, (prod(shape),), generator=generator)
    else:
        drawn = plus_plus(rows, chain.states, generator)
    return drawn.reshape(shape)


def observations(chain: Chain) -> tuple[list[int], Tensor | None]:
    """Return the shape `(T, rows)` of the states that are hidden in a site, and its statistics, a row for each."""
    site, every = chain.emission, (chain.name + TIME, *chain.outside)
    shape = [chain.sizes[n] for n in every]
    if site is None:
        return shape, None
    features, have = site.data.features(), (*site.layout.batch, *site.layout.columns)
    flat = features.movedim(-2, -1).reshape((*(site.sizes[n] for n in have), -1))
    flat = align(flat, have, every, 1)
    return shape, flat.expand((*shape, flat.shape[-1])).reshape(-1, flat.shape[-1])
