"""Weak scaling: as many rows in every process, one process after another more.

`python -m benchmarks.weak --rows 500000`. The mixture of `benchmarks.streams`, plain steps, one thread a process, gloo
on one machine. Wall and CPU time of a step are medians, the largest of any process. Where other things run on the same
cores wall time is theirs too; what the library adds is in the CPU time, and in the bytes of a reduction.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from em_pyro import EM

from .streams import D, K, mixture

STEPS = 9


def rows(rank: int, many: int) -> Tensor:
    """Draw the share of one process."""
    generator = torch.Generator().manual_seed(rank)
    centres = 2 * torch.randn(K, D, generator=torch.Generator().manual_seed(9))
    return centres[torch.randint(0, K, (many,), generator=generator)] + torch.randn(many, D, generator=generator)


def side(rank: int, size: int, file: str, many: int) -> dict[str, float]:
    """Take some steps as one of `size` processes."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    times: list[tuple[float, float]] = []
    sent: list[int] = []
    reduce = distributed.all_reduce

    def counted(vector: Tensor, **options: Any) -> object:
        sent.append(vector.numel() * vector.element_size())
        return reduce(vector, **options)

    distributed.all_reduce = counted
    em = EM(
        mixture, tol=0, max_steps=STEPS + 1, acceleration=None, collapse=False, check=False,
        process_group=distributed.group.WORLD,
        callback=lambda _: times.append((time.perf_counter(), time.process_time())),
    )  # fmt: skip
    fit = em.fit(rows(rank, many))
    distributed.barrier()
    apart = [sorted(b[k] - a[k] for a, b in zip(times, times[1:], strict=False)) for k in (0, 1)]
    wall, cpu = (part[len(part) // 2] for part in apart)
    return {"wall": 1e3 * wall, "cpu": 1e3 * cpu, "bytes": max(sent), "objective": fit.objective}


def compare(many: int = 500_000, most: int = 2) -> list[dict[str, float]]:
    """Run one process and then more."""
    every = []
    for size in range(1, most + 1):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.weak", "--rows", str(many), "--side"]
            file = str(Path(folder) / "group")
            started = [
                subprocess.Popen([*command, str(rank), str(size), file], stdout=subprocess.PIPE, text=True)
                for rank in range(size)
            ]
            found = [json.loads(process.communicate()[0]) for process in started]
        worst = {key: max(one[key] for one in found) for key in ("wall", "cpu", "bytes")}
        every.append({"processes": size, "rows": many, **worst})
    return every


def main() -> None:
    """Compare, and print a line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--most", type=int, default=2)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        rank, size, file = options.side
        print(json.dumps(side(int(rank), int(size), file, options.rows)))
        sys.stdout.flush()
        os._exit(0)
    for found in compare(options.rows, options.most):
        print(
            f"{found['processes']} processes of {found['rows']} rows: {found['wall']:.1f} ms a step, "
            f"{found['cpu']:.1f} ms of CPU, {found['bytes']:.0f} bytes a reduction"
        )


if __name__ == "__main__":
    main()
