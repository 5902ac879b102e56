"""The records that a path is made of, in a file; and what is found out again, because it is in none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ... import files
from ...e_step.expectation import Expectation
from ...m_step.ascent.adam import Moments
from ...m_step.ascent.partial import Curvature, Pairs
from ...m_step.ascent.pattern import Pattern
from ..acceleration.accelerated import Accelerated
from ..acceleration.quasi_newton import QuasiNewton, Reached, reached
from ..acceleration.secants import Secants
from ..acceleration.squarem import Squarem
from ..look import Look
from ..path import Path
from ..problem import Problem

LEFT_OUT = ("found", "findings")  # an E-step, and a look at the end of a path

KINDS: Mapping[str, Any] = {
    kind.__name__: kind
    for kind in (Path, Look, Accelerated, Squarem, QuasiNewton, Secants, Moments, Curvature, Pairs, Pattern)
} | {"Reached": partial(Reached, found=Expectation(torch.zeros(1), {}, {}))}
"""Every record that may be in a file, by name."""


def laid_out(value: Any) -> Any:
    """Lay out paths, and what is in them."""
    return files.laid_out(value, LEFT_OUT)


def taken_up(laid: Any, device: torch.device) -> Any:
    """Return what was laid out, its tensors on a device."""
    return files.taken_up(laid, KINDS, device)


def revived(problem: Problem, path: Path) -> Path:
    """Take the E-step of a quasi-Newton path again at the point from which it goes on: its sums are in no file."""
    spent = path.spent
    if not isinstance(spent, QuasiNewton):
        return path
    known = [_again(problem, at) if at and at.here is path.here else at for at in (spent.at, spent.ahead)]
    return path._replace(spent=replace(spent, at=known[0], ahead=known[1]))


def _again(problem: Problem, at: Reached) -> Reached:
    problem.bind(at.here).plain = at.plain
    return replace(at, found=reached(problem, at.here).found)
