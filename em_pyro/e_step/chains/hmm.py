"""The E-step of `dist.DiscreteHMM`: its states summed out along a tensor dimension, by forward-backward.

Nothing is enumerated, so that a chain of a hundred thousand steps costs a few large operations. The chain has three
parts, `initial`, `transition` and `emission`; each is a compiled term or, where its arguments are computed from
parameters (transitions that depend on covariates), replayed.

Dimensions of the recursion: starts, then `apart` (rows that have transitions of their own), states, steps, and `rows`
(the other rows, which share them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ...program.named import Named, align
from ...program.unroll import FROM, STATE, TIME, TO
from ...reading.bound import Bound
from ..forward_backward import chain
from ..sites.site_factor import WHOLE, Block, Term
from .codes import Codes, codes_of


@dataclass(frozen=True)
class Replayed:
    """A part whose log-probabilities come from the model itself."""

    name: str
    names: tuple[str, ...]  # dimensions of its log-probabilities
    parameters: frozenset[str]


@dataclass(frozen=True)
class Hmm:
    """A unit of the E-step: three parts whose states are summed out along the time dimension."""

    name: str
    initial: Term | Replayed
    transition: Term | Replayed
    emission: Term | Replayed
    outside: tuple[str, ...]  # latents and plates around the chain, those of more than one row
    sizes: Mapping[str, int] = field(repr=False)
    seen: Named | None = field(repr=False)  # steps at which something is observed; None if all
    weighted: bool = True  # whether rows may have another share than one
    method: str = "torch"  # of the recursion
    reason: str = ""  # for that method

    @property
    def every(self) -> tuple[Term | Replayed, ...]:
        """The three parts."""
        return self.initial, self.transition, self.emission

    @cached_property
    def parts(self) -> tuple[Term, ...]:
        """The terms whose statistics come out."""
        return tuple(part for part in self.every if isinstance(part, Term))

    @cached_property
    def replayed(self) -> tuple[str, ...]:
        """The parts that come from the model itself."""
        return tuple(part.name for part in self.every if isinstance(part, Replayed))

    @property
    def title(self) -> str:
        """What the plan calls it."""
        return self.name

    @property
    def members(self) -> tuple[str, ...]:
        """The factor that it computes."""
        return (self.name,)

    @property
    def names(self) -> tuple[str, ...]:
        """Dimensions of the factor."""
        return self.outside

    @cached_property
    def apart(self) -> tuple[str, ...]:
        """Dimensions of the rows that have transitions of their own."""
        return tuple(n for n in self.outside if n in self.transition.names)

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """Dimensions of the other rows."""
        return tuple(n for n in self.outside if n not in self.apart)

    @cached_property
    def codes(self) -> Codes | None:
        """The observations as places in a table, where that is faster."""
        return codes_of(self.emission) if isinstance(self.emission, Term) else None

    # ---- the E-step ----

    def natural(self, bound: Bound, replays: Mapping[str, Named] | None = None) -> tuple[Tensor, ...]:
        """Natural parameters of the three parts; of a replayed one its log-probabilities."""
        return tuple(
            part.natural(bound) if isinstance(part, Term) else (replays or {})[part.name].tensor for part in self.every
        )

    def features(self, block: Block = WHOLE) -> Tensor:
        """Features of the observations."""
        if self.codes is not None:
            return self.codes.features(block)
        return self.emission.features(block) if isinstance(self.emission, Term) else torch.zeros(0)

    def smoothed(
        self, natural: Sequence[Tensor], features: Tensor, block: Block = WHOLE, lead: int = 0
    ) -> tuple[chain.Smoothed, Tensor]:
        """Posterior of the states, and of the unobserved first state given the next: `(..., from, to, rows or 1)`."""
        start, moves = self.start(natural, block, lead)
        first, later = (moves[..., 0, 0, :, :], moves[..., 1:, :, :, :]) if self.moves else (moves, moves)
        joint = start.unsqueeze(-2) + first.unsqueeze(-1)
        prior = joint.logsumexp(-3)
        before = (joint - prior.unsqueeze(-3)).exp().nan_to_num(0.0)
        seen = self.emitted(natural[2], features, block, lead)
        return chain.smooth(prior, later, seen, self.method), before

    def factors(
        self, natural: Sequence[Tensor], features: Tensor, block: Block = WHOLE, lead: int = 0
    ) -> tuple[list[Tensor], tuple[chain.Smoothed, Tensor]]:
        """Log evidence of every row, and the posterior of its states."""
        found = self.smoothed(natural, features, block, lead)
        log_z = found[0].log_z
        log_z = log_z.reshape((*log_z.shape[:-1], *self._shape(self.rows, block)))
        return [align(log_z, (*self.apart, *self.rows), self.outside)], found

    def statistics(
        self,
        shares: Sequence[Tensor | None],
        features: Tensor,
        memo: tuple[chain.Smoothed, Tensor],
        block: Block = WHOLE,
        lead: int = 0,
    ) -> dict[str, Tensor]:
        """Expected statistics of the compiled parts and weights of the replayed, each row weighted by its share."""
        found, before = memo
        (share,) = shares
        states, weight = found.states, None
        if self.weighted:
            assert share is not None
            weight = align(share, self.outside, (*self.apart, *self.rows))
            weight = weight.reshape((*weight.shape[: weight.dim() - len(self.rows)], 1, -1))
            states = states * weight.unsqueeze(-3)
        alive = self._alive(block)
        if alive is not None:
            weight = alive if weight is None else alive * weight
        first = states[..., 0, :] if alive is None else states[..., 0, :] * alive[..., 0, :].unsqueeze(-2)
        first = first if before.shape[-1] > 1 else first.sum(-1, keepdim=True)
        together = before * first.unsqueeze(-3)  # the unobserved state and the first
        later = None if weight is None else weight[..., 1:, :] if weight.shape[-2] > 1 else weight
        result = {}
        if self.initial.parameters:
            law = together.sum(-2)
            if law.shape[-1] > 1:
                law = law.reshape((*law.shape[:-1], *self._shape(self.rows, block)))
                have = (*self.apart, self.name + FROM, *self.rows)
            else:
                law, have = law.squeeze(-1), (*self.apart, self.name + FROM)
            result[self.initial.name] = self._collect(self.initial, law, have, lead)
        if self.transition.parameters:
            result[self.transition.name] = self._transitions(found, together.sum(-1), later, lead)
        if self.emission.parameters:
            weights = states.reshape((*states.shape[:-1], *self._shape(self.rows, block)))
            have = (*self.apart, self.name + STATE, self.name + TIME, *self.rows)
            result[self.emission.name] = self._collect(self.emission, weights, have, lead, features, block)
        return result

    def _transitions(self, found: chain.Smoothed, first: Tensor, weight: Tensor | None, lead: int) -> Tensor:
        have = (*self.apart, self.name + FROM, self.name + TO)
        if not self.moves:
            return self._collect(self.transition, first + found.pairs_sum(weight), have, lead)
        each = found.pairs_each()
        each = each if weight is None else each * weight[..., None, None]
        pairs = torch.cat([first.unsqueeze(-3), each.sum(-3)], -3)
        return self._collect(self.transition, pairs, (*self.apart, self.name + TIME, *have[-2:]), lead)

    def from_states(self, states: Tensor, certain: float) -> dict[str, Tensor]:
        """Statistics of given states `(T, rows)` that are `certain`, the other states sharing the rest.

        Rows are in the order of `outside`.
        """
        count = self.sizes[self.name + STATE]
        other = (1 - certain) / max(1, count - 1)
        smooth = torch.full((*states.shape, count), other, dtype=torch.float64)
        smooth.scatter_(-1, states.unsqueeze(-1), certain if count > 1 else 1.0)
        have = (self.name + TIME, *self.outside, self.name + STATE)
        smooth = smooth.reshape((len(smooth), *self._shape(self.outside), count))
        smooth = align(smooth, have, (*self.apart, self.name + STATE, self.name + TIME, *self.rows))
        smooth = smooth.reshape((*self._shape(self.apart), count, len(states), -1))
        alive = self._alive(WHOLE)
        right = smooth if alive is None else smooth * alive.unsqueeze(-3)
        pairs = torch.einsum("...itr,...jtr->...tij", smooth, torch.cat([right[..., :1, :], right[..., 1:, :]], -2))
        found = {}
        if self.initial.parameters:
            law = smooth[..., 0, :].reshape((*smooth.shape[:-2], *self._shape(self.rows)))
            found[self.initial.name] = self._collect(self.initial, law, (*self.apart, self.name + FROM, *self.rows), 0)
        if self.transition.parameters:
            have = (*self.apart, self.name + TIME, self.name + FROM, self.name + TO)
            found[self.transition.name] = self._collect(self.transition, pairs, have, 0)
        if self.emission.parameters:
            weights = smooth.reshape((*smooth.shape[:-1], *self._shape(self.rows)))
            have = (*self.apart, self.name + STATE, self.name + TIME, *self.rows)
            found[self.emission.name] = self._collect(self.emission, weights, have, 0, self.features())
        return found

    # ---- the three parts, laid out for the recursion ----

    @property
    def moves(self) -> bool:
        """Whether transitions differ between steps."""
        return self.name + TIME in self.transition.names

    def _log(self, part: Term | Replayed, natural: Tensor, block: Block, lead: int) -> Tensor:
        if isinstance(part, Term):
            return part.factor(natural, part.features(), lead=lead)
        if block.plate in part.names:
            at = part.names.index(block.plate) - len(part.names)
            return natural.narrow(at, block.start, block.length)
        return natural

    def start(self, natural: Sequence[Tensor], block: Block, lead: int) -> tuple[Tensor, Tensor]:
        """Log-laws of the unobserved state `(..., K, rows or 1)`, and log-transitions as `chain.smooth` takes them."""
        start = self._log(self.initial, natural[0], block, lead)
        start = align(start, self.initial.names, (*self.apart, self.name + FROM, *self.rows))
        own = any(n in self.initial.names for n in self.rows)
        rows = self._shape(self.rows, block) if own else [1] * len(self.rows)
        states, apart = self.sizes[self.name + FROM], self._shape(self.apart, block)
        start = start.expand((*start.shape[:lead], *apart, states, *rows))
        start = start.reshape((*start.shape[: lead + len(apart) + 1], -1))
        moves = self._log(self.transition, natural[1], block, lead)
        time = (self.name + TIME,) if self.moves else ()
        moves = align(moves, self.transition.names, (*self.apart, *time, self.name + FROM, self.name + TO))
        steps = [self.sizes[n] for n in time]
        moves = moves.expand((*moves.shape[:lead], *apart, *steps, states, states))
        return start, moves.unsqueeze(-3) if time else moves

    def emitted(self, natural: Tensor, features: Tensor, block: Block, lead: int) -> Callable[[], Tensor]:
        """Return a function that returns the log-likelihoods `(..., K, T, rows)` in memory of its own."""
        part = self.emission
        want = (*self.apart, self.name + STATE, self.name + TIME, *self.rows)
        shape = [self._size(n, block) for n in want]

        def likelihood() -> Tensor:
            if self.codes is not None:
                log = self.codes.factor(natural, features, block, lead)
            elif isinstance(part, Term):
                log = part.factor(natural, features, block, lead)
            else:
                log = self._log(part, natural, block, lead).clone()
            log = align(log, part.names, want)
            full = log.expand((*log.shape[:lead], *shape))
            flat = full.reshape((*full.shape[: full.dim() - len(self.rows)], -1))
            copied = not flat.is_contiguous() or flat.numel() > log.numel()
            return flat.clone(memory_format=torch.contiguous_format) if copied else flat

        return likelihood

    def _collect(
        self,
        part: Term | Replayed,
        weights: Tensor,
        have: tuple[str, ...],
        lead: int,
        features: Tensor | None = None,
        block: Block = WHOLE,
    ) -> Tensor:
        """Sum weights over what a part lacks; return its expected statistics, or the weights if it is replayed."""
        axes = tuple(i - len(have) for i, n in enumerate(have) if n not in part.names)
        weights = weights.sum(axes) if axes else weights
        weights = align(weights, [n for n in have if n in part.names], part.names)
        if isinstance(part, Replayed):
            return weights.expand((*weights.shape[:lead], *self._shape(part.names, block)))
        if part is self.emission and self.codes is not None and features is not None:
            return self.codes.statistics(weights, features, lead)
        return part.statistics(weights, part.features() if features is None else features, lead)

    @cached_property
    def _reached(self) -> Tensor | None:
        """Steps at or after which something is observed, (T, outside): states past the end enter no statistics."""
        if self.seen is None:
            return None
        have = (self.name + TIME, *self.outside)
        seen = align(self.seen.tensor, self.seen.names, have)
        seen = seen.expand((self.sizes[self.name + TIME], *seen.shape[1:]))
        return seen.flip(0).cummax(0).values.flip(0).double()

    def _alive(self, block: Block) -> Tensor | None:
        """The same for a block of rows, `(apart, T, rows)`."""
        reached = self._reached
        if reached is None:
            return None
        if block.plate in self.outside and reached.shape[1 + self.outside.index(block.plate)] > 1:
            reached = reached.narrow(1 + self.outside.index(block.plate), block.start, block.length)
        want = (*self.apart, self.name + TIME, *self.rows)
        reached = align(reached, (self.name + TIME, *self.outside), want)
        reached = reached.expand([self._size(n, block) for n in want])
        return reached.reshape((*reached.shape[: len(self.apart) + 1], -1))

    def _size(self, name: str, block: Block) -> int:
        return block.length if name == block.plate else self.sizes[name]

    def _shape(self, names: Sequence[str], block: Block = WHOLE) -> list[int]:
        return [self._size(n, block) for n in names]
