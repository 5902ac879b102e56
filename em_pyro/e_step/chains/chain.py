"""A chain of latents as one unit of the E-step: initial state, transitions and emissions, each compiled or replayed.

The states are summed out by forward-backward (Rabiner 1989, section V.A), with the steps as a dimension of a tensor.
Whether they are latents of a `pyro.markov` loop or hidden in a `dist.DiscreteHMM` makes no difference but one: Pyro's
DiscreteHMM has a transition before the first observation, from a state that nothing is seen of. Such a chain is
`entered`; its transitions lead to all of its steps, those of another to all but the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...program.named import Named, align
from ...program.unroll import FROM, STATE, TIME, TO
from ...reading.bound import Bound
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from ..forward_backward import chain as recursion
from ..sites.site_factor import SiteFactor
from ..sums import Sums
from ..units import worst
from . import paths
from .line import Line, Mark
from .parts import index_of


@frozen
class Memo:
    """What the statistics need of the factors."""

    found: recursion.Smoothed
    entering: Tensor | None  # law of the state before the first given the first, (..., from, to, rows or 1)
    parts: list[Any]  # what every part remembers


@frozen
class Chain(Line):
    """A unit of the E-step."""

    def natural(
        self, bound: Bound, about: Bound | None = None, replays: Mapping[str, Named] | None = None
    ) -> tuple[Any, ...]:
        """Natural parameters of every part; of a replayed one its log-densities."""
        return tuple(part.natural(bound, about, replays or {}) for part in self.parts)

    def log_factors(self, natural: Sequence[Any], chunk: Chunk = WHOLE) -> tuple[list[Tensor], Memo]:
        """Log evidence of every row, and the posterior of its states."""
        start, moves, seen, memos = self.logs(natural, chunk)
        entering = None
        if self.entered:
            first = moves if self.steady else moves[..., 0, 0, :, :]
            moves = moves if self.steady else moves[..., 1:, :, :, :]
            joint = start.unsqueeze(-2) + first.unsqueeze(-1)
            start = joint.logsumexp(-3)
            entering = (joint - start.unsqueeze(-3)).exp().nan_to_num(0.0)
        found = recursion.smooth(start, moves, seen, self.method)
        log_z = found.log_z.reshape((*found.log_z.shape[:-1], *self._shape(self.rows, chunk)))
        return [align(log_z, (*self.apart, *self.rows), self.outside)], Memo(found, entering, memos)

    def sums(
        self, shares: Sequence[Tensor | None], natural: Sequence[Any] | None, memo: Memo, chunk: Chunk = WHOLE
    ) -> dict[str, Tensor]:
        """Expected statistics of the compiled parts and weights of the replayed, each row weighted by its share."""
        found, weight, states = memo.found, None, memo.found.states
        if self.weighted:
            (share,) = shares
            assert share is not None
            weight = align(share, self.outside, (*self.apart, *self.rows))
            weight = weight.reshape((*weight.shape[: weight.dim() - len(self.rows)], 1, -1))
            states = states * weight.unsqueeze(-3)

        def entering(mark: Mark) -> Tensor:
            assert memo.entering is not None
            first = states[..., 0, :] if mark is None else states[..., 0, :] * mark[..., 0, :].unsqueeze(-2)
            first = first if memo.entering.shape[-1] > 1 else first.sum(-1, keepdim=True)
            return memo.entering * first.unsqueeze(-3)

        def law(mark: Mark) -> Tensor:
            if self.entered:
                return entering(mark).sum(-2)
            return states[..., 0, :] if mark is None else states[..., 0, :] * mark[..., 0, :].unsqueeze(-2)

        def pairs(mark: Mark, steps: slice | Tensor) -> Tensor:
            later = mark[..., 1:, :] if mark is not None and self.entered else mark
            each = weight if later is None else later if weight is None else later * weight
            total = found.pairs_sum(each) if self.steady else found.pairs_by_step(each, steps)
            if not self.entered:
                return total
            first = entering(mark).sum(-1)
            return total + first if self.steady else torch.cat([first.unsqueeze(-3), total], -3)

        return self._sums(law, pairs, states, natural or [None] * len(self.parts), memo.parts, chunk)

    def given(self, shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Statistics under given weights of the sites; of hidden states theirs: (starts, steps) + outside + (K,).

        Where these are states of one path, which states are left by each step stands under the name and `FROM`, without
        the weights of rows; else every state stays as it is.
        """
        if self.steps_of:
            found: dict[str, Tensor] = {}
            for part in self.parts:
                mine = [shares[name] for name in (part.unit.members if part.unit is not None else (part.name,))]
                found |= {part.name: mine[0]} if part.unit is None else part.unit.sums(mine, None, None)
            return found
        states = self._hidden(shares[self.name])
        left = self._hidden(shares[self.name + FROM]) if self.name + FROM in shares else None

        def law(mark: Mark) -> Tensor:
            first = states[..., 0, :]
            if left is None:
                return first
            weight = first.sum(-2, keepdim=True)
            return left[..., 0, :] * (weight if mark is None else weight * mark[..., 0, :].unsqueeze(-2))

        def pairs(mark: Mark, steps: slice | Tensor) -> Tensor:
            right = states if mark is None else states * mark.unsqueeze(-3)
            before = states if left is None else left
            return torch.einsum("...itr,...jtr->...ij" if self.steady else "...itr,...jtr->...tij", before, right)

        nothing = [None] * len(self.parts)
        return self._sums(law, pairs, states, nothing, nothing, WHOLE)

    def _hidden(self, shares: Tensor) -> Tensor:
        """Shares of hidden states as the recursion has them: (starts, apart), states, steps, rows."""
        shares = align(shares, (TIME, *self.outside, STATE), (*self.apart, STATE, TIME, *self.rows))
        return shares.reshape((len(shares), *self._shape(self.apart), self.states, self.steps, -1))

    def _sums(
        self,
        law: Callable[[Mark], Tensor],
        pairs: Callable[[Mark, slice | Tensor], Tensor],
        states: Tensor,
        natural: Sequence[Any],
        memos: Sequence[Any],
        chunk: Chunk,
    ) -> dict[str, Tensor]:
        """What every part has of the posterior: of the initial state, of pairs, of the states at each step."""
        states = states.reshape((*states.shape[:-1], *self._shape(self.rows, chunk)))
        result: dict[str, Tensor] = {}
        for k, (part, eta, memo) in enumerate(zip(self.parts, natural, memos, strict=True)):
            if not part.wanted:
                continue
            mark = self._mark(part, chunk)
            if k < len(self.initial):
                weights, have = law(mark), (*self.apart, STATE, *self.rows)
                rows = self._shape(self.rows, chunk) if weights.shape[-1] > 1 else [1] * len(self.rows)
                weights = weights.reshape((*weights.shape[:-1], *rows))
            elif k < len(self.initial) + len(self.transitions):
                whole = len(part.steps) == self.moves
                weights = pairs(mark, slice(None) if whole else index_of(part.steps))
                have = (*self.apart, *self._time, FROM, TO)
            else:
                weights, have = states, (*self.apart, STATE, TIME, *self.rows)
                if len(part.steps) < self.steps:
                    weights = weights[(slice(None),) * (len(self.apart) + 2) + (index_of(part.steps),)]
                if mark is not None:
                    shape = [*mark.shape[:-1], *self._shape(self.rows, chunk)]
                    weights = weights * mark.reshape(shape).unsqueeze(len(self.apart))
            axes = tuple(i - len(have) for i, n in enumerate(have) if n not in part.names)
            weights = weights.sum(axes) if axes else weights
            weights = align(weights, [n for n in have if n in part.names], part.names)
            result |= part.sums(weights, eta, memo, chunk)
        return result

    def made_of(self, member: str) -> tuple[SiteFactor, ...]:
        """All sites."""
        return self.every

    def finish(self, found: Mapping[str, Tensor], natural: Sequence[Any] | None) -> dict[str, Sums]:
        """Statistics of the families, from those of all chunks."""
        sums: dict[str, Sums] = {}
        for part, eta in zip(self.parts, natural or [None] * len(self.parts), strict=True):
            if part.name in found:
                sums |= part.finish({part.name: found[part.name]}, eta)
        return sums

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """Say by how much digits run short."""
        return worst(unit.digits(bound, near) for unit in self.compiled)

    def width(self, plate: str) -> int:
        """Features and log-densities of a row, at all steps."""
        return sum(unit.width(plate) for unit in self.compiled)

    # ---- the posterior of the states ----

    def laws(self, natural: Sequence[Any]) -> dict[str, Tensor]:
        """Posterior of every state given what is around the chain: outside + `(K,)`, or `(T, K)` of a site."""
        return self._by_site(paths.state_law(self._laid(natural)), 1)

    def entropy(self, natural: Sequence[Any]) -> Tensor:
        """Posterior entropy of the path of every row; of a site, up to the last step at which something is seen."""
        counted = None if self.steps_of else self._mark(self.transitions[0], WHOLE)
        return paths.entropy(self._laid(natural), counted)

    def mode(self, natural: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The best path (Viterbi) of every row, and its log-density together with the data."""
        best, found = paths.best_paths(self._laid(natural))
        return best, self._by_site(found, 0)

    def draws(self, natural: Sequence[Any], n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Paths, drawn by filtering forwards and sampling backwards."""
        return self._by_site(paths.draw_paths(self._laid(natural), n, generator), 0)

    def path(self, natural: Sequence[Any], generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The best path of hidden states, or a drawn one, from the state before the first step on.

        It ends where the last is seen. Returns its log-density together with the data, shape outside, and the path.
        """
        return paths.entered_path(self._laid(natural), self._mark(self.transitions[0], WHOLE), generator)

    def _laid(self, natural: Sequence[Any]) -> paths.Laid:
        """Everything of one start."""
        start, moves, seen, _ = self.logs(natural)
        _, memo = self.log_factors(natural)
        rows = self._shape(self.rows)
        return paths.Laid(
            start.squeeze(0), moves.squeeze(0), seen().squeeze(0), memo.found, self.steady, self.entered, self.apart,
            self.rows, rows, self.outside,
        )  # fmt: skip

    def _by_site(self, found: Tensor, trailing: int) -> dict[str, Tensor]:
        """Cut what was found of all steps into latents of the program."""
        if not self.steps_of:
            return {self.name: found}
        return dict(zip(self.steps_of, found.unbind(-1 - trailing), strict=True))
