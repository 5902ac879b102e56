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
from dataclasses import dataclass, field
from functools import cached_property
from math import log

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...reading.bound import Bound
from .bundle import Bundle
from .site_factor import Block, Room, Term
from .stack import Stack

SMALLEST = 1e-6
"""Probability down to which a statistic may be left out: ten digits of it are left."""

LEAST = -1e6  # what a structural zero counts for where a statistic is left out: it must not swamp the others
WIDEST = 2_000_000  # entries of the matrix that leads from the features to all statistics


@dataclass(frozen=True)
class Features:
    """The features of some terms, and how they relate to all statistics.

    Attributes:
        rows: whose features they are.
        totals: terms of which the last statistic is left out, and what their statistics add up to.
        ones: whether a row of ones stands above them; otherwise one of the terms has one.
    """

    rows: Stack | Bundle
    totals: Mapping[str, Tensor] = field(repr=False)
    ones: bool
    cache: dict[Block, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def lean(self) -> bool:
        """Whether something is left out."""
        return bool(self.totals)

    @cached_property
    def column(self) -> int:
        """The row of ones."""
        at = 0
        for term in () if self.ones else self.rows.terms:
            if term.counting:
                return at + term.places[min(term.counting)]
            at += term.width
        return 0

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Number of features of every term."""
        return tuple(t.width - (len(self.totals[t.name]) if t.name in self.totals else 0) for t in self.rows.terms)

    @cached_property
    def width(self) -> int:
        """Number of features."""
        return int(self.ones) + sum(self.widths)

    def natural(self, eta: Tensor) -> Tensor:
        """Natural parameters of these features, from those of all statistics; a tensor of its own."""
        if self.lean:
            spread, least = self._spread
            return torch.maximum(eta, least) @ spread
        return pad(eta, (1, 0)) if self.ones else eta.clone()

    def statistics(self, found: Tensor) -> Tensor:
        """Expected values of all statistics, from those of these features."""
        if self.lean:
            return found @ self._spread[0].mT
        return found[..., 1:] if self.ones else found

    @cached_property
    def _spread(self) -> tuple[Tensor, Tensor]:
        """From these features to all statistics, (F of the terms, width); and the least natural parameter of each."""
        blocks, constants, least = [], [], []
        for term in self.rows.terms:
            total = self.totals.get(term.name)
            if total is None:
                block = torch.eye(term.width, dtype=torch.float64)
                constant = torch.zeros(term.width, dtype=torch.float64)
            else:
                block, constant = _follows(term, total)
            blocks.append(block)
            constants.append(constant)
            least.append(torch.full_like(constant, -torch.inf if total is None else LEAST))
        device = self.rows.terms[0].value.tensor.device
        spread = torch.cat([torch.cat(constants).unsqueeze(-1), torch.block_diag(*blocks)], -1)
        return spread.to(device), torch.cat(least).to(device)

    def digits(self, bound: Bound) -> Tensor:
        """Below one where a probability is so small that all features are needed; shape (starts)."""
        every, complements = self._atoms
        least = _chosen(bound.logs, every).amin(-1)
        if len(complements):
            least = torch.minimum(least, _chosen(bound.log_complements, complements).amin(-1))
        return log(SMALLEST) / least

    @cached_property
    def _atoms(self) -> tuple[Tensor, Tensor]:
        """Positions in the bank of the probabilities of the lean terms, and of those that have a complement."""
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for term in self.rows.terms:
            for key, role in term.roles.items() if term.name in self.totals else ():
                found[0].append(role.index.reshape(-1))
                if term.family.roles[key].domain == "unit":
                    found[1].append(role.index.reshape(-1))
        every, complements = (torch.cat(part).unique() if part else torch.zeros(0) for part in found)
        return every, complements

    def matrix(self, block: Block, room: Room) -> Tensor:
        """The features of a block, (width, columns); what is not kept is written into `room()`."""
        if not self.ones:
            return self.rows.features(block, room)
        if block not in self.cache:
            first = self.rows.terms[0]
            keep = first.kept(self.width)
            made = first.empty(block, self.width) if keep else room()
            made[0] = 1.0
            for term, part in zip(self.rows.terms, made[1:].split(self.widths), strict=True):
                term.write(block, part, lean=term.name in self.totals)
            if not keep:
                return made
            self.cache[block] = made
        return self.cache[block]


def features_of(rows: Stack | Bundle, *, lean: bool) -> Features:
    """The features of some rows: lean where statistics add up to known totals, if that is asked for."""
    every = sum(term.width for term in rows.terms)
    totals = {term.name: term.total for term in rows.terms if lean and _selected(term) and term.total is not None}
    left = every - sum(len(total) for total in totals.values())
    if totals and every * (left + 1) <= WIDEST:
        return Features(rows, totals, ones=True)
    return Features(rows, {}, ones=not any(term.counting for term in rows.terms))


def _chosen(atoms: Tensor, index: Tensor) -> Tensor:
    return atoms if len(index) == atoms.shape[-1] else atoms.index_select(-1, index)


def _selected(term: Term) -> bool:
    """Whether all probabilities are entries of parameters: their smallest is then seen at a glance."""
    return all(r.affine is None and r.coefficient is None and r.constant is None for r in term.roles.values())


def _follows(term: Term, total: Tensor) -> tuple[Tensor, Tensor]:
    """From the kept statistics of a term to all: a matrix (F, kept), and constants (F,)."""
    events = len(total)
    kept, every = torch.arange(term.width - events), torch.arange(term.width)
    if len(term.events) == 1:  # the outcomes of an event stand side by side
        kept, every = kept.reshape(events, -1), every.reshape(events, -1)
    else:  # one statistic an outcome
        kept, every = kept.reshape(-1, events).mT, every.reshape(-1, events).mT
    block = torch.zeros((term.width, kept.numel()), dtype=torch.float64)
    constant = torch.zeros(term.width, dtype=torch.float64)
    block[every[:, :-1], kept] = 1.0
    block[every[:, -1:], kept] = -1.0
    constant[every[:, -1]] = total.cpu()
    return block, constant
