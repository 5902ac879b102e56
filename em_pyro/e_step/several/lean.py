"""The features of the rows of a mixture: one matrix with a row of ones, without what follows from the rest.

The row of ones carries the log-probabilities of the states through the matrix product, and counts their weight. Where
the statistics of a row add up to a known total `c` (an item is right or wrong, one of several categories), the last is
`c` less the others and can be left out:

    sum_i eta_i t_i = c eta_last + sum_{i < last} (eta_i - eta_last) t_i,

half of the work for binary items. The statistic that is left out loses digits where its probability is very small:
below `SMALLEST` all features are needed, and the loop goes on with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from itertools import accumulate
from math import log
from typing import Any

import torch
from torch import Tensor

from ...reading.bound import Bound
from ...records.frozen import frozen
from ..chunks import Chunk
from ..sites.site_data import Room
from ..sites.site_factor import SiteFactor
from .bundle import Bundle

SMALLEST = 1e-6
"""Probability down to which a statistic may be left out: ten digits of it are left."""

LEAST = -1e6  # what a structural zero counts for where a statistic is left out: it must not swamp the others
WIDEST = 2_000_000  # entries of the matrix that leads from the features to all statistics


@frozen
class Features:
    """The features of some sites, and how they relate to all statistics.

    Attributes:
        rows: whose features they are; first those that are written down, then those that are looked up.
        totals: sites of which the last statistic is left out, and what their statistics add up to.
        ones: whether a row of ones stands above them; otherwise one of the sites has one.
    """

    rows: Bundle
    totals: Mapping[str, Tensor] = field(repr=False)
    ones: bool
    cache: dict[Chunk, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def sites(self) -> tuple[SiteFactor, ...]:
        """Whose features are written down."""
        return tuple(factor for factor in self.rows.sites if factor.form.together)

    @cached_property
    def looked_up(self) -> tuple[tuple[SiteFactor, slice], ...]:
        """The others, and where their natural parameters stand behind those of the features."""
        rest = self.rows.sites[len(self.sites) :]
        ends = accumulate((factor.data.width for factor in rest), initial=self.width)
        return tuple((factor, slice(at, at + factor.data.width)) for factor, at in zip(rest, ends, strict=False))

    @property
    def lean(self) -> bool:
        """Whether something is left out."""
        return bool(self.totals)

    @cached_property
    def column(self) -> int:
        """The row of ones."""
        at = 0
        for factor in () if self.ones else self.sites:
            if factor.data.counting:
                return at + factor.data.places[min(factor.data.counting)]
            at += factor.data.width
        return 0

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Number of features of every site."""
        every = ((factor.data.width, self.totals.get(factor.name, ())) for factor in self.sites)
        return tuple(width - len(total) for width, total in every)

    @cached_property
    def width(self) -> int:
        """Number of features."""
        return int(self.ones) + sum(self.widths)

    def natural(self, eta: Tensor, prior: Tensor) -> Tensor:
        """Natural parameters of these features, from those of all statistics.

        Args:
            eta: of all statistics, (starts, states, F).
            prior: log-probabilities of the states, (starts, states): what the row of ones counts for.
        """
        if self.ones and not self.lean:
            prior = prior if prior.shape == eta.shape[:-1] else prior.expand(eta.shape[:-1])
            return torch.cat((prior.unsqueeze(-1), eta), -1)
        if self.lean:
            spread, least = self._spread
            own = torch.maximum(eta[..., : len(least)], least) @ spread
            eta = torch.cat((own, eta[..., len(least) :]), -1) if self.looked_up else own
        else:
            eta = eta.clone()
        eta.select(-1, self.column).add_(prior)
        return eta

    def statistics(self, found: Tensor) -> Tensor:
        """Expected values of all statistics, from those of these features."""
        if self.lean:
            own = found[..., : self.width] @ self._spread[0].mT
            return torch.cat((own, found[..., self.width :]), -1) if self.looked_up else own
        return found[..., 1:] if self.ones else found

    @cached_property
    def _spread(self) -> tuple[Tensor, Tensor]:
        """From these features to all statistics, (F of the sites, width); and the least natural parameter of each."""
        blocks, constants, least = [], [], []
        for factor in self.sites:
            total = self.totals.get(factor.name)
            if total is None:
                block = torch.eye(factor.data.width, dtype=torch.float64)
                constant = torch.zeros(factor.data.width, dtype=torch.float64)
            else:
                block, constant = _follows(factor, total)
            blocks.append(block)
            constants.append(constant)
            least.append(torch.full_like(constant, -torch.inf if total is None else LEAST))
        device = self.rows.sites[0].data.value.tensor.device
        spread = torch.cat([torch.cat(constants).unsqueeze(-1), torch.block_diag(*blocks)], -1)
        return spread.to(device), torch.cat(least).to(device)

    def digits(self, bound: Bound) -> Tensor:
        """Above one where a probability is so small that all features are needed; shape (starts)."""
        every, complements = self._atoms
        least = _chosen(bound.logs, every).amin(-1)
        if len(complements):
            least = torch.minimum(least, _chosen(bound.log_complements, complements).amin(-1))
        return least / log(SMALLEST)

    @cached_property
    def _atoms(self) -> tuple[Tensor, Tensor]:
        """Positions in the bank of the probabilities of the lean sites, and of those that have a complement."""
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for factor in self.rows.sites:
            for key, role in factor.roles.items() if factor.name in self.totals else ():
                found[0].append(role.index.reshape(-1))
                if factor.family.roles[key].domain == "unit":
                    found[1].append(role.index.reshape(-1))
        every, complements = (torch.cat(part).unique() if part else torch.zeros(0) for part in found)
        return every, complements

    @cached_property
    def _written(self) -> Bundle:
        """The sites whose features are written down."""
        return Bundle(self.sites) if self.looked_up else self.rows

    def matrix(self, chunk: Chunk, room: Room) -> Tensor:
        """The features of a chunk, (width, columns); what is not kept is written into `room()`."""
        if not self.ones:
            return self._written.features(chunk, room)
        if chunk not in self.cache:
            first = self.rows.sites[0].data
            keep = first.kept(self.width)
            made = first.empty(chunk, self.width) if keep else room()
            made[0] = 1.0
            for factor, part in zip(self.sites, made[1:].split(self.widths), strict=True):
                factor.data.write(chunk, part, lean=factor.name in self.totals)
            if not keep:
                return made
            self.cache[chunk] = made
        return self.cache[chunk]

    def entries(self, chunk: Chunk) -> list[tuple[SiteFactor, slice, Any]]:
        """The sites that are looked up, where their natural parameters stand, and what the products take of them."""
        return [(factor, at, factor.features(chunk)) for factor, at in self.looked_up]


def features_of(rows: Bundle, *, lean: bool) -> Features:
    """Return the features of some rows: lean where statistics add up to known totals, if that is asked for."""
    sites = [factor for factor in rows.sites if factor.form.together]
    every = sum(factor.data.width for factor in sites)
    known = ((factor.name, factor.data.total) for factor in sites if lean and _selected(factor))
    totals = {name: total for name, total in known if total is not None}
    left = every - sum(len(total) for total in totals.values())
    if totals and every * (left + 1) <= WIDEST:
        return Features(rows, totals, ones=True)
    return Features(rows, {}, ones=not any(factor.data.counting for factor in sites))


def _chosen(atoms: Tensor, index: Tensor) -> Tensor:
    return atoms if len(index) == atoms.shape[-1] else atoms.index_select(-1, index)


def _selected(factor: SiteFactor) -> bool:
    """Whether all probabilities are entries of parameters: their smallest is then seen at a glance."""
    return all(r.affine is None and r.coefficient is None and r.constant is None for r in factor.roles.values())


def _follows(factor: SiteFactor, total: Tensor) -> tuple[Tensor, Tensor]:
    """From the kept statistics of a site to all: a matrix (F, kept), and constants (F,)."""
    events = len(total)
    kept, every = torch.arange(factor.data.width - events), torch.arange(factor.data.width)
    if len(factor.data.events) == 1:  # the outcomes of an event stand side by side
        kept, every = kept.reshape(events, -1), every.reshape(events, -1)
    else:  # one statistic an outcome
        kept, every = kept.reshape(-1, events).mT, every.reshape(-1, events).mT
    block = torch.zeros((factor.data.width, kept.numel()), dtype=torch.float64)
    constant = torch.zeros(factor.data.width, dtype=torch.float64)
    block[every[:, :-1], kept] = 1.0
    block[every[:, -1:], kept] = -1.0
    constant[every[:, -1]] = total.cpu()
    return block, constant
