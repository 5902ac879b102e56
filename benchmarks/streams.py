"""Rows from a memory map against rows in memory: time a row, and memory beside the interpreter's.

`python -m benchmarks.streams --rows 20000000 --batch 250000`, which takes minutes. Five Normals with diagonal
covariances in ten dimensions are mixed, plain steps, one thread. Every side runs in a process of its own; memory is
`RssAnon` of Linux, of pages that no file backs, at its largest during the whole fit, less what it was before the data
were opened. A map is opened copy-on-write, so that its pages are handed on as they are, or read-only, so that every
batch is copied.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM

K, D = 5, 10
STEPS = 5
SIDES = ("in memory", "streamed", "streamed, copied")


def mixture(x: Tensor) -> None:
    """Mix Normals with diagonal covariances."""
    weights = pyro.param("weights", torch.ones(K) / K, constraint=constraints.simplex)
    loc = pyro.param("loc", torch.randn(K, D, generator=torch.Generator().manual_seed(1)))
    scale = pyro.param("scale", torch.ones(K, D), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=x)


def write(path: Path, rows: int) -> None:
    """Draw the data into a file, a part at a time."""
    data = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(rows, D))
    generator = np.random.default_rng(0)
    centres = generator.normal(0, 2, (K, D))
    for start in range(0, rows, 100_000):
        size = min(100_000, rows - start)
        data[start : start + size] = generator.normal(centres[generator.integers(0, K, size)], 1.0)
    data.flush()


def anonymous() -> float:
    """Return the pages of this process that no file backs, in MiB."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


class Watch(threading.Thread):
    """Notes the largest `anonymous` while it is open."""

    def __init__(self) -> None:
        """Begin with what there is."""
        super().__init__(daemon=True)
        self.before, self.most, self.open = anonymous(), 0.0, True

    def run(self) -> None:
        """Look every twenty milliseconds."""
        while self.open:
            self.most = max(self.most, anonymous())
            time.sleep(0.02)


def side(name: str, path: Path, batch: int) -> dict[str, float]:
    """Take some steps and measure."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    mapped = np.load(path, mmap_mode="r" if name == "streamed, copied" else "c")
    rows = len(mapped)
    EM(mixture, tol=0, max_steps=1, acceleration=None).fit(torch.from_numpy(np.array(mapped[:1000])))  # warm
    pyro.clear_param_store()
    times: list[float] = []

    def read() -> Iterator[np.ndarray]:
        yield from (mapped[start : start + batch] for start in range(0, rows, batch))

    watch = Watch()
    watch.start()
    em = EM(
        mixture, tol=0, max_steps=STEPS + 1, acceleration=None, collapse=False,
        callback=lambda _: times.append(time.process_time()),
    )  # fmt: skip
    fit = em.fit(torch.from_numpy(np.array(mapped))) if name == "in memory" else em.fit_stream(read)
    watch.open = False
    watch.join()
    each = sorted(after - before for before, after in zip(times, times[1:], strict=False))[STEPS // 2]
    return {"ns": 1e9 * each / rows, "MiB": watch.most - watch.before, "objective": fit.objective}


def compare(rows: int = 20_000_000, batch: int = 250_000) -> dict[str, Any]:
    """Write the data, and run both sides."""
    found: dict[str, Any] = {"rows": rows, "batch": batch, "mebibytes": 8 * rows * D / 2**20}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        write(path, rows)
        for name in SIDES:
            command = [sys.executable, "-m", "benchmarks.streams", "--side", name, str(path), str(batch)]
            found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--batch", type=int, default=250_000)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        name, path, batch = options.side
        print(json.dumps(side(name, Path(path), int(batch))))
        return
    found = compare(options.rows, options.batch)
    print(f"{options.rows} rows x {D}, {found['mebibytes']:.0f} MiB, batches of {options.batch}")
    for name in SIDES:
        print(
            f"{name:>16}: {found[name]['ns']:6.0f} ns a row and step, {found[name]['MiB']:6.0f} MiB, "
            f"objective {found[name]['objective']:.6f}"
        )


if __name__ == "__main__":
    main()
