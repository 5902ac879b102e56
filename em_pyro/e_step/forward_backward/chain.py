"""Forward-backward along a chain, for many rows at once: scaled recursions, and log space where they lose too much.

Each step's likelihood is shifted by its largest state, so a distant outlier does not underflow. What a scaled recursion
can still lose is a state that falls more than `LOST` behind and that later data make probable after all; where the
backward messages show that this may have happened, the row is done again in log space.

Shapes: `...` starts, `K` states, `T` steps, `R` rows. References: Rabiner (1989), sections III and V.A.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

import torch
from torch import Tensor

from ...records.frozen import frozen
from . import compiled, scan

FLOOR = -700.0  # exp is several times slower where it underflows
ZERO = 2e-304  # what is below was at the floor, and is zero
LOST = 1e250  # a state that was dropped weighs less than exp(FLOOR) * LOST of the posterior


@frozen
class Redone:
    """Rows of which the scaled recursion was not enough, from log space; `n` of them."""

    where: tuple[Tensor, ...]  # index into (..., R)
    pairs: Tensor = field(repr=False)  # posterior of every pair, (n, T - 1, K, K)
    log_filtered: Tensor = field(repr=False)  # (n, K, T)


@frozen
class Smoothed:
    """The posterior of a chain.

    The posterior of a pair is `filtered[t - 1] x transition x messages[t]`, except for the rows in `redone`, where both
    are zero.
    """

    log_z: Tensor  # (..., R); -inf where the data are impossible
    states: Tensor = field(repr=False)  # posterior of every state, (..., K, T, R)
    filtered: Tensor = field(repr=False)  # (..., K, T, R)
    messages: Tensor = field(repr=False)  # (..., K, T, R)
    transition: Tensor = field(repr=False)  # (..., K, K), or (..., T - 1, R or 1, K, K) where they differ
    redone: Redone | None = field(default=None, repr=False)

    @property
    def shared(self) -> bool:
        """Whether one transition matrix serves all steps and rows."""
        return self.transition.dim() == self.states.dim() - 1

    def pairs_sum(self, weight: Tensor | None = None) -> Tensor:
        """Posterior of all pairs summed over steps and rows, for a shared transition.

        Args:
            weight: of every row at every later step of a pair, broadcast to `(..., T - 1, R)`; None is one.

        Returns:
            Shape `(..., K, K)`.
        """
        rows = self.states.shape[-1]
        right = self.messages[..., 1:, :]
        if weight is not None:
            right = right * weight.unsqueeze(-3)
        left = self.filtered.flatten(-2)[..., : right.shape[-2] * rows]
        total = (left @ right.flatten(-2).mT) * self.transition
        if self.redone is not None:
            pairs, where = self.redone.pairs, self.redone.where
            if weight is not None:
                every = weight.expand((*self.log_z.shape[:-1], pairs.shape[1], rows)).movedim(-2, -1)
                pairs = pairs * every[where][..., None, None]
            part = pairs.sum(1)
            total = total.index_put(where[:-1], part, accumulate=True) if len(where) > 1 else total + part.sum(0)
        return total

    def pairs_by_step(self, weight: Tensor | None = None, steps: slice | Tensor = slice(None)) -> Tensor:
        """Posterior of the pairs of some steps summed over rows, for transitions that rows share: `(..., n, K, K)`.

        Args:
            weight: of every row at the later step of each of these pairs, broadcast to `(..., n, R)`; None is one.
            steps: which of the `T - 1` pairs.
        """
        left = self.filtered[..., :-1, :][..., steps, :].movedim(-3, -2)
        right = self.messages[..., 1:, :][..., steps, :].movedim(-3, -2)
        if weight is not None:
            right = right * weight.unsqueeze(-2)
        moves = self.transition.unsqueeze(-3) if self.shared else self.transition.squeeze(-3)[..., steps, :, :]
        total = (left @ right.mT) * moves
        if self.redone is not None:
            pairs, where = self.redone.pairs[:, steps], self.redone.where
            if weight is not None:
                every = weight.expand((*self.log_z.shape[:-1], pairs.shape[1], self.log_z.shape[-1])).movedim(-2, -1)
                pairs = pairs * every[where][..., None, None]
            total = total.index_put(where[:-1], pairs, accumulate=True) if len(where) > 1 else total + pairs.sum(0)
        return total

    def pairs_each(self, steps: slice = slice(None)) -> Tensor:
        """Posterior of every pair, or of some steps of the `T - 1`: `(..., n, R, K, K)`."""
        left, right = (
            x[..., steps, :].movedim(-3, -1) for x in (self.filtered[..., :-1, :], self.messages[..., 1:, :])
        )
        transition = self.transition[..., None, None, :, :] if self.shared else self.transition[..., steps, :, :, :]
        each = left.unsqueeze(-1) * transition * right.unsqueeze(-2)
        if self.redone is not None:
            each.movedim(-3, -4)[self.redone.where] = self.redone.pairs[:, steps]
        return each

    def log_filtered(self) -> Tensor:
        """Logarithms of the filtered states, `(..., K, T, R)`."""
        logs = self.filtered.log()
        if self.redone is not None:
            logs.movedim(-1, -3)[self.redone.where] = self.redone.log_filtered
        return logs


def smooth(prior: Tensor, transition: Tensor, likelihood: Callable[[], Tensor], method: str = "torch") -> Smoothed:
    """Filter and smooth.

    Args:
        prior: log-law of the first state, `(..., K, R or 1)`.
        transition: log-transitions, `(..., K, K)` if one matrix serves all steps and rows, else `(..., T - 1, R or 1,
            K, K)`.
        likelihood: returns the log-likelihoods `(..., K, T, R)`, contiguous and free to be overwritten. It is called a
            second time if some rows must be done again.
        method: "numba" or "torch". Where transitions differ, it is the scan in torch.
    """
    unary = likelihood()
    top = unary.amax(-3, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    scaled = torch.threshold_(unary.sub_(top).clamp_(min=FLOOR).exp_(), ZERO, 0.0)
    states, steps, rows = scaled.shape[-3:]
    first = prior.exp().expand((*scaled.shape[:-3], states, rows))
    matrix = transition.exp()
    if method == "numba" and transition.dim() == scaled.dim() - 1:
        filtered, norms, smoothed, peaks = _compiled(first, matrix, scaled)
    else:
        filtered, norms, smoothed, peaks = _scanned(first, matrix, scaled)
    log_z = (norms.log() + top.squeeze(-3)).sum(-2)
    fine = torch.isfinite(log_z) & (peaks <= LOST)
    if bool(fine.all()):
        return Smoothed(log_z, smoothed, filtered, scaled, matrix)
    return _again(Smoothed(log_z, smoothed, filtered, scaled, matrix), prior, transition, likelihood(), ~fine)


def _scanned(first: Tensor, transition: Tensor, likelihood: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scan in torch; one start without its dimension, whose products are then those of matrices."""
    if likelihood.dim() != 4 or len(likelihood) > 1:
        return scan.smooth(first, transition, likelihood)
    filtered, norms, smoothed, peaks = scan.smooth(first[0], transition[0], likelihood[0])
    return filtered.unsqueeze(0), norms.unsqueeze(0), smoothed.unsqueeze(0), peaks.unsqueeze(0)


def _compiled(first: Tensor, transition: Tensor, likelihood: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hand the arrays over; `likelihood` becomes the messages."""
    lead, (states, steps, rows) = likelihood.shape[:-3], likelihood.shape[-3:]
    filter_rows, smooth_rows = compiled.functions(rows)
    filtered, smoothed = torch.empty_like(likelihood), torch.empty_like(likelihood)
    norms = likelihood.new_empty((*lead, steps, rows))
    peaks = likelihood.new_empty((*lead, rows))
    flat = [
        x.reshape((-1, *x.shape[len(lead) :])).numpy()
        for x in (
            first.contiguous(),
            transition.expand((*lead, states, states)).contiguous(),
            likelihood,
            filtered,
            norms,
            smoothed,
            peaks,
        )
    ]
    filter_rows(flat[0], flat[1], flat[2], flat[3], flat[4])
    smooth_rows(flat[1], flat[3], flat[4], flat[2], flat[5], flat[6])
    return filtered, norms, smoothed, peaks


def _again(found: Smoothed, prior: Tensor, transition: Tensor, unary: Tensor, wrong: Tensor) -> Smoothed:
    """Do the rows that are `wrong` again, in log space."""
    where = wrong.nonzero(as_tuple=True)
    lead, (states, steps, rows) = unary.shape[:-3], unary.shape[-3:]
    first = prior.expand((*lead, states, rows)).movedim(-1, -2)[where]
    seen = unary.movedim(-1, -3)[where].movedim(-1, 0)  # (T, n, K)
    if found.shared:
        matrices = transition.expand((*lead, states, states))[where[:-1]]
        matrices = matrices.expand((steps - 1, len(first), states, states))
    else:
        every = transition.expand((*lead, steps - 1, rows, states, states))
        matrices = every.movedim(-3, -4)[where].movedim(1, 0)
    log_z, smoothed, pairs, filtered = log_space(first, matrices, seen)
    totals = found.log_z.clone()
    totals[where] = log_z
    posterior, left, right = found.states, found.filtered, found.messages
    posterior.movedim(-1, -3)[where] = smoothed.movedim(0, -1)
    for part in (left, right):
        part.movedim(-1, -3)[where] = 0.0
    redone = Redone(where, pairs.movedim(0, 1), filtered.movedim(0, -1))
    return Smoothed(totals, posterior, left, right, found.transition, redone)


def log_space(first: Tensor, transition: Tensor, unary: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forward-backward on logarithms.

    Args:
        first: log-law of the first state, `(n, K)`.
        transition: `(T - 1, n, K, K)`.
        unary: log-likelihoods, `(T, n, K)`.

    Returns:
        Log evidence `(n,)`; posterior of the states `(T, n, K)` and of the pairs `(T - 1, n, K, K)`; the forward
        messages `(T, n, K)`. All weights of an impossible row are zero.
    """
    alpha, beta = torch.empty_like(unary), torch.zeros_like(unary)
    alpha[0] = first + unary[0]
    for t in range(1, len(unary)):
        alpha[t] = (alpha[t - 1].unsqueeze(-1) + transition[t - 1]).logsumexp(-2) + unary[t]
    for t in range(len(unary) - 1, 0, -1):
        beta[t - 1] = (transition[t - 1] + (unary[t] + beta[t]).unsqueeze(-2)).logsumexp(-1)
    log_z = alpha[-1].logsumexp(-1)
    pairs = alpha[:-1].unsqueeze(-1) + transition + (unary[1:] + beta[1:]).unsqueeze(-2)
    return log_z, _normalised(alpha + beta, 1), _normalised(pairs, 2), alpha


def _normalised(logs: Tensor, trailing: int) -> Tensor:
    """Weights that sum to one over the trailing dimensions, or are zero where all logarithms are -inf."""
    total = logs.flatten(-trailing).logsumexp(-1)
    return (logs - torch.where(total == -torch.inf, 0.0, total)[(..., *(None,) * trailing)]).exp()
