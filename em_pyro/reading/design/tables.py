"""Arguments that are functions of the parameters, and of no row: a table of them is computed in every step.

`logits = a * (theta[z] - b)` has a number for every state and item, however many rows there are. It is no selection of
parameters, so that no M-step is known in closed form; but its site is of a known family, and the statistics of its
cells are all that an E-step need keep. So the model is recorded as far as these arguments, and they stand for
parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...families.charts import CHARTS, Chart
from ...program.named import Batch, Named
from ...records.frozen import frozen

if TYPE_CHECKING:
    from ...recording.graph import Graph

LOGIT = next(chart for chart in CHARTS if chart.name == "sigmoid")
LOGARITHM = Chart("exponential", {}, torch.exp, torch.log, lambda x: x)
STANDS: Mapping[str, Chart] = {"unit": LOGIT, "simplex": LOGARITHM}
"""From what a table holds to the argument: probabilities are held so that none of their digits are lost."""


Kind = tuple[str, bool]
"""The domain of an argument, and whether the program gives logits of it."""


@dataclass(frozen=True)
class Table:
    """One argument of one site, or of several in which it is the same function.

    Attributes:
        site: the first of these.
        key: the argument.
        dropped: named dimensions of the argument along which it does not vary.
        shape: of what is left.
    """

    site: str
    key: str
    dropped: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name under which it stands among parameters, which is none that one of them can have by chance."""
        return f"[{self.key} of {self.site}]"

    def of(self, argument: Named) -> Tensor:
        """What is kept of the argument in one run."""
        part = argument.tensor
        for dim in self.dropped:
            part = part.narrow(dim, 0, 1)
        return part.reshape(self.shape)


@frozen
class Tables:
    """All tables of a program, computed by what was recorded of it.

    Attributes:
        graph: what was recorded.
        kinds: by output, the domain of the argument, and whether the program gives logits of it.
        members: by output, the tables that it holds, side by side in a first dimension: the same function of the
            parameters, and of other constants.
    """

    graph: Graph = field(repr=False)
    kinds: Mapping[str, Kind]
    members: Mapping[str, Sequence[str]]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return all outputs by name, starts first; differentiable in the parameters."""
        starts = len(next(iter(batch.values())))
        each = [self.graph({name: value[s] for name, value in batch.items()}) for s in range(starts)]
        return {name: torch.stack([standing(one[name], *kind) for one in each]) for name, kind in self.kinds.items()}


def standing(part: Tensor, domain: str, logits: bool) -> Tensor:  # noqa: FBT001
    """Return what stands for an argument, in double; nan where it is not what it may be, so that no step leads there.

    Probabilities are kept off their ends as torch keeps them, by one unit of rounding: a function that saturates has no
    zero there. The other probability of two is never computed as one minus it.
    """
    if domain not in STANDS:
        return (torch.where(part >= 0, part, torch.nan) if domain == "positive" else part).double()
    if logits:
        return part.double() if domain == "unit" else torch.log_softmax(part.double(), -1)
    eps = torch.finfo(part.dtype).eps
    inside = part.clamp(eps, 1 - eps).double()
    found = inside.log() - torch.log1p(-inside) if domain == "unit" else inside.log()
    return torch.where((part >= -eps) & (part <= 1 + eps), found, torch.nan)
