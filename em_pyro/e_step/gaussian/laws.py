"""The posterior of Gaussian latents, entry by entry, given the discrete latents around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field
from functools import cached_property

import torch
from torch import Tensor

from ...records.frozen import frozen
from .group import Group, Posterior


@frozen
class Laws:
    """Normal laws in every state of the discrete latents, of one start.

    Attributes:
        groups: components that are alike, each with every one of its members.
        found: their laws.
        count: entries of all latents.
        states: joint states of the discrete latents.
        rows: of the factor.
    """

    groups: Sequence[Group] = field(repr=False)
    found: Sequence[Posterior] = field(repr=False)
    count: int
    states: int
    rows: int

    @cached_property
    def places(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every entry its group, its member, its place in it, and the row of the factor."""
        group, member, place, row = (torch.zeros(self.count, dtype=torch.long) for _ in range(4))
        for g, one in enumerate(self.groups):
            n, k = one.entries.shape
            group[one.entries] = g
            member[one.entries] = torch.arange(n).unsqueeze(-1).expand((n, k))
            place[one.entries] = torch.arange(k).expand((n, k))
            if one.at is not None:
                row[one.entries] = one.at.unsqueeze(-1).expand((n, k))
        return group, member, place, row

    @cached_property
    def means(self) -> Tensor:
        """(states, entries)."""
        total = torch.zeros((self.states, self.count), dtype=torch.float64)
        for one, law in zip(self.groups, self.found, strict=True):
            total[:, one.entries] = law.mean[0].expand((self.states, *one.entries.shape))
        return total

    def covariances(self, entries: Tensor) -> Tensor:
        """Of sets of entries `(B, E)`, each within one component: (states, B, E, E)."""
        group, member, place, _ = self.places
        total = torch.zeros((self.states, *entries.shape, entries.shape[-1]), dtype=torch.float64)
        for g, (one, law) in enumerate(zip(self.groups, self.found, strict=True)):
            mine = torch.nonzero(group[entries[:, 0]] == g)[:, 0]
            if len(mine):
                own = entries[mine]
                pattern, at = one.patterns.of[member[own[:, 0]]], place[own]
                every = law.precision.covariances(*torch.broadcast_tensors(at.unsqueeze(-1), at.unsqueeze(-2)))[0]
                blocks = every[:, pattern, torch.arange(len(own))]
                same = (member[own] == member[own[:, :1]]) & (group[own] == g)  # entries of other components
                blocks = blocks * (same.unsqueeze(-1) & same.unsqueeze(-2))
                total[:, mine] = blocks.expand((self.states, *blocks.shape[1:]))
        return total

    @cached_property
    def peaks(self) -> Tensor:
        """Log-density of the latents at their means, (states, rows), those of a row of the factor added up."""
        total = torch.zeros((self.states, self.rows), dtype=torch.float64)
        for one, law in zip(self.groups, self.found, strict=True):
            each = (law.precision.log_det[0] - 0.5 * math.log(2 * math.pi) * one.free.sum(-1).double())[
                :, one.patterns.of
            ]
            total = total + one.into_rows(each, self.rows)
        return total

    def at(self, chosen: Tensor) -> Tensor:
        """The means at chosen states of every row of the factor, (draws, rows): (draws, entries)."""
        row = self.places[3]
        return self.means[chosen[:, row], torch.arange(self.count)]

    def draws(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Values drawn at chosen states of every row of the factor, (draws, rows): (draws, entries)."""
        total = self.at(chosen)
        for one, law in zip(self.groups, self.found, strict=True):
            n, k = one.entries.shape
            noise = torch.randn((len(chosen), n, k), generator=generator, dtype=torch.float64)
            noise = noise * one.free[one.patterns.of]
            state = chosen[:, one.at] if one.at is not None else chosen[:, :1].expand((len(chosen), n))
            total[:, one.entries] += law.precision.draw(noise, state, one.patterns.of)
        return total
