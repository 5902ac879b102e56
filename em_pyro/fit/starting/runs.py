"""The starts of a fit: how each ended, how many of them differ, and how many different maxima they found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ...program.named import Params

ALIKE = 1e-9  # of the largest entry of a parameter, over all starts: starts no further apart are one
SAME_MAXIMUM = 1e-6  # relative to 1 + |objective|: starts that end so close together have found the same


@dataclass(frozen=True)
class Start:
    """One of the starts of a fit; one that begins where an earlier one did is not followed again, and has its numbers.

    Attributes:
        index: its place.
        objective: where it ended.
        outcome: a named ending.
        num_steps: EM steps taken.
        repeats: the earlier start that began at the same values; None if there is none.
    """

    index: int
    objective: float
    outcome: str
    num_steps: int
    repeats: int | None = None


@dataclass(frozen=True)
class Starts:
    """All starts of a fit, in order; the best of them gave the answer.

    Attributes:
        runs: all of them.
        best: the index of the best.
        found: how many different starts reached its objective.
    """

    runs: tuple[Start, ...]
    best: int
    found: int

    def __len__(self) -> int:
        """Return the number of starts."""
        return len(self.runs)

    def __getitem__(self, index: int) -> Start:
        """Return one start."""
        return self.runs[index]

    def __iter__(self) -> Iterator[Start]:
        """Go through the starts in order."""
        return iter(self.runs)

    @property
    def different(self) -> tuple[Start, ...]:
        """Those that began at values of their own."""
        return tuple(run for run in self.runs if run.repeats is None)

    @property
    def maxima(self) -> int:
        """How many different maxima were seen: objectives of starts that converged, those within 1e-6 taken as one.

        Relative to `1 + |objective|`. Maxima that differ by their labels alone are one; so are any two equally high.
        """
        levels = sorted(run.objective for run in self.different if run.outcome in ("converged", "settled"))
        apart = sum(high - low > SAME_MAXIMUM * (1 + abs(high)) for low, high in pairwise(levels))
        return apart + bool(levels)

    def __str__(self) -> str:
        """Say how many starts there were, how many reached the best, and how many different maxima were seen."""
        outcomes = [run.outcome for run in self.different]
        screened, number = outcomes.count("screened out"), len(self.runs)
        others = len(outcomes) - screened - sum(outcomes.count(end) for end in ("converged", "settled", "averaged"))
        differ = f" ({len(outcomes)} different)" if len(outcomes) < number else ""
        maxima = (
            f"{self.maxima} different maxima" if self.maxima > 1 else "one maximum" if self.maxima else "no maximum"
        )
        parts = [f"best of {number} start{'s' * (number > 1)}{differ}, found by {self.found}, {maxima}"]
        parts += [f"{others} did not converge"] if others else []
        parts += [f"{screened} were screened out"] if screened else []
        return "; ".join(parts)


def repeated(points: Sequence[Params]) -> dict[int, int]:
    """Return the starts that begin where an earlier one does, each with that one."""
    if len(points) < 2:
        return {}
    rows = []
    for name in points[0]:
        values = torch.stack([point[name].double().flatten() for point in points])
        largest = torch.where(torch.isfinite(values), values.abs(), 0.0).max() if values.numel() else 1.0
        rows.append(values / largest)
    places, first, found = torch.cat(rows, 1).nan_to_num(), list[int](), dict[int, int]()
    for i, place in enumerate(places):
        alike = ((places[first] - place).abs() <= ALIKE).all(-1).nonzero()[:, 0].tolist()
        if alike:
            found[i] = first[alike[0]]
        else:
            first.append(i)
    return found
