"""What a posterior asks of a `dist.DiscreteHMM`: the law of its states, the best path, and paths drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ...program.named import align
from ..sites.site_factor import WHOLE
from .hmm import Hmm


def state_law(hmm: Hmm, natural: Sequence[Tensor]) -> Tensor:
    """Posterior of the state at every observation, shape (outside) + `(T, S)`."""
    found, _ = hmm.smoothed(natural, hmm.features())
    states = found.states / found.states.sum(-3, keepdim=True)
    return _by_row(hmm, states.movedim(-3, -1))


def best_paths(hmm: Hmm, natural: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Viterbi.

    Returns:
        Log-probabilities of the best paths together with the data, shape (outside), and the paths, (outside) + `(T,)`.
    """
    start, first, moves, seen = _logs(hmm, natural)
    score = (start.unsqueeze(-2) + first.unsqueeze(-1)).amax(-3) + seen[0]  # (apart, K, rows)
    origins = []
    for t in range(1, len(seen)):
        score, origin = (score.unsqueeze(-2) + _step(moves, t, len(hmm.apart)).unsqueeze(-1)).max(-3)
        score = score + seen[t]
        origins.append(origin)
    best, state = score.max(-2)
    path = [state]
    for origin in reversed(origins):
        state = origin.gather(-2, state.unsqueeze(-2)).squeeze(-2)
        path.append(state)
    steps = torch.stack(path[::-1], -2)  # (apart, T, rows)
    return _by_row(hmm, best[..., None, :, None])[..., 0, 0], _by_row(hmm, steps.unsqueeze(-1)).squeeze(-1)


def draw_paths(hmm: Hmm, natural: Sequence[Tensor], n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` paths, filtering forwards and sampling backwards: shape `(n,)` + (outside) + `(T,)`."""
    found, _ = hmm.smoothed(natural, hmm.features())
    filtered = found.log_filtered()
    _, _, moves, seen = _logs(hmm, natural)

    def pick(logits: Tensor) -> Tensor:
        noise = torch.rand(logits.shape, generator=generator, dtype=logits.dtype).to(logits.device)
        return (logits - (-noise.log()).log()).argmax(-2)

    state = pick(filtered[..., -1, :].expand(n, *filtered.shape[:-2], filtered.shape[-1]))
    path = [state]
    for t in range(len(seen) - 1, 0, -1):
        matrices = _step(moves, t, len(hmm.apart)).expand(n, *moves.shape[: len(hmm.apart)], *moves.shape[-2:])
        chosen = state.unsqueeze(-2).expand(*matrices.shape[:-1], state.shape[-1])
        state = pick(filtered[..., t - 1, :] + matrices.gather(-1, chosen))
        path.append(state)
    steps = torch.stack(path[::-1], -2)  # (n, apart, T, rows)
    return _by_row(hmm, steps.unsqueeze(-1), lead=1).squeeze(-1)


def _logs(hmm: Hmm, natural: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-laws of the unobserved state, transitions from it and from later ones, likelihoods by step."""
    start, moves = hmm.start(natural, WHOLE, 0)
    first = moves[..., 0, 0, :, :] if hmm.moves else moves
    seen = hmm.emitted(natural[2], hmm.features(), WHOLE, 0)()
    return start, first, moves, seen.movedim(-2, 0)


def _step(moves: Tensor, t: int, apart: int) -> Tensor:
    """Transitions into step `t`, `(apart, K, K)`."""
    return moves[..., t, 0, :, :] if apart + 2 < moves.dim() else moves


def _by_row(hmm: Hmm, found: Tensor, lead: int = 0) -> Tensor:
    """From `(apart, T, rows, last)` to (outside) + `(T, last)`."""
    rows = [hmm.sizes[n] for n in hmm.rows]
    found = found.movedim(-2, lead + len(hmm.apart))
    at = lead + len(hmm.apart)
    assert found.shape[at] == prod(rows)
    found = found.reshape((*found.shape[:at], *rows, *found.shape[at + 1 :]))
    return align(found, (*hmm.apart, *hmm.rows), hmm.outside, 2)
