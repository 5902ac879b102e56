"""States to begin from where no one holds all rows: the same seeds for all of them.

A label must mean the same in every batch and process. So k-means++ picks among rows drawn from all, in units of their
spread over all, and every row goes to the nearest of these seeds wherever it is. The numbers drawn are those that are
drawn where all rows are at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from functools import reduce
from math import prod
from operator import add

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...program.named import unraveled
from ...records.frozen import frozen
from ..problem import Problem
from .seeding import (
    SEEDING_ROWS,
    draw_states,
    drawn_rows,
    groups_of,
    handed_out,
    hidden_states,
    nearest,
    observations,
    seeds,
    with_uniform,
)

Key = object
"""Latents whose states are to mean the same; or the site in which they are hidden."""

Drawn = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
"""States of every latent; by how many rows each was drawn; and states that are hidden in a site."""


def sown(problem: Problem, generator: torch.Generator) -> Callable[[Engine], Drawn]:
    """Return what draws the states of the rows of an engine."""
    if problem.rows.whole:
        return lambda engine: (
            *draw_states(engine, generator),
            {name: hidden_states(chain, generator) for name, chain in engine.inner.items()},  # type: ignore[arg-type]
        )
    moments = _moments(problem)
    pools = _pools(problem, moments, generator)
    seeds_of = {
        key: Seeds(moments[key], *seeds(moments[key].standardised(pool), size, generator))
        for key, (pool, size) in pools.items()
    }
    counts: dict[Key, Tensor] = {}
    for engine in problem.rows.parts(problem.engine):
        for key, rows, size in _tables(engine):
            if key in seeds_of:
                count = torch.bincount(seeds_of[key].nearest(torch.cat(rows), generator), minlength=size)
                counts[key] = counts[key] + count if key in counts else count
    every = problem.rows.gathered(counts)
    total = {key: torch.stack([one[key] for one in every if key in one]).sum(0) for key in seeds_of}
    return Field(seeds_of, total, generator).draw


@frozen
class Moments:
    """Of the statistics that some latents explain, over all rows.

    Attributes:
        counts: rows of every table of every holder, shape (holders, tables).
        mean: of every statistic.
        squares: sum of squared deviations from it.
        size: the largest absolute value.
    """

    counts: Tensor
    mean: Tensor
    squares: Tensor
    size: Tensor

    def standardised(self, rows: Tensor) -> Tensor:
        """Rows of the statistics that vary, with mean zero and deviation one over all."""
        spread = (self.squares / max(1, int(self.counts.sum()) - 1)).sqrt()
        moving = spread > 1e-12 * self.size
        return (rows[:, moving] - self.mean[moving]) / spread[moving]

    def __add__(self, other: Moments) -> Moments:
        """Those of more rows of the same tables, by Chan, Golub & LeVeque (1983)."""
        n, m = float(self.counts.sum()), float(other.counts.sum())
        away = other.mean - self.mean
        return Moments(
            self.counts + other.counts,
            self.mean + away * (m / max(n + m, 1.0)),
            self.squares + other.squares + away.square() * (n * m / max(n + m, 1.0)),
            torch.maximum(self.size, other.size),
        )


@frozen
class Seeds:
    """Rows of all, picked by k-means++: standardised, and whether there are too few different ones."""

    moments: Moments
    centres: Tensor = field(repr=False)
    few: bool

    def nearest(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The seed that every row is nearest to."""
        return nearest(self.moments.standardised(rows), self.centres, self.few, generator)


@frozen
class Field:
    """Draws the states of any of the rows.

    Attributes:
        seeds: by latents.
        counts: by how many rows each seed was taken.
        generator: of what no data tell.
    """

    seeds: Mapping[Key, Seeds]
    counts: Mapping[Key, Tensor]
    generator: torch.Generator

    def draw(self, engine: Engine) -> Drawn:
        """Draw the states of the rows of an engine."""
        states, rows, hidden = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
        for key, members in groups_of(engine).items():
            if key not in self.seeds:
                continue
            sizes, statistics = key[0], torch.cat([owned.statistics for owned in members])
            drawn = self.seeds[key].nearest(statistics, self.generator)
            places = unraveled(torch.arange(prod(sizes)), sizes)
            for k, every in enumerate(unraveled(drawn, sizes)):
                count = torch.zeros(sizes[k], dtype=torch.float64)
                count = count.index_add_(0, places[k], self.counts[key].double()).clamp(min=1)
                own = handed_out(engine, members, k, every)
                states |= own
                rows |= dict.fromkeys(own, count)
        states, rows = with_uniform(engine, states, rows, self.generator)
        for name, chain in engine.inner.items():
            seen = observations(chain)  # type: ignore[arg-type]
            if name in self.seeds and seen[1] is not None:
                hidden[name] = self.seeds[name].nearest(seen[1], self.generator).reshape(seen[0])
            else:
                hidden[name] = hidden_states(chain, self.generator)  # type: ignore[arg-type]
        return states, rows, hidden


def _tables(engine: Engine) -> list[tuple[Key, list[Tensor], int]]:
    """Statistics by row of what latents explain, and how many states these have together."""
    found: list[tuple[Key, list[Tensor], int]] = [
        (key, [owned.statistics for owned in members], prod(key[0])) for key, members in groups_of(engine).items()
    ]
    for name, chain in engine.inner.items():
        rows = observations(chain)[1]  # type: ignore[arg-type]
        if rows is not None:
            found.append((name, [rows], chain.states))  # type: ignore[attr-defined]
    return found


def _moments(problem: Problem) -> dict[Key, Moments]:
    """Of all statistics that latents explain, where any varies; the counts of every holder apart."""
    here: dict[Key, Moments] = {}
    for engine in problem.rows.parts(problem.engine):
        for key, tables, _ in _tables(engine):
            rows = torch.cat(tables)
            mean = rows.mean(0)
            counts = torch.tensor([[len(table) for table in tables]])
            more = Moments(counts, mean, (rows - mean).square().sum(0), rows.abs().amax(0))
            here[key] = here[key] + more if key in here else more
    every, found = problem.rows.gathered(here), dict[Key, Moments]()
    for key in dict.fromkeys(key for one in every for key in one):
        total = reduce(add, (one[key] for one in every if key in one))
        none = torch.zeros_like(total.counts)
        counts = torch.cat([one[key].counts if key in one else none for one in every])
        total = Moments(counts, total.mean, total.squares, total.size)
        if total.standardised(total.mean.unsqueeze(0)).numel():
            found[key] = total
    return found


def _pools(
    problem: Problem, moments: Mapping[Key, Moments], generator: torch.Generator
) -> dict[Key, tuple[Tensor, int]]:
    """The rows among which k-means++ picks, from all batches of all holders; and how many states it picks."""
    chosen: dict[Key, Tensor] = {}
    for key, found in moments.items():
        many = int(found.counts.sum())
        chosen[key] = drawn_rows(many, generator) if many > SEEDING_ROWS else torch.arange(many)
    pools: dict[Key, Tensor] = {}
    sizes: dict[Key, int] = {}
    read: dict[Key, list[int]] = {}  # rows of every table that came before
    holder = problem.rows.holder
    for engine in problem.rows.parts(problem.engine):
        for key, tables, size in _tables(engine):
            if key not in moments:
                continue
            counts, sizes[key] = moments[key].counts, size
            first = counts.sum(0).cumsum(0) - counts.sum(0)  # of every table, among all rows
            mine = counts[:holder].sum(0)
            before = read.setdefault(key, [0] * len(tables))
            for m, table in enumerate(tables):
                at = chosen[key] - int(first[m] + mine[m]) - before[m]
                here = ((at >= 0) & (at < len(table))).nonzero().squeeze(-1)
                if key not in pools:
                    pools[key] = table.new_zeros((len(chosen[key]), table.shape[1]))
                pools[key][here] = table[at[here]]
                before[m] += len(table)
    every = problem.rows.gathered(pools)
    sizes = {key: size for some in problem.rows.gathered(sizes) for key, size in some.items()}
    return {key: (torch.stack([one[key] for one in every if key in one]).sum(0), sizes[key]) for key in moments}
