"""The starts of a fit: how each ended, how many of them differ, and which different maxima they found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ...program.named import Params
from ...records.shown import Shown

ALIKE = 1e-9  # of the largest entry of a parameter, over all starts: starts no further apart are one
DIFFERS = 1e-3  # of the largest entry of a parameter: entries no further apart are those of the same maximum
SHOWN = 5  # maxima below the best that are printed
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
class Maximum:
    """One of the maxima that starts have found.

    Attributes:
        objective: the highest of its starts.
        starts: which starts ended there, those left out that began at the values of others.
        below: nats below the highest maximum.
        differs: parameters whose entries are not those of the highest maximum, whatever their order, by a thousandth of
            the largest at least; what differs most comes first.
    """

    objective: float
    starts: tuple[int, ...]
    below: float
    differs: tuple[str, ...]

    def __str__(self) -> str:
        """Say how far below the highest it is, how many starts found it, and what differs."""
        what = ", ".join(self.differs) or "no entry by a thousandth"
        return f"{self.below:.4g} nats lower: found by {len(self.starts)}; what differs: {what}"


@dataclass(frozen=True)
class Starts(Shown):
    """All starts of a fit, in order; the best of them gave the answer.

    Attributes:
        runs: all of them.
        best: the index of the best.
        found: how many different starts reached its objective.
        local_maxima: the different maxima at which starts have converged, the highest first.
    """

    runs: tuple[Start, ...]
    best: int
    found: int
    local_maxima: tuple[Maximum, ...] = ()

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
        return len(_together(self.different))

    def __str__(self) -> str:
        """Say how many starts there were, how many reached the best, and which other maxima were seen."""
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
        lower = [f"  {one}" for one in self.local_maxima[1 : SHOWN + 1]]
        more = len(self.local_maxima) - 1 - SHOWN
        lower += [f"  and {more} more, down to {self.local_maxima[-1].objective:.6f}"] if more > 0 else []
        return "\n".join(["; ".join(parts), *lower])


def local_maxima(runs: Sequence[Start], params: Sequence[Params]) -> tuple[Maximum, ...]:
    """Tell the maxima apart at which starts have converged, the highest first.

    Args:
        runs: all starts.
        params: where each of them ended.
    """
    groups = _together([run for run in runs if run.repeats is None])
    if not groups:
        return ()
    top = groups[0][0]
    return tuple(
        Maximum(
            group[0].objective,
            tuple(sorted(run.index for run in group)),
            top.objective - group[0].objective,
            _differing(params[top.index], params[group[0].index]) if k else (),
        )
        for k, group in enumerate(groups)
    )


def _together(runs: Sequence[Start]) -> list[list[Start]]:
    """Put starts together that converged equally high, the highest first: each is next to another one of its group."""
    ended = sorted((run for run in runs if run.outcome in ("converged", "settled")), key=lambda run: -run.objective)
    groups = [ended[:1]] if ended else []
    for above, run in pairwise(ended):
        if above.objective - run.objective > SAME_MAXIMUM * (1 + abs(above.objective)):
            groups.append([])
        groups[-1].append(run)
    return groups


def _differing(one: Params, other: Params) -> tuple[str, ...]:
    """Name the parameters that have other entries in whatever order, what differs most first."""
    apart = dict[str, float]()
    for name in one:
        both = torch.stack([values[name].double().flatten().nan_to_num().sort().values for values in (one, other)])
        apart[name] = float((both[0] - both[1]).abs().max() / both.abs().max()) if both.count_nonzero() else 0.0
    return tuple(sorted((name for name in apart if apart[name] > DIFFERS), key=lambda name: -apart[name]))


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
