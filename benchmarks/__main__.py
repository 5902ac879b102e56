"""Run the table: `python -m benchmarks [--quick] [--only NAME ...]`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import coverage, information, iterations, passes, published, restarts, scale, streams, svi, weak, whole
from .cases import CASES
from .process import machine
from .race import DisagreementError, Row, race
from .report import report, updated

HERE = Path(__file__).parent
DRAWS = 5  # of the race with SVI
OTHERS = (
    "svi", "restarts", "iterations", "published", "scale", "float32", "whole", "information", "coverage", "streams",
    "passes", "weak",
)  # fmt: skip
SINGLE = ("gmm_10k", "gmm_100k", "gmm_1m", "gmm_wide", "diag_100k", "diag_1m", "coins", "classes")


def main() -> None:
    """Parse, measure, and write `results.json` and `RESULTS.md` (elsewhere with `--out`)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small cases, once each: about a minute")
    parser.add_argument("--only", nargs="+", choices=[*CASES, *OTHERS], metavar="NAME", help="some of the cases")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each contender")
    parser.add_argument("--out", type=Path, help="folder for the results; only a full run writes beside the code")
    parser.add_argument("--update", action="store_true", help="put the cases of --only into the results there")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    asked = parser.parse_args()
    if asked.list:
        for name in (*CASES, *OTHERS):
            _say(f"{name:14s} {CASES[name].title if name in CASES else ''}")
        return
    rounds = 1 if asked.quick else asked.rounds
    folder = asked.out or (HERE if asked.update or not (asked.quick or asked.only) else None)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine(), "quick": asked.quick, "rows": [], "refused": []}
    names = asked.only or [n for n, c in CASES.items() if c.quick or not asked.quick]
    for name in names:
        if name in CASES:
            _table(found, name, rounds, two=not asked.quick)
    others = asked.only or (() if asked.quick else OTHERS)
    if "float32" in others:
        for name in SINGLE:
            _table(found, name, rounds, two=False, dtype="float32")
    if "restarts" in others:
        found["restarts"] = restarts.compare()
    if "iterations" in others:
        found["iterations"] = iterations.compare()
    if "svi" in others:
        found["svi"] = [svi.compare(10_000, 2, 3, draw=draw) for draw in range(DRAWS)]
        found["svi"].append(svi.compare(100_000, 10, 10, limit=240.0))
    if "published" in others:
        found["published"] = published.compare(quick=asked.quick)
    if "scale" in others:
        found["scale"] = scale.run(folder or Path(), quick=asked.quick)
    if "coverage" in others:
        found["coverage"] = coverage.compare()
    if "whole" in others:
        found["whole"] = whole.compare()
    if "information" in others:
        found["information"] = information.compare()
    if "streams" in others:
        found["streams"] = streams.compare()
    if "passes" in others:
        found["passes"] = passes.compare()
    if "weak" in others:
        found["weak"] = weak.compare()
    if asked.update and folder:
        found = updated(json.loads((folder / "results.json").read_text()), found, names)
    page = report(found)
    _say("\n" + page)
    if folder:
        (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        (folder / "RESULTS.md").write_text(page)


def _table(found: dict[str, Any], name: str, rounds: int, *, two: bool, dtype: str = "float64") -> None:
    """Race one case; keep its rows, or why they are not believed."""
    try:
        rows = race(name, rounds=rounds, two=two, dtype=dtype)
    except (DisagreementError, RuntimeError) as why:
        found["refused"].append(str(why))
        _say(str(why))
        return
    if dtype == "float32":
        _against_double(found, rows)
    for row in rows:
        found["rows"].append(asdict(row))
        tail = row.absent or f"{row.cpu:10.3f} ms  {row.memory:7.1f} MiB  {row.log_likelihood:.9g}"
        _say(f"{name:14s} {dtype} {row.contender:20s} {tail}")


def _against_double(found: dict[str, Any], rows: list[Row]) -> None:
    """Error of a float32 log-likelihood: against our float64 one, where that has been measured."""
    for row in rows:
        for other in found["rows"]:
            if (other["case"], other["dtype"], other["contender"]) == (row.case, "float64", "em_pyro"):
                row.error = abs(row.log_likelihood / other["log_likelihood"] - 1)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
