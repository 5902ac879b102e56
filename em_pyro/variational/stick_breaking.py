"""Weights by breaking a stick: the prior of a Dirichlet-process mixture, and the law that it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import torch
import torch.distributions as dist
from torch import Tensor

from ..errors import ParameterError
from ..records.frozen import frozen


@dataclass(frozen=True)
class StickBreaking:
    """`w_k = v_k prod_{j<k} (1 - v_j)` with `v_k ~ Beta(1, concentration)`: a Dirichlet process, cut at the last state.

    Args:
        concentration: the larger it is, the more states share the rows; above zero.
        sort: let the states with more rows break the stick first, where that raises the bound. Without, the order of
            the states is that of the sticks, as in scikit-learn, and the answer depends on it.

    Raises:
        ParameterError: a concentration that is no number above zero.

    References:
        Blei and Jordan (2006), Variational inference for Dirichlet process mixtures, Bayesian Analysis 1, 121-143.
        Kurihara, Welling and Vlassis (2007), Accelerated variational Dirichlet process mixtures, NIPS 19 (the order).
    """

    concentration: float = 1.0
    sort: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (isinstance(self.concentration, Real) and 0 < float(self.concentration) < float("inf")):
            raise ParameterError(
                f"StickBreaking: expected concentration to be a number above 0, got {self.concentration!r}."
            )

    def updated(self, counts: Tensor, order: Tensor) -> Sticks:
        """The law given counts of the states, `(..., K)`; `order` is that of the sticks so far."""
        if self.sort:
            by_size = counts.sort(dim=-1, descending=True, stable=True).indices
            better = self._evidence(counts.gather(-1, by_size)) > self._evidence(counts.gather(-1, order))
            order = torch.where(better.unsqueeze(-1), by_size, order)
        return Sticks(*self._shapes(counts.gather(-1, order)), order, self)

    def _shapes(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        later = counts.flip(-1).cumsum(-1).flip(-1) - counts
        return 1 + counts, self.concentration + later

    def _evidence(self, counts: Tensor) -> Tensor:
        """Log-probability of such counts with the sticks integrated, up to a constant: `(...)`."""
        ones, rest = self._shapes(counts)
        return (ones.lgamma() + rest.lgamma() - (ones + rest).lgamma()).sum(-1)


@frozen
class Sticks:
    """The law of weights: independent Betas of the sticks.

    Attributes:
        ones: first shapes, `(..., K)`, in the order of the sticks.
        rest: second shapes.
        order: which state each stick is, `(..., K)`.
        prior: what it comes from.
    """

    ones: Tensor
    rest: Tensor
    order: Tensor
    prior: StickBreaking

    @property
    def mean(self) -> Tensor:
        """Expected weights in the order of the model's states, `(..., K)`, as shares of what these states hold."""
        share = self.ones / (self.ones + self.rest)
        left = torch.cat([torch.ones_like(share[..., :1]), (1 - share).cumprod(-1)[..., :-1]], -1)
        weights = share * left
        return self._placed(weights / weights.sum(-1, keepdim=True))

    @property
    def log(self) -> Tensor:
        """`E log w` in the order of the model's states, `(..., K)`."""
        total = (self.ones + self.rest).digamma()
        kept, passed = self.ones.digamma() - total, self.rest.digamma() - total
        return self._placed(kept + passed.cumsum(-1) - passed)

    def divergence(self, other: Sticks | None = None) -> Tensor:
        """Kullback-Leibler divergence from the prior, or from another law, in nats: `(...)`.

        Sticks in another order are the law of something else: infinite.
        """
        one, same = torch.ones_like(self.ones), torch.ones_like(self.order, dtype=torch.bool)
        from_ = dist.Beta(one, self.prior.concentration * one)
        if other is not None:
            from_, same = dist.Beta(other.ones, other.rest), self.order == other.order
        apart = dist.kl_divergence(dist.Beta(self.ones, self.rest), from_).sum(-1)
        return torch.where(same.all(-1), apart, torch.inf)

    def _placed(self, by_stick: Tensor) -> Tensor:
        return torch.empty_like(by_stick).scatter_(-1, self.order, by_stick)
