"""Contenders of a case in turn, round after round; medians, and agreement before any time is believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from .cases import CASES

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
SINGLE = 1e-6
"""Agreement asked of a float32 log-likelihood with the float64 one, relative."""


@dataclass
class Row:
    """One contender in one case: medians over rounds, and why it is not here if it is not.

    Attributes:
        cpu, wall, wall_two: milliseconds an iteration: CPU and clock on one thread, clock on two.
        range: of `cpu` over rounds.
        error: of the log-likelihood against the first contender's, relative.
    """

    case: str
    contender: str
    dtype: str = "float64"
    absent: str = ""
    cpu: float = float("nan")
    range: tuple[float, float] = (float("nan"), float("nan"))
    wall: float = float("nan")
    wall_two: float = float("nan")
    set_up: float = float("nan")
    planning: float | None = None
    memory: float = float("nan")
    log_likelihood: float = float("nan")
    error: float = 0.0
    plan: str = field(default="", repr=False)


@contextmanager
def stored(case: str) -> Iterator[Path]:
    """Draw a problem once, in a process of its own, and keep it in a temporary folder."""
    with TemporaryDirectory() as folder:
        _child(case, "-", folder, "--make")
        yield Path(folder)


def race(case: str, *, rounds: int = 3, dtype: str = "float64", two: bool = True, only: str = "") -> list[Row]:
    """Measure every contender of a case, interleaved.

    Raises:
        AssertionError: two contenders did not do the same work, or a child failed.
    """
    contenders = [c for c in CASES[case].contenders if not only or c == only]
    rows = {c: Row(case, c, dtype) for c in contenders}
    found: dict[str, list[dict[str, Any]]] = {c: [] for c in contenders}
    with stored(case) as folder:
        for turn in range(rounds + two):
            threads = 2 if turn == rounds else 1
            for contender, row in rows.items():
                if row.absent:
                    continue
                got = json.loads(_child(case, contender, str(folder), "--dtype", dtype, threads=threads))
                if "missing" in got:
                    row.absent = "not installed" if contender != "em_pyro" else got["missing"]
                elif "failed" in got:
                    row.absent = got["failed"]
                elif threads == 2:
                    row.wall_two = got["wall"]
                else:
                    found[contender].append(got)
    for contender, row in rows.items():
        if found[contender]:
            _summarise(row, found[contender])
    present = [row for row in rows.values() if not row.absent]
    agree(case, present)
    return list(rows.values())


def agree(case: str, rows: list[Row]) -> None:
    """Every log-likelihood must be the first contender's.

    Raises:
        AssertionError: with both values.
    """
    tolerance = CASES[case].tolerance
    for row in rows:
        row.error = abs(row.log_likelihood - rows[0].log_likelihood) / abs(rows[0].log_likelihood)
        if tolerance is not None and row.dtype == "float64" and not row.error <= tolerance:
            raise AssertionError(
                f"{case}: {row.contender} ends at {row.log_likelihood:.12g}, {rows[0].contender} at "
                f"{rows[0].log_likelihood:.12g}: not the same work."
            )


def _summarise(row: Row, found: list[dict[str, Any]]) -> None:
    cpu = [f["cpu"] for f in found]
    row.cpu, row.range = median(cpu), (min(cpu), max(cpu))
    row.wall, row.set_up = median(f["wall"] for f in found), median(f["set_up"] for f in found)
    row.memory = max(f["memory"] for f in found)
    row.log_likelihood, row.plan = found[0]["log_likelihood"], found[0]["plan"]
    planning = [f["planning"] for f in found]
    row.planning = None if planning[0] is None else median(planning)


def _child(*arguments: str, threads: int = 1) -> str:
    """Run `benchmarks.child` on a number of threads and return the last line it prints."""
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONWARNINGS": "ignore"}
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", *arguments],
        env=environment, cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if "--make" in arguments:
            raise AssertionError(last)
        return json.dumps({"failed": f"failed: {last[:200]}"})
    return (done.stdout.strip().splitlines() or [""])[-1]
