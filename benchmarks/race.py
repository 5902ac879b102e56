"""Contenders of a case in turn, round after round; medians, and agreement before any time is believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from .cases import find
from .process import call

NONE = float("nan")


class DisagreementError(AssertionError):
    """Two contenders did not do the same work."""


@dataclass
class Row:
    """One contender in one case: medians over rounds, or why it is not here.

    Attributes:
        cpu: milliseconds of user and system time an iteration, on one thread.
        range: of `cpu` over the rounds.
        wall: milliseconds on the clock, on one thread.
        wall_two: the same on two.
        set_up: milliseconds of CPU of the first run that are not iterations.
        planning: seconds that our plan took.
        memory: peak beyond the data, in MiB.
        error: of the log-likelihood against ours, relative.
    """

    case: str
    contender: str
    dtype: str = "float64"
    absent: str = ""
    cpu: float = NONE
    range: tuple[float, float] = (NONE, NONE)
    wall: float = NONE
    wall_two: float = NONE
    set_up: float = NONE
    planning: float | None = None
    memory: float = NONE
    log_likelihood: float = NONE
    error: float = 0.0
    plan: str = field(default="", repr=False)


@contextmanager
def stored(case: str) -> Iterator[Path]:
    """Draw a problem once, in a process of its own, and keep it in a temporary folder."""
    with TemporaryDirectory() as folder:
        found = call("benchmarks.child", case, "-", folder, "--make")
        if "failed" in found:
            raise RuntimeError(f"{case}: {found['failed']}")
        yield Path(folder)


def race(
    case: str, *, rounds: int = 3, dtype: str = "float64", two: bool = True, iterations: tuple[int, int] | None = None
) -> list[Row]:
    """Measure every contender of a case, interleaved.

    Args:
        case: name of a case.
        rounds: how often each is measured on one thread.
        dtype: of data and start.
        two: measure once on two threads as well.
        iterations: of the shorter and the longer run, if not the case's own.

    Raises:
        DisagreementError: two contenders did not do the same work.
    """
    rows = [Row(case, contender, dtype) for contender in find(case).contenders]
    found: dict[str, list[dict[str, Any]]] = {row.contender: [] for row in rows}
    steps = ("--few", str(iterations[0]), "--many", str(iterations[1])) if iterations else ()
    with stored(case) as folder:
        for turn in range(rounds + two):
            threads = 2 if turn == rounds else 1
            for row in rows:
                if row.absent:
                    continue
                command = (case, row.contender, str(folder), "--dtype", dtype, *steps)
                got = call("benchmarks.child", *command, threads=threads)
                if "failed" in got:
                    row.absent = got["failed"]
                elif "missing" in got:
                    row.absent = got["missing"] if row.contender == "em_pyro" else "not installed"
                elif threads == 2:
                    row.wall_two = got["wall"] if got["wall"] > 0 else NONE  # once: noise may be all there is
                else:
                    found[row.contender].append(got)
    for row in rows:
        if found[row.contender]:
            _summarise(row, found[row.contender])
    _agree(case, [row for row in rows if found[row.contender]])
    return rows


def _agree(case: str, rows: list[Row]) -> None:
    """Note by how much each contender's end differs from ours; a peer alone in that is left out, and says so.

    Raises:
        DisagreementError: nobody ends where we do.
    """
    tolerance = find(case).tolerance
    alone = []
    for row in rows:
        row.error = abs(row.log_likelihood / rows[0].log_likelihood - 1)
        if tolerance is not None and row.dtype == "float64" and not row.error <= tolerance:
            alone.append(row)
    if alone and len(alone) == len(rows) - 1:
        ends = ", ".join(f"{row.contender} {row.log_likelihood:.12g}" for row in rows)
        raise DisagreementError(f"{case}: not the same work, the log-likelihoods are {ends}.")
    for row in alone:
        row.absent = f"not the same work: its log-likelihood differs by {row.error:.1e}"


def _summarise(row: Row, found: list[dict[str, Any]]) -> None:
    cpu = [f["cpu"] for f in found]
    row.cpu, row.range = median(cpu), (min(cpu), max(cpu))
    if row.cpu <= 0:  # the longer run takes no more time than the shorter one
        row.absent = "stops by a rule of its own: no iteration can be timed"
    row.wall, row.set_up = median(f["wall"] for f in found), median(f["set_up"] for f in found)
    row.memory = max(f["memory"] for f in found)
    row.log_likelihood, row.plan = found[0]["log_likelihood"], found[0]["plan"]
    if found[0]["planning"] is not None:
        row.planning = median(f["planning"] for f in found)
