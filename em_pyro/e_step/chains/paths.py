"""What a posterior asks of a chain: the law of its states, the best path, and paths drawn from it."""

from __future__ import annotations

from dataclasses import field
from math import prod

import torch
from torch import Tensor
from torch.special import xlogy

from ...program.named import align
from ...records.frozen import frozen
from ..contraction.drawn import AT_ONCE, drawn, portions
from ..forward_backward.chain import Smoothed


@frozen
class Laid:
    """A chain of one start, laid out for its recursion: dimensions `apart`, states, steps, `rows`.

    Attributes:
        start: log-law of the initial state, `(apart, K, rows or 1)`.
        moves: log-transitions, `(apart, K, K)` if one matrix serves all steps, else `(apart, moves, 1, K, K)`.
        seen: log-likelihoods, `(apart, K, T, rows)`.
        found: what forward-backward has found, with one start before all.
        steady: whether one matrix serves all steps.
        entered: whether a transition leads to the first step.
        apart, rows: named dimensions.
        shape: sizes of `rows`.
        outside: all of them, in the order of the chain's factor.
    """

    start: Tensor = field(repr=False)
    moves: Tensor = field(repr=False)
    seen: Tensor = field(repr=False)
    found: Smoothed = field(repr=False)
    steady: bool
    entered: bool
    apart: tuple[str, ...]
    rows: tuple[str, ...]
    shape: list[int]
    outside: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.seen.shape[-2]

    def into(self, t: int) -> Tensor:
        """Transitions into step `t`, `(apart, K, K)`."""
        return self.moves if self.steady else self.moves[..., t if self.entered else t - 1, 0, :, :]

    def by_row(self, found: Tensor, before: int = 0) -> Tensor:
        """From `(apart, T, rows, last)` to (outside) + `(T, last)`, behind so many other dimensions."""
        at = before + len(self.apart)
        found = found.movedim(-2, at)
        assert found.shape[at] == prod(self.shape)
        found = found.reshape((*found.shape[:at], *self.shape, *found.shape[at + 1 :]))
        return align(found, (*self.apart, *self.rows), self.outside, 2)


def state_law(laid: Laid) -> Tensor:
    """Posterior of the state at every step, shape (outside) + `(T, K)`."""
    states = laid.found.states.squeeze(0)
    states = states / states.sum(-3, keepdim=True)
    return laid.by_row(states.movedim(-3, -1))


def entropy(laid: Laid, counted: Tensor | None = None) -> Tensor:
    """Posterior entropy of the path in nats, `H(z_1) + sum_t E H(z_t | z_{t-1})`, shape (outside).

    Args:
        laid: the chain.
        counted: which steps enter it, `(apart, T, rows)`; None is all.

    References: Hernando, Crespi & Cybenko (2005).
    """
    pairs_of, first = laid.found.pairs_each, laid.found.states[..., 0, :]
    total = -xlogy(first, first).sum(-2)
    total = total if counted is None else total * counted[..., 0, :]
    many = max(1, AT_ONCE // max(1, total.numel() * first.shape[-2] ** 2))
    for start in range(0, laid.steps - 1, many):
        pairs = pairs_of(slice(start, start + many))
        before = pairs.sum(-1)
        each = xlogy(before, before).sum(-1) - xlogy(pairs, pairs).sum((-1, -2))
        each = each if counted is None else each * counted[..., start + 1 : start + 1 + many, :]
        total = total + each.sum(-2)
    return laid.by_row(total.squeeze(0)[..., None, :, None])[..., 0, 0]


def best_paths(laid: Laid) -> tuple[Tensor, Tensor]:
    """Find the most probable path of every row, by Viterbi's recursion.

    Returns:
        Log-probabilities of the best paths together with the data, shape (outside), and the paths, (outside) + `(T,)`.

    References: Rabiner (1989), section III B.
    """
    best, steps = _best(laid, None)
    return laid.by_row(best[..., None, :, None])[..., 0, 0], laid.by_row(steps.unsqueeze(-1)).squeeze(-1)


def _best(laid: Laid, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `best_paths`, `(apart, rows)` and `(apart, T, rows)`; `counted` as in `entered_path`."""
    seen, score = laid.seen.movedim(-2, 0), laid.start
    if laid.entered:
        score = (score.unsqueeze(-2) + laid.into(0).unsqueeze(-1)).amax(-3)
    score = score + seen[0]  # (apart, K, rows)
    origins = []
    for t in range(1, laid.steps):
        step = score.unsqueeze(-2) + laid.into(t).unsqueeze(-1)
        if counted is not None:
            step = torch.where(counted[..., t, :][..., None, None, :] > 0, step, score.unsqueeze(-2))
        score, origin = step.max(-3)
        score = score + seen[t]
        origins.append(origin)
    best, state = score.max(-2)
    path = [state]
    for origin in reversed(origins):
        state = origin.gather(-2, state.unsqueeze(-2)).squeeze(-2)
        path.append(state)
    return best, torch.stack(path[::-1], -2)


def draw_paths(laid: Laid, n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` paths, filtering forwards once and sampling backwards: shape `(n,)` + (outside) + `(T,)`."""
    return laid.by_row(_drawn(laid, n, generator).unsqueeze(-1), before=1).squeeze(-1)


def _drawn(laid: Laid, n: int, generator: torch.Generator) -> Tensor:
    """As `draw_paths`, `(n, apart, T, rows)`."""
    filtered = laid.found.log_filtered().squeeze(0)  # (apart, K, T, rows)

    def few(n: int) -> Tensor:
        state = drawn(filtered[..., -1, :].unsqueeze(0), n, -2, generator)
        path = [state]
        for t in range(laid.steps - 1, 0, -1):
            matrices = laid.into(t)
            matrices = matrices.expand(n, *matrices.shape)
            chosen = state.unsqueeze(-2).expand(*matrices.shape[:-1], state.shape[-1])
            state = drawn(filtered[..., t - 1, :] + matrices.gather(-1, chosen), n, -2, generator)
            path.append(state)
        return torch.stack(path[::-1], -2)  # (n, apart, T, rows)

    return torch.cat([few(part) for part in portions(n, [filtered[..., 0, :].numel()])])


def entered_path(laid: Laid, counted: Tensor | None, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """One path of every row, from the state before its first step on: the best one, or one drawn by `generator`.

    Args:
        laid: an entered chain.
        counted: steps into which transitions count, `(apart, T, rows)`: up to the last at which something is seen. None
            is all. States at the others are as good as any.
        generator: None is the best path.

    Returns:
        Log-probabilities of the paths together with the data, shape (outside), and the paths, (outside) + `(1 + T,)`.
    """
    steps = _best(laid, counted)[1] if generator is None else _drawn(laid, 1, generator).squeeze(0)
    entering = laid.start + _arriving(laid, 0, steps)
    first = entering.argmax(-2) if generator is None else drawn(entering.unsqueeze(0), 1, -2, generator).squeeze(0)
    path = torch.cat([first.unsqueeze(-2), steps], -2)
    moves = [entering, *(_arriving(laid, t, steps) for t in range(1, laid.steps))]  # from every state
    moved = torch.stack(moves, -2).gather(-3, path[..., :-1, :].unsqueeze(-3)).squeeze(-3)
    moved = moved if counted is None else torch.where(counted > 0, moved, 0.0)
    total = (moved + laid.seen.gather(-3, steps.unsqueeze(-3)).squeeze(-3)).sum(-2)
    return laid.by_row(total[..., None, :, None])[..., 0, 0], laid.by_row(path.unsqueeze(-1)).squeeze(-1)


def _arriving(laid: Laid, t: int, steps: Tensor) -> Tensor:
    """Log-transitions from every state into that of step `t`, `(apart, K, rows)`."""
    matrices = laid.into(t)
    state = steps[..., t, :].unsqueeze(-2)
    return matrices.gather(-1, state.expand(*matrices.shape[:-1], state.shape[-1]))
