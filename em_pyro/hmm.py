"""The E-step of `dist.DiscreteHMM`: its states summed out along a tensor dimension, by forward-backward.

Nothing is enumerated, so that a chain of a hundred thousand steps costs a few large operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from . import chain
from .contraction import Factor
from .named import align
from .term import WHOLE, Block, Bound, Term
from .unroll import FROM, STATE, TIME, TO


@dataclass(frozen=True)
class Hmm:
    """A unit of the E-step: three terms whose states are summed out along the time dimension."""

    name: str
    initial: Term
    transition: Term
    emission: Term
    rows: tuple[str, ...]  # plates

    @property
    def parts(self) -> tuple[Term, ...]:
        """The terms whose statistics come out."""
        return self.initial, self.transition, self.emission

    @property
    def members(self) -> tuple[str, ...]:
        """The factor that it computes."""
        return (self.name,)

    @property
    def names(self) -> tuple[str, ...]:
        """Dimensions of the factor."""
        return tuple(n for n in self.rows if self.emission.sizes[n] > 1)

    def natural(self, bound: Bound) -> tuple[Tensor, ...]:
        """Natural parameters of the three terms."""
        return tuple(term.natural(bound) for term in self.parts)

    def features(self, block: Block = WHOLE) -> Tensor:
        """Features of the observations."""
        return self.emission.features(block)

    def passes(self, natural: Sequence[Tensor], features: Tensor, block: Block = WHOLE, lead: int = 0) -> chain.Passes:
        """Filter all rows."""
        log_initial = self._rows(
            self.initial.factor(natural[0], self.initial.features(), lead=lead), self.initial, FROM, block
        )
        log_likelihood = self.emission.factor(natural[2], features, block, lead)
        every = (self.name + TIME, *self.names, self.name + STATE)
        log_likelihood = align(log_likelihood, self.emission.names, every)
        time = lead
        shape = [self._size(n, block) for n in self.names]
        states = log_likelihood.shape[-1]
        log_likelihood = log_likelihood.expand((*log_likelihood.shape[: lead + 1], *shape, states))
        log_likelihood = log_likelihood.reshape((*log_likelihood.shape[: lead + 1], -1, states)).movedim(time, 0)
        unary = torch.cat([log_initial.expand_as(log_likelihood[0]).unsqueeze(0), log_likelihood])
        transition = self.transition.factor(natural[1], self.transition.features(), lead=lead)
        pair = align(transition, self.transition.names, (self.name + FROM, self.name + TO))
        return chain.forward(unary, pair, shared=True)

    def factors(
        self, natural: Sequence[Tensor], features: Tensor, block: Block = WHOLE, lead: int = 0
    ) -> tuple[list[Tensor], chain.Passes]:
        """Log evidence of every row, and what the backward pass needs."""
        passes = self.passes(natural, features, block, lead)
        shape = [self._size(n, block) for n in self.names]
        return [passes.log_z.reshape((*passes.log_z.shape[:-1], *shape))], passes

    def statistics(
        self, shares: Sequence[Tensor | None], features: Tensor, passes: chain.Passes, block: Block, lead: int = 0
    ) -> dict[str, Tensor]:
        """Expected statistics of the three terms, each row weighted by its share."""
        (share,) = shares
        assert share is not None
        smooth, messages = chain.backward(passes, shared=True)
        weight = share.reshape((*share.shape[: share.dim() - len(self.names)], -1, 1))
        smooth = smooth * weight
        messages = messages * weight
        shape = [self._size(n, block) for n in self.names]
        found = {}
        if self.initial.parameters:
            start = smooth[0].reshape((*smooth.shape[1 : 1 + lead], *shape, smooth.shape[-1]))
            found[self.initial.name] = self._collect(self.initial, start, (*self.names, self.name + FROM), lead)
        if self.transition.parameters:
            alive = self._alive(block)
            if alive is not None:
                messages = messages * alive.reshape((len(alive), *(1,) * lead, *alive.shape[1:]))
            pairs = chain.pairs_sum(passes, messages)
            weights = align(pairs, (self.name + FROM, self.name + TO), self.transition.names)
            found[self.transition.name] = self.transition.statistics(weights, self.transition.features(), lead)
        if self.emission.parameters:
            later = smooth[1:].movedim(0, lead)
            later = later.reshape((*later.shape[: lead + 1], *shape, later.shape[-1]))
            have = (self.name + TIME, *self.names, self.name + STATE)
            found[self.emission.name] = self._collect(self.emission, later, have, lead, features)
        return found

    def from_states(self, states: Tensor, certain: float) -> dict[str, Tensor]:
        """Statistics of given states `(T, rows)` that are `certain`, the other states sharing the rest."""
        count = self.emission.sizes[self.name + STATE]
        other = (1 - certain) / max(1, count - 1)
        smooth = torch.full((*states.shape, count), other, dtype=torch.float64)
        smooth.scatter_(-1, states.unsqueeze(-1), certain if count > 1 else 1.0)
        shape = [self.emission.sizes[n] for n in self.names]
        have = (self.name + TIME, *self.names, self.name + STATE)
        start = smooth[0].reshape((*shape, count))
        pairs = smooth[:-1].reshape(-1, count).mT @ smooth[1:].reshape(-1, count)
        weights = align(pairs, (self.name + FROM, self.name + TO), self.transition.names)
        found = {
            self.initial.name: self._collect(self.initial, start, (*self.names, self.name + FROM), 0),
            self.transition.name: self.transition.statistics(weights, self.transition.features()),
            self.emission.name: self._collect(self.emission, smooth.reshape((len(smooth), *shape, count)), have, 0),
        }
        return {term.name: found[term.name] for term in self.parts if term.parameters}

    @cached_property
    def _reached(self) -> Tensor | None:
        """Steps at or after which something is observed, (T, plates): states past the end enter no statistics."""
        weight = self.emission.weight
        if weight is None:
            return None
        have = tuple(n for n in (self.name + TIME, *self.names) if n in weight.names)
        seen = weight.tensor.reshape((*weight.tensor.shape[: len(weight.names)], -1)).amax(-1) != 0
        seen = align(seen, weight.names, (self.name + TIME, *self.names))
        if self.name + TIME not in have:
            seen = seen.expand((self.emission.sizes[self.name + TIME], *seen.shape[1:]))
        return seen.flip(0).cummax(0).values.flip(0).double()

    def _alive(self, block: Block) -> Tensor | None:
        """The same for a block of rows, (T, ..., rows, 1)."""
        reached = self._reached
        if reached is None:
            return None
        if block.plate in self.names and reached.shape[1 + self.names.index(block.plate)] > 1:
            reached = reached.narrow(1 + self.names.index(block.plate), block.start, block.length)
        shape = [self._size(n, block) for n in self.names]
        return reached.expand((len(reached), *shape)).reshape(len(reached), -1, 1)

    def _collect(
        self, term: Term, weights: Tensor, have: tuple[str, ...], lead: int, features: Tensor | None = None
    ) -> Tensor:
        axes = tuple(i - len(have) for i, n in enumerate(have) if n not in term.names)
        weights = weights.sum(axes) if axes else weights
        weights = align(weights, [n for n in have if n in term.names], term.names)
        return term.statistics(weights, term.features() if features is None else features, lead)

    def _rows(self, log: Tensor, term: Term, state: str, block: Block) -> Tensor:
        """A factor over the state and perhaps rows, as (rows, states)."""
        log = align(log, term.names, (*self.names, self.name + state))
        lead = log.dim() - len(self.names) - 1
        return log.reshape((*log.shape[:lead], -1, log.shape[-1]))

    def _size(self, name: str, block: Block) -> int:
        return block.length if name == block.plate else self.emission.sizes[name]

    # ---- what a posterior asks ----

    def state_probabilities(self, natural: Sequence[Tensor]) -> Tensor:
        """Posterior of the state at every observation, shape (rows) + `(T, S)`."""
        smooth, _ = chain.backward(self.passes(natural, self.features()), shared=True)
        return self._by_row(smooth[1:])

    def best_path(self, natural: Sequence[Tensor]) -> Tensor:
        """Viterbi path, shape (rows) + `(T,)`: states of the observations."""
        passes = self.passes(natural, self.features())
        log, pair = passes.likelihood.log(), passes.transition.log()
        score, back = log[0], []
        for step in log[1:]:
            score, origin = (score.unsqueeze(-1) + pair).max(-2)
            score = score + step
            back.append(origin)
        state = score.argmax(-1)
        path = [state]
        for origin in reversed(back[1:]):
            state = origin.gather(-1, state.unsqueeze(-1)).squeeze(-1)
            path.append(state)
        return self._by_row(torch.stack(path[::-1]).unsqueeze(-1)).squeeze(-1)

    def draw_path(self, natural: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """One path from the posterior: filter forwards, sample backwards."""
        passes = self.passes(natural, self.features())

        def pick(weights: Tensor) -> Tensor:
            flat = weights.reshape(-1, weights.shape[-1])
            return torch.multinomial(flat, 1, generator=generator).reshape(weights.shape[:-1])

        state = pick(passes.filtered[-1])
        path = [state]
        for t in range(len(passes.filtered) - 2, 0, -1):
            state = pick(passes.filtered[t] * passes.transition.mT[state])
            path.append(state)
        return self._by_row(torch.stack(path[::-1]).unsqueeze(-1)).squeeze(-1)

    def _by_row(self, found: Tensor) -> Tensor:
        shape = [self.emission.sizes[n] for n in self.rows]
        return found.movedim(0, -2).reshape((*shape, len(found), found.shape[-1]))


def factor_of(hmm: Hmm, plates: frozenset[str], like: Factor) -> Factor:
    """The factor of a chain: one number a row."""
    return replace(like, name=hmm.name, names=hmm.names, plates=plates)
