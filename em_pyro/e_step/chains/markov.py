"""A `pyro.markov` loop as one unit of the E-step: the steps are a dimension of a tensor, not a list.

The latents of a loop form a chain, and the sites that hang on them are, step after step, the same functions of the same
parameters. Their log-densities come out of one matrix product as `(states, steps, rows)`, which is what the recursions
take and give back.

Dimensions: starts, states, steps, rows (the plates around the loop).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ...program.named import Named, align
from ...reading.bound import Bound
from ..forward_backward import chain
from ..sites.site_factor import CACHE, WHOLE, Block, Term
from ..sites.stack import Stack
from .codes import Codes


@dataclass(frozen=True)
class Group:
    """Sites on one latent each that are one function: the observations of all steps, or the law of the first state."""

    stack: Stack
    steps: tuple[int, ...]  # of the chain, ascending, one for each term of the stack
    full: bool  # all of them
    codes: tuple[Codes, ...] | None
    cache: dict[Block, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def at(self) -> Tensor | slice:
        """The steps as an index."""
        first, last = self.steps[0], self.steps[-1]
        return slice(first, last + 1) if last - first + 1 == len(self.steps) else torch.tensor(self.steps)

    def features(self, block: Block) -> Tensor:
        """Features of all terms side by side, or places in their table."""
        if self.codes is None:
            return self.stack.features(block)
        if block not in self.cache:
            made = torch.cat([codes.features(block) for codes in self.codes], -1)
            if made.numel() > CACHE:
                return made
            self.cache[block] = made
        return self.cache[block]

    def factor(self, natural: Tensor, features: Tensor, rows: Sequence[str], block: Block, lead: int) -> Tensor:
        """Log-densities `(..., K, steps, rows)`, with rows of size one where the sites do not differ."""
        term = self.stack.first
        if self.codes is not None:
            table = torch.nn.functional.pad(natural, (0, 1))
            table = table.reshape(-1, table.shape[-1])
            flat = table.gather(-1, features.expand(len(table), -1))
        elif self.stack.same:  # the latent itself: its states are the columns
            flat = natural.unsqueeze(-2) @ features
            return flat.reshape((*natural.shape[:lead], -1, *(1,) * (1 + len(rows))))
        else:
            flat = natural @ features
        columns = term.layout.columns
        sizes = [block.length if n == block.plate else term.sizes[n] for n in columns]
        product = flat.reshape((*natural.shape[:lead], -1, len(self.steps), *sizes))
        have = ("", " ", *columns)
        return align(product, have, ("", " ", *rows))

    def statistics(self, states: Tensor, features: Tensor, rows: Sequence[str], lead: int) -> Tensor:
        """Expected statistics, given the posterior `(..., K, steps) + rows`."""
        term = self.stack.first
        if self.stack.same:
            return term.statistics(states.flatten(lead + 1).sum(-1), features, lead)
        have = ("", " ", *rows)
        axes = tuple(i - len(have) for i, n in enumerate(have) if n in rows and n not in term.columns)
        states = states.sum(axes) if axes else states
        columns = [n for n in term.layout.columns if n in rows]
        states = align(states, [n for n in have if n not in rows or n in columns], ("", " ", *columns))
        flat = states.reshape((*states.shape[: lead + 1], -1))
        if self.codes is None:
            return flat @ features.mT
        sums = flat.new_zeros((prod(flat.shape[:-1]), term.width + 1))
        sums.scatter_add_(-1, features.expand(len(sums), -1), flat.reshape(len(sums), -1))
        return sums[:, :-1].reshape((*flat.shape[:-1], -1))


@dataclass(frozen=True)
class Markov:
    """A chain of latents with everything that hangs on them."""

    name: str
    states: int
    steps: int
    moves: Stack  # the transitions, one function at all steps
    backwards: bool  # whether they lead from a later step of the chain to an earlier
    groups: tuple[Group, ...]
    rows: tuple[str, ...]  # plates of more than one row
    sizes: Mapping[str, int] = field(repr=False)
    alive: Named | None = field(repr=False)  # entries that enter the statistics, by step and rows; None is all
    weighted: bool = True  # whether rows may have another share than one
    method: str = "torch"  # of the recursion
    reason: str = ""  # for that method

    @property
    def title(self) -> str:
        """The first and the last of the latents."""
        ends = [*self.moves.terms[0].layout.rows, *self.moves.terms[-1].layout.columns]
        if self.backwards:
            ends = [*self.moves.terms[0].layout.columns, *self.moves.terms[-1].layout.rows]
        return " ... ".join(ends)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All that is stacked."""
        return (self.moves, *(group.stack for group in self.groups))

    @property
    def parts(self) -> tuple[Term, ...]:
        """The terms whose statistics come out."""
        return tuple(stack.first for stack in self.stacks)

    @property
    def members(self) -> tuple[str, ...]:
        """The factor that it computes."""
        return (self.name,)

    def natural(self, bound: Bound) -> tuple[Tensor, ...]:
        """Natural parameters of the transitions and of every group."""
        return tuple(stack.natural(bound) for stack in self.stacks)

    def features(self, block: Block = WHOLE) -> tuple[Tensor, ...]:
        """Features of the transitions and of every group."""
        return self.moves.features(), *(group.features(block) for group in self.groups)

    def factors(
        self, natural: Sequence[Tensor], features: Sequence[Tensor], block: Block = WHOLE, lead: int = 0
    ) -> tuple[list[Tensor], chain.Smoothed]:
        """Log evidence of every row, and the posterior of its states."""
        shape = self._shape(block)
        moves = self.moves.first.factor(natural[0], features[0], lead=lead)
        moves = align(moves, self.moves.first.names, self._ends)
        found = chain.smooth(
            moves.new_zeros((self.states, 1)), moves, self._likelihood(natural, features, block, lead), self.method
        )
        return [found.log_z.reshape((*found.log_z.shape[:-1], *shape))], found

    def statistics(
        self,
        shares: Sequence[Tensor | None],
        features: Sequence[Tensor],
        memo: chain.Smoothed,
        block: Block = WHOLE,
        lead: int = 0,
    ) -> dict[str, Tensor]:
        """Expected statistics of the transitions and of every group, each row weighted by its share."""
        (share,) = shares
        states, weight = memo.states, None
        if self.weighted:
            assert share is not None
            weight = share.reshape((*share.shape[: share.dim() - len(self.rows)], 1, -1))
            states = states * weight.unsqueeze(-3)
        alive = self._alive(block)
        found = {}
        if self.moves.first.parameters:
            entering = weight
            if alive is not None:  # a transition belongs to the latent that it leads to
                inside = alive[:-1] if self.backwards else alive[1:]
                entering = inside if weight is None else inside * weight
            pairs = align(memo.pairs_sum(entering), self._ends, self.moves.first.names)
            found[self.moves.first.name] = self.moves.first.statistics(pairs, features[0], lead)
        shaped = states.reshape((*states.shape[:-1], *self._shape(block)))
        for group, columns in zip(self.groups, features[1:], strict=True):
            if not group.stack.first.parameters:
                continue
            here = shaped if group.full else shaped[(slice(None),) * (lead + 1) + (group.at,)]
            if alive is not None and group.stack.first.role == "latent":
                here = here * alive[group.at].reshape((-1, *self._shape(block)))
            found[group.stack.first.name] = group.statistics(here, columns, self.rows, lead)
        return found

    @property
    def _ends(self) -> tuple[str, str]:
        """Latents of the first transition, in the order of the chain."""
        (start,), (end,) = self.moves.first.layout.rows, self.moves.first.layout.columns
        return (end, start) if self.backwards else (start, end)

    def _likelihood(
        self, natural: Sequence[Tensor], features: Sequence[Tensor], block: Block, lead: int
    ) -> Callable[[], Tensor]:
        """Return a function that returns the log-likelihoods `(..., K, T, R)` in memory of its own."""
        shape = self._shape(block)

        def likelihood() -> Tensor:
            total: Tensor | None = None
            for group, eta, columns in zip(self.groups, natural[1:], features[1:], strict=True):
                part = group.factor(eta, columns, self.rows, block, lead)
                full = (*part.shape[:lead], self.states, self.steps, *shape)
                if total is None and group.full and part.shape == full:
                    total = part.contiguous()
                    continue
                if total is None:
                    total = part.new_zeros(full)
                total[(slice(None),) * (lead + 1) + (group.at,)] += part
            assert total is not None
            return total.reshape((*total.shape[: lead + 2], -1))

        return likelihood

    def _alive(self, block: Block) -> Tensor | None:
        """Entries that enter the statistics, `(T, R)`."""
        if self.alive is None:
            return None
        alive = self.alive.tensor
        if block.plate in self.rows and alive.shape[1 + self.rows.index(block.plate)] > 1:
            alive = alive.narrow(1 + self.rows.index(block.plate), block.start, block.length)
        return alive.expand((self.steps, *self._shape(block))).reshape(self.steps, -1)

    def _shape(self, block: Block) -> list[int]:
        return [block.length if n == block.plate else self.sizes[n] for n in self.rows]
