"""What an E-step is asked for: what to collect, and how rows are shared out among the states of the latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from ..program.named import Named
from ..records.frozen import frozen
from .second.directions import Directions


@dataclass(frozen=True)
class Collect:
    """What is collected on the way over the rows.

    Attributes:
        sums: expected statistics, and the weights of replayed sites; without, the log evidence alone.
        along: directions along which second-order sums are wanted; None is none.
    """

    sums: bool = True
    along: Directions | None = None


SUMS, EVIDENCE = Collect(), Collect(sums=False)


@frozen
class Shares:
    """How rows are shared out.

    Attributes:
        given: the weights of every factor, (starts) + its dimensions, in place of the posterior; of a site whose states
            are summed out inside, those of its states. Statistics then stay around the common centre: there are no
            parameters that they belong to.
        evidence: what stands for the log evidence of the rows where weights are given.
    """

    given: Mapping[str, Tensor] | None = field(default=None, repr=False)
    evidence: float = 0.0


SOFT = Shares()
"""By the posterior."""


class Found(NamedTuple):
    """What one part adds to an E-step: log evidence `(starts)`, statistics by factor, weights of replayed sites."""

    log_evidence: Tensor
    sums: Mapping[str, Tensor]
    weights: Mapping[str, Named] = {}


def add(total: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Add the statistics of a chunk to those found so far."""
    for name, part in more.items():
        total[name] = total[name].add_(part) if name in total else part
