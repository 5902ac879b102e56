"""What an E-step returns: a value that adds over disjoint rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..program.named import Named
from ..records.frozen import frozen
from .sums import Sums

if TYPE_CHECKING:
    from .second.second import Second


@frozen
class Expectation:
    """What an E-step found.

    Attributes:
        log_evidence: `log Z` at the parameters used, shape `(starts)`.
        sums: expected sufficient statistics of every site, by name.
        weights: posterior weights of every replayed site that has parameters.
        plate: whose rows these are, if others may be added.
        log_prior: of the parameters used, shape `(starts)`; added once, after the sums over all rows: None before.
        second: second-order sums, if they were asked for.
    """

    log_evidence: Tensor
    sums: Mapping[str, Sums] = field(repr=False)
    weights: Mapping[str, Named] = field(repr=False)
    plate: str | None = None
    log_prior: Tensor | None = None
    second: Second | None = field(default=None, repr=False)

    @property
    def objective(self) -> Tensor:
        """What EM ascends: log evidence plus log prior, shape `(starts)`."""
        return self.log_evidence if self.log_prior is None else self.log_evidence + self.log_prior

    def with_prior(self, log_prior: Tensor) -> Expectation:
        """The same with the log prior of the parameters used."""
        return Expectation(self.log_evidence, self.sums, self.weights, self.plate, log_prior, self.second)

    def __add__(self, other: Expectation) -> Expectation:
        """Add what was found of other rows of the same plate, at the same parameters.

        Raises:
            PlanError: statistics that are kept by row cannot stand beside others.
        """
        return replace(
            self,
            log_evidence=self.log_evidence + other.log_evidence,
            sums={name: part + other.sums[name] for name, part in self.sums.items()},
            weights={name: self._joined(part, other.weights[name]) for name, part in self.weights.items()},
            second=None if self.second is None or other.second is None else self.second + other.second,
        )

    def _joined(self, mine: Named, other: Named) -> Named:
        if self.plate not in mine.names:
            return Named(mine.tensor + other.tensor, mine.names)
        return Named(torch.cat([mine.tensor, other.tensor], mine.names.index(self.plate)), mine.names)
