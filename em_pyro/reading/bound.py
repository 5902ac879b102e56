"""Parameters on their way into a step: entries, logs of probabilities, Cholesky factors, each worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from .bank import Bank

LOWEST = -1e30  # a structural zero in log space; finite, because 0 * -inf is not 0 in a matrix product


@dataclass(frozen=True)
class Bound:
    """The atoms of one set of parameter values, computed once a step, when asked for, and shared by all terms."""

    params: Mapping[str, Tensor]
    bank: Bank
    lead: int = 0
    around: Mapping[str, Tensor] | None = None  # whose locations centred cells are centred at, if not these

    @cached_property
    def centre(self) -> Bound:
        """The atoms at whose locations centred cells are centred."""
        return self if self.around is None else Bound(self.around, self.bank, self.lead)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Shape of the starts."""
        return tuple(next(iter(self.params.values())).shape[: self.lead]) if self.lead else ()

    @cached_property
    def entries(self) -> Tensor:
        """Plain atoms."""
        return self.bank.values(self.params, self.lead)

    @cached_property
    def logs(self) -> Tensor:
        """Logarithms of probabilities, structural zeros as `LOWEST`."""
        return self.bank.logs(self.params, self.lead).clamp(min=LOWEST)

    @cached_property
    def log_complements(self) -> Tensor:
        """Logarithms of one minus the probabilities."""
        return self.bank.logs(self.params, self.lead, complement=True).clamp(min=LOWEST)

    @cached_property
    def matrices(self) -> Tensor:
        """Cholesky factors."""
        return self.bank.stack(self.params, self.lead)
