"""Agreement of the objective with an EM that somebody else derived by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..fit.problem import Problem
from ..fit.step import em_step
from ..program.named import batched, only

STEPS = 20


def agreement(here: Problem, start: Mapping[str, Tensor], analytic: Callable[[Mapping[str, Tensor], int], Any]) -> str:
    """Follow both from `start` for some steps, and say how far apart they were at most."""
    theirs = analytic(dict(start), STEPS)
    levels = torch.as_tensor(getattr(theirs, "log_likelihood", theirs), dtype=torch.float64)
    paths = dict(getattr(theirs, "params", {}))
    batch, apart, moved = batched({name: value.double() for name, value in start.items()}), 0.0, 0.0
    for step, level in enumerate(levels.tolist()):
        params = only(batch)
        for name in paths.keys() & params.keys():
            there = torch.as_tensor(paths[name][step], dtype=torch.float64)
            moved = max(moved, float((there - params[name]).abs().max()))
        batch, found = em_step(here, batch)
        apart = max(apart, abs(float(found.objective) - level))
    text = f"Independent analytic EM: {len(levels) - 1} steps from start 0, objectives at most {apart:.1e} nats apart"
    return f"{text}, parameters {moved:.1e}." if paths else f"{text}."
