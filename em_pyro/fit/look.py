"""The one look at the device in a step: the numbers that decide how to go on."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch

from ..e_step.expectation import Expectation
from ..program.named import Batch
from .problem import Problem


@dataclass(frozen=True)
class Look:
    """The numbers of a step that decide how to go on, one for each start.

    Attributes:
        objective: log evidence plus log prior where the step began.
        blurred: whether the sums of the step have too few digits where it leads.
        stepped: whether there was a step.
        narrowest: the smallest scale where it leads, in units of the spread of its site.
    """

    objective: list[float]
    blurred: list[bool]
    stepped: list[bool]
    narrowest: list[float]


def look(problem: Problem, found: Expectation, batch: Batch, new: Batch) -> Look:
    """Fetch the numbers of the step from `batch` to `new` in one transfer; asked again, from memory."""
    last = problem.looks
    if last and last[0] is found and last[1] is new:
        seen: Look = last[2]
        return seen
    bound, near, starts = problem.bind(batch), problem.bind(new), len(found.log_evidence)
    short = problem.engine.digits(bound, near)
    scales = [part.reshape((starts, -1)).amin(-1) for part in problem.scales.narrowest(near)]
    # Where there are no scales, an entry of a parameter says whether there was a step.
    others = scales or [new[name].reshape((starts, -1)).select(1, 0) for name in problem.witness]
    objective, *found_of = torch.stack([found.objective, *(() if short is None else short), *others]).tolist()
    blurred, narrow = found_of[:2] if short is not None else ([0.0] * starts, [0.0] * starts)
    numbers = list(zip(*found_of[0 if short is None else 2 :], strict=True))
    stepped = [all(value == value for value in values) for values in numbers] or [True] * starts
    seen = Look(
        objective,
        [value > 1 and there for value, there in zip(blurred, stepped, strict=True)],
        stepped,
        [min(values) for values in numbers] if scales else [inf] * starts,
    )
    near.plain = not any(value > 1 for value in narrow)
    last[:] = [found, new, seen]
    return seen
