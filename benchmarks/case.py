"""A row of the table: a problem, and who fits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .ours import Contender, Run
from .problem import Problem


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        title: what is fitted, for a reader.
        make: draws the problem.
        few: iterations of the shorter run.
        many: iterations of the longer one; a time is the difference over `many - few`.
        contenders: by name; the first is ours.
        target: how many times faster than the peer named with it, in CPU time.
        quick: part of `--quick`.
        tolerance: of the log-likelihoods, relative; None where the peer's model is not quite the same.
    """

    title: str
    make: Callable[[], Problem]
    few: int
    many: int
    contenders: Mapping[str, Contender] = field(repr=False)
    target: tuple[str, float] | None = None
    quick: bool = False
    tolerance: float | None = 1e-9


def missing(name: str) -> Contender:
    """A peer of which there is no Python package to call."""

    def refuse(problem: Problem) -> Run:
        raise ImportError(name)

    return refuse
