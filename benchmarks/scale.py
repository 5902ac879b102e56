"""The scale law: cost of an iteration and memory beyond the data, against rows and against components."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .race import race

ROWS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
COMPONENTS = (2, 5, 10, 20, 40)
D, K, N = 10, 10, 100_000
WORK = 4e6
"""Rows times iterations that are timed, about two seconds."""


def sweep(*, quick: bool = False, rounds: int = 1) -> dict[str, Any]:
    """Measure over rows (to 100,000 if `quick`, else 10 million) and over components.

    Sizes that would need more than half the memory that is free, as the last one grew, are left out and named.
    """
    by_rows: list[dict[str, Any]] = []
    left_out: list[int] = []
    for n in ROWS[: 3 if quick else None]:
        if by_rows and _foreseen(by_rows[-1]["memory"], n) > _free():
            left_out.append(n)
            continue
        by_rows.append(_point(n, K, rounds) | {"data": n * D * 8 / 2**20})
    by_components = [_point(N, k, rounds) for k in (COMPONENTS[:3] if quick else COMPONENTS)]
    return {"D": D, "K": K, "N": N, "rows": by_rows, "components": by_components, "left_out": left_out}


def _point(n: int, k: int, rounds: int) -> dict[str, Any]:
    steps = int(min(1000, max(4, WORK / n * K / k)))
    row = race(f"scale:{n}:{D}:{k}", rounds=rounds, two=False, iterations=(2, 2 + steps))[0]
    if row.absent:
        raise RuntimeError(f"{n} rows: {row.absent}")
    return {"n": n, "K": k, "cpu": row.cpu, "memory": max(row.memory, 0.0), "planning": row.planning}


def _foreseen(memory: float, n: int) -> float:
    """MiB if memory grew by ten, with twice the data (drawing it needs as much again)."""
    return 10 * memory + 2 * n * D * 8 / 2**20


def _free() -> float:
    """Half of the physical memory, in MiB."""
    return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope(points: list[dict[str, Any]], key: str) -> float:
    """Growth exponent of the cost between the two largest sizes."""
    from math import log

    a, b = points[-2], points[-1]
    return log(b["cpu"] / a["cpu"]) / log(b[key] / a[key])


def draw(found: dict[str, Any], path: Path) -> None:
    """Three panels: cost against rows, memory against rows, cost against components."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (cost, memory, components) = plt.subplots(1, 3, figsize=(11, 3.4), constrained_layout=True)
    rows, parts = found["rows"], found["components"]
    for axes, points, key in ((cost, rows, "n"), (components, parts, "K")):
        at, ms = [p[key] for p in points], [p["cpu"] for p in points]
        axes.loglog(at, ms, "o-", color="C0", label="measured")
        axes.loglog(at, [ms[-1] * a / at[-1] for a in at], ":", color="0.5", label="linear")
        axes.set_ylabel("CPU milliseconds an iteration")
        axes.legend(frameon=False)
    cost.set(xlabel="rows", title=f"{found['D']} columns, {found['K']} components")
    components.set(xlabel="components", title=f"{found['N']:,} rows, {found['D']} columns")
    components.set_xticks([p["K"] for p in parts], [str(p["K"]) for p in parts])
    components.minorticks_off()
    at = [p["n"] for p in rows]
    memory.loglog(at, [max(p["memory"], 0.1) for p in rows], "o-", color="C0", label="beyond the data")
    memory.loglog(at, [p["data"] for p in rows], ":", color="0.5", label="the data")
    memory.set(xlabel="rows", ylabel="MiB", title="peak memory")
    memory.legend(frameon=False)
    for axes in (cost, memory, components):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def run(folder: Path, *, quick: bool = False) -> dict[str, Any]:
    """Measure, and write `scale.json` and `scale.png`."""
    found = sweep(quick=quick)
    (folder / "scale.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, folder / "scale.png")
    return found
