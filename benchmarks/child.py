"""One measurement of one contender: `python -m benchmarks.child`."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .cases import find
from .problem import load
from .process import answer, baseline_bytes, cpu_seconds, peak_bytes


@dataclass(frozen=True)
class Measured:
    """What a child reports.

    Attributes:
        cpu: user and system milliseconds an iteration, over all threads.
        wall: milliseconds an iteration on the clock.
        set_up: milliseconds of CPU of the first run beyond the cost of one like it: planning, for us.
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


def measure(case: str, contender: str, folder: Path, dtype: str, few: int, many: int) -> Measured:
    """Fit for `few` and for `many` iterations; the difference is free of whatever is done once."""
    make = find(case).contenders[contender]
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
    parser.add_argument("case")
    parser.add_argument("contender")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--few", type=int)
    parser.add_argument("--many", type=int)
    asked = parser.parse_args()
    case = find(asked.case)
    if asked.make:
        case.make().save(asked.folder)
        answer({})
        return
    few, many = asked.few or case.few, asked.many or case.many
    try:
        answer(asdict(measure(asked.case, asked.contender, asked.folder, asked.dtype, few, many)))
    except ImportError as error:
        answer({"missing": str(error)})


if __name__ == "__main__":
    main()
