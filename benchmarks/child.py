"""One measurement in a process of its own: `python -m benchmarks.child`. Prints one line of JSON.

Its environment (threads) is set by the parent, because the libraries read it when they are imported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .cases import CASES
from .problem import load


@dataclass(frozen=True)
class Measured:
    """What a child reports; times are milliseconds an iteration.

    Attributes:
        cpu: user and system time, over all threads.
        wall: time on the clock.
        set_up: milliseconds of CPU of the first run beyond what its iterations cost: planning, for us.
        planning: what the plan says of itself, in seconds.
        memory: peak beyond the data and the imported libraries, in MiB.
        log_likelihood: after `many` iterations.
        plan: the printed plan.
    """

    cpu: float
    wall: float
    set_up: float
    planning: float | None
    memory: float
    log_likelihood: float
    plan: str


def cpu_seconds() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_bytes() -> int:
    """High-water mark of resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def baseline_bytes() -> int:
    """Forget the high-water mark where the system lets us (Linux), and return resident memory now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_bytes()


def measure(case: str, contender: str, folder: Path, dtype: str, few: int, many: int) -> Measured:
    """Fit for `few` and for `many` iterations; the difference is free of whatever is done once."""
    make = CASES[case].contenders[contender]
    problem = load(folder, np.dtype(dtype))
    make(problem.head(1000))(1)  # imports, thread pools, lazy initialisation
    run = make(problem)
    baseline = baseline_bytes()
    began = cpu_seconds()
    run(few)
    first = cpu_seconds() - began
    marks = [(cpu_seconds(), time.perf_counter())]
    for iterations in (few, many):
        result = run(iterations)
        marks.append((cpu_seconds(), time.perf_counter()))
    (c0, w0), (c1, w1), (c2, w2) = marks
    steps = many - few
    cpu, wall = ((c2 - c1) - (c1 - c0)) / steps, ((w2 - w1) - (w1 - w0)) / steps
    return Measured(
        1e3 * cpu,
        1e3 * wall,
        1e3 * (first - (c1 - c0)),
        result.planning,
        (peak_bytes() - baseline) / 2**20,
        result.log_likelihood,
        result.plan,
    )


def main() -> None:
    """Measure, or with `--make` draw the problem and store it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("contender")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--few", type=int)
    parser.add_argument("--many", type=int)
    asked = parser.parse_args()
    case = CASES[asked.case]
    if asked.make:
        case.make().save(asked.folder)
        return
    try:
        found = asdict(
            measure(
                asked.case, asked.contender, asked.folder, asked.dtype, asked.few or case.few, asked.many or case.many
            )
        )
    except ImportError as error:
        found = {"missing": str(error)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
