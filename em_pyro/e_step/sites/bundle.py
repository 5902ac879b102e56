"""Sites that hang on the same latents and the same rows: their log-densities add, so one matrix product does them all.

The items of a latent class model have parameters of their own; side by side, their natural parameters and features are
one wide matrix each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...reading.bound import Bound
from ..contraction import Factor
from .rows import RowTerm
from .site_factor import WHOLE, Block, Room, Term
from .stack import Stack


@dataclass(frozen=True)
class Bundle:
    """Several terms as one factor, under the name of the first."""

    terms: tuple[Term, ...]
    cache: dict[Block, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def parts(self) -> tuple[Term, ...]:
        """The terms whose statistics come out."""
        return self.terms

    @property
    def members(self) -> tuple[str, ...]:
        """Name of the factor that it computes: the sum of all."""
        return (self.terms[0].name,)

    def natural(self, bound: Bound) -> Tensor:
        """Natural parameters of all terms, side by side."""
        return torch.cat([term.natural(bound) for term in self.terms], -1)

    def features(self, block: Block = WHOLE, room: Room | None = None) -> Tensor:
        """Features of all terms, one above the other; what is not kept is written into `room()`, if that is given."""
        if block not in self.cache:
            first, widths = self.terms[0], [term.width for term in self.terms]
            keep = first.kept(sum(widths))
            made = room() if room and not keep else first.empty(block, sum(widths))
            for term, part in zip(self.terms, made.split(widths), strict=True):
                term.write(block, part)
            if not keep:
                return made
            self.cache[block] = made
        return self.cache[block]

    def factors(
        self, natural: Tensor, features: Tensor, block: Block = WHOLE, lead: int = 0
    ) -> tuple[list[Tensor], None]:
        """The sum of all log-densities; nothing to remember."""
        return [self.terms[0].factor(natural, features, block, lead)], None

    def statistics(
        self,
        shares: Sequence[Tensor | None],
        features: Tensor,
        memo: None = None,
        block: Block = WHOLE,
        lead: int = 0,
    ) -> dict[str, Tensor]:
        """Expected statistics of every term, by name."""
        (share,) = shares
        assert share is not None
        return self.divided(self.terms[0].statistics(share, features, lead))

    def divided(self, sums: Tensor) -> dict[str, Tensor]:
        """Statistics of all terms side by side, cut into those of each."""
        parts = sums.split([term.width for term in self.terms], -1)
        return {term.name: part for term, part in zip(self.terms, parts, strict=True) if term.parameters}


def bundle(
    stacks: Sequence[Stack], factors: Mapping[str, Factor], latents: Collection[str]
) -> tuple[tuple[Stack | Bundle, ...], frozenset[str]]:
    """Group lone terms with the same dimensions; return the units, and the factors that went into another's name."""
    groups: dict[object, list[Term]] = {}
    units: list[Stack | Bundle] = []
    for group in stacks:
        term = group.first
        plain = len(group.terms) == 1 and term.role == "observed" and not isinstance(term, RowTerm) and not term.centred
        alone = term.layout.batch or factors[term.name].alive is not None or any(n in latents for n in term.columns)
        if plain and not alone:
            groups.setdefault((term.layout, term.names, factors[term.name].plates), []).append(term)
        else:
            units.append(group)
    gone: set[str] = set()
    lone = {group.first.name: group for group in stacks}
    for members in groups.values():
        if len(members) == 1:
            units.append(lone[members[0].name])
        else:
            units.append(Bundle(tuple(members)))
            gone |= {term.name for term in members[1:]}
    return tuple(units), frozenset(gone)
