"""Laws bound: expected logarithms where points have logarithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..program.named import Params, batched
from ..reading.bank import Bank, Segment
from ..reading.bound import LOWEST, Bound, once
from .conjugate import Conjugate

Held = Sequence[tuple[Conjugate, Any]]
"""Every conjugate prior with the law that it has become."""


@dataclass(eq=False)
class AtLaws(Bound):
    """What the E-step takes of laws: `E log p` of probabilities, and of other arguments what `Conjugate` says.

    Attributes:
        held: the laws of all parameters.
    """

    held: Held = field(default=(), repr=False)

    @cached_property
    def logs(self) -> Tensor:
        """`E log p` of all probabilities."""
        return self._expected(complement=False)

    @cached_property
    def log_complements(self) -> Tensor:
        """`E log (1 - p)` of all probabilities."""
        return self._expected(complement=True)

    def excess(self, factor: Any) -> Tensor | None:
        """What expectations add to the first natural parameter of a site's cells."""
        found = _excess(factor, self)
        return found if found.numel() else None

    def variance(self, factor: Any) -> Tensor:
        """Variance of the location in every cell of a site."""
        found = [part for each, law in self.held if (part := each.variance(law, factor, self.bank)) is not None]
        return sum(found[1:], found[0]) if found else torch.zeros((), dtype=torch.float64)

    def spread(self, factor: Any) -> Tensor | None:
        """Covariance of the coefficients of a site's lines: of the one law that they have."""
        found = (each.spread(law, factor) for each, law in self.held)
        return next((part for part in found if part is not None), None)

    def _expected(self, *, complement: bool) -> Tensor:
        parts = [self._log(segment, complement=segment.complement != complement) for segment in self.bank.probabilities]
        return torch.cat(parts).unsqueeze(0).clamp(min=LOWEST) if parts else torch.zeros((1, 0), dtype=torch.float64)

    def _log(self, segment: Segment, *, complement: bool) -> Tensor:
        law = next(pair for pair in self.held if segment.parameter in pair[0].names)
        return law[0].log(law[1], complement=complement).reshape(-1)


@once
def _excess(factor: Any, laws: Bound) -> Tensor:
    """The sum over all laws that enter, once for each site; empty where none adds anything."""
    assert isinstance(laws, AtLaws)
    found = [part for each, law in laws.held if (part := each.excess(law, factor, laws)) is not None]
    return sum(found[1:], found[0]).unsqueeze(0) if found else torch.zeros(0, dtype=torch.float64)


def points_of(held: Held) -> dict[str, Tensor]:
    """Return what is bound in the place of the parameters."""
    return {name: value for each, law in held for name, value in each.points(law).items()}


def bound_to(held: Held, bank: Bank) -> AtLaws:
    """Bind laws for the sites of an engine."""
    return AtLaws(batched(points_of(held)), bank, held=held)


def law_of(held: Held) -> Mapping[str | tuple[str, ...], Any]:
    """Return the laws by the name of their parameter, or by the names of two."""
    return {each.names[0] if len(each.names) == 1 else each.names: law for each, law in held}


def divergence(held: Held) -> Tensor:
    """Return `KL(q || prior)` of all laws, in nats."""
    return torch.stack([each.divergence(law) for each, law in held]).sum()


def means_of(held: Held) -> Params:
    """Expected values of all parameters."""
    return {name: value for each, law in held for name, value in each.means(law).items()}
