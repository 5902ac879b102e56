"""The same models on a CUDA device: `python -m benchmarks.device [--only NAME ...]`. Prints JSON.

The data are on the device, and the models make their parameters there. Times are milliseconds an iteration on the
clock, between synchronisations, as the difference between a long and a short fit. The log-likelihood is compared with
that of the CPU on the same problem.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from .cases import CASES, Case
from .ours import Run
from .problem import Problem

NAMES = (
    "gmm_10k",
    "gmm_100k",
    "gmm_1m",
    "gmm_wide",
    "diag_100k",
    "diag_1m",
    "coins",
    "classes",
    "hmm_site",
    "hmm_long",
)


def on(device: str) -> Callable[[Problem], Problem]:
    """Return a function that moves a problem's arrays to a device, as tensors."""
    import torch

    def move(problem: Problem) -> Problem:
        rows, start = (
            {name: torch.as_tensor(array).to(device) for name, array in part.items()}
            for part in (problem.rows, problem.start)
        )
        return Problem(rows, start)  # type: ignore[arg-type]

    return move


def measure(case: Case, device: str, problem: Problem, *, rounds: int, reference: float | None) -> dict[str, Any]:
    """Time one case; `reference` is the CPU's log-likelihood, if it has been computed."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    moved = on(device)(problem)
    held = torch.cuda.memory_allocated()
    run = case.contenders["em_pyro"](moved)
    began = time.perf_counter()
    first = run(case.few)
    torch.cuda.synchronize()
    set_up = time.perf_counter() - began
    times = []
    for _ in range(rounds):
        marks = [time.perf_counter()]
        for iterations in (case.few, case.many):
            result = run(iterations)
            torch.cuda.synchronize()
            marks.append(time.perf_counter())
        times.append(1e3 * ((marks[2] - marks[1]) - (marks[1] - marks[0])) / (case.many - case.few))
    return {
        "title": case.title,
        "dtype": str(next(iter(problem.rows.values())).dtype),
        "milliseconds": median(times),
        "range": [min(times), max(times)],
        "set_up_seconds": set_up,
        "planning_seconds": first.planning,
        "peak_mib_beyond_data": (torch.cuda.max_memory_allocated() - held) / 2**20,
        "log_likelihood": result.log_likelihood,
        "apart_from_cpu": None if reference is None else abs(result.log_likelihood / reference - 1),
    }


def main() -> None:
    """Run the cases; say so if there is no CUDA device."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--dtypes", nargs="+", choices=["float64", "float32"], default=["float64", "float32"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-check", action="store_true", help="do not run the same fit on the CPU")
    asked = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.stdout.write(json.dumps({"unavailable": f"no CUDA device for torch {torch.__version__}"}) + "\n")
        return
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cases": {}}
    for name in asked.only:
        case = CASES[name]
        problem = case.make()
        reference = None if asked.no_check else _cpu(case, problem)
        for dtype in asked.dtypes:
            parts = (problem.rows, problem.start)
            typed = Problem(*({k: v.astype(np.dtype(dtype)) for k, v in part.items()} for part in parts))
            try:
                row = measure(case, "cuda", typed, rounds=asked.rounds, reference=reference)
            except Exception as error:  # noqa: BLE001 - one case that fails must not cost the others
                row = {"title": case.title, "dtype": dtype, "failed": f"{type(error).__name__}: {error}"[:400]}
            found["cases"][f"{name} {dtype}"] = row
            sys.stderr.write(f"{name} {dtype}: {row.get('milliseconds', row.get('failed'))}\n")
            torch.cuda.empty_cache()
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def _cpu(case: Case, problem: Problem) -> float:
    run: Run = case.contenders["em_pyro"](problem)
    return run(case.many).log_likelihood


if __name__ == "__main__":
    main()
