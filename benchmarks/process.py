"""A process for every measurement: how it is started, and what it can say of its own time and memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
ROOT = Path(__file__).parent.parent
LIMIT = 600.0
"""Seconds on the clock after which a measurement is given up."""


def call(module: str, *arguments: str, threads: int = 1) -> dict[str, Any]:
    """Run `python -m module arguments` on a number of threads and read the JSON on the last line it prints.

    The libraries read the environment when they are imported, hence a process each. One that fails returns
    `{"failed": the last line of its error}`.
    """
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"failed: not done after {LIMIT:g} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"failed": f"failed: {last[:200]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def answer(found: dict[str, Any]) -> None:
    """Print what `call` reads."""
    sys.stdout.write(json.dumps(found) + "\n")


def cpu_seconds() -> float:
    """User and system time of this process, over all its threads."""
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


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions; no names of hosts or people."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    def field(path: str, key: str) -> str:
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            return ""
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")

    versions = {"python": platform.python_version()}
    for name in (
        "em-pyro",
        "torch",
        "pyro-ppl",
        "numpy",
        "scikit-learn",
        "pomegranate",
        "hmmlearn",
        "stepmix",
        "mixle",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    total = field("/proc/meminfo", "MemTotal").split()
    return {
        "processor": field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(total[0]) / 2**20) if total else None,
        "load": [round(x, 1) for x in os.getloadavg()],
        "date": date.today().isoformat(),
        "versions": versions,
    }
