"""The answer of a race: a table, a figure and a file."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..fit.endings import BAD
from ..records.shown import Shown
from .lane import LEVELS, Lane, Point
from .picture import draw
from .verdict import Best

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Race(Shown):
    """What `compare` found. Print it; `plot()` and `to_csv(path)` show every step.

    Attributes:
        contenders: names, in the order given.
        lanes: every contender from every start.
        best: the best objective known, from which all others are measured, and how it was tested.
        starts: how many starts there were.
        budget_seconds: of each contender and start.
        threads: of torch, the same for all.
        dtype: of the model's parameters, the same for all.
        agreement: how far an independent analytic EM is from the objective, if one was given.
        plan_seconds: planning of the referee, charged to nobody.
        prior_density: of the objective, as in `EM`.
    """

    contenders: tuple[str, ...]
    lanes: tuple[Lane, ...] = field(repr=False)
    best: Best = field(repr=False)
    starts: int
    budget_seconds: float
    threads: int
    dtype: str
    agreement: str = ""
    plan_seconds: float = 0.0
    prior_density: str = "constrained"

    def of(self, contender: str) -> tuple[Lane, ...]:
        """All lanes of one contender, by start."""
        return tuple(lane for lane in self.lanes if lane.contender == contender)

    def reached(self, contender: str, nats: float) -> list[Point]:
        """Where each start first came within `nats` of the best known; those that did not are left out."""
        lanes = [lane for lane in self.of(contender) if lane.shares_objective and lane.ending not in BAD]
        level = self.best.objective - nats
        return [point for lane in lanes if (point := lane.first_within(level)) is not None]

    def __str__(self) -> str:
        """Lay out the tables: who got how close, what it cost, and who could not run."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        lines = [
            f"{self.starts} start{'s' * (self.starts > 1)}, {self.budget_seconds:g} s each, {threads}, {self.dtype} "
            f"parameters. The exact contenders sum in float64.",
            *(["Priors are densities of unconstrained coordinates."] if self.prior_density != "constrained" else []),
            str(self.best),
            *([self.agreement] if self.agreement else []),
            "",
            _table(self._distances()),
            "Starts that came within so many nats of the best known; of those, median steps (passes over the data)",
            "and seconds, set-up and first evaluation not counted.",
            "",
            _table(self._costs()),
            "E-steps and gradients: median of those that came within 0.001 nats. Set-up and first: the slowest.",
        ]
        return "\n".join([*lines, *self._remarks()])

    def plot(self) -> Figure:
        """Draw the nats still to go against seconds and against steps, a line a start; see `picture.draw`."""
        return draw(self.lanes, self.contenders, self.best.objective)

    def to_csv(self, path: str | Path) -> None:
        """Write a line for every point of every lane, and one for each contender that was not able to run."""
        columns = ["contender", "start", "step", "seconds", "objective", "nats_to_go", "e_steps", "gradients"]
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, "shares_objective", "setup_seconds", "first_seconds", "ending", "held_out"])
            for lane in self.lanes:
                held = "" if lane.held_out is None else repr(lane.held_out)
                tail = [lane.shares_objective, lane.setup_seconds, lane.first_seconds, lane.ending, held]
                if not lane.points:
                    writer.writerow([lane.contender, lane.start, *[""] * 6, *tail])
                for p in lane.points:
                    to_go = self.best.objective - p.objective if lane.shares_objective else ""
                    row = [p.step, f"{p.seconds:.6f}", repr(p.objective), to_go, p.e_steps, p.gradients]
                    writer.writerow([lane.contender, lane.start, *row, *tail])

    def _distances(self) -> list[list[str]]:
        """Lay out how high each contender came, and after how many steps and seconds how near."""
        held = any(lane.held_out is not None for lane in self.lanes)
        head = ["contender", "best objective", "to go"]
        for nats in LEVELS:
            head += [f"within {nats:g}", "steps", "s"]
        rows = [[*head, *(["held-out"] if held else [])]]
        for name in self.contenders:
            lanes = [lane for lane in self.of(name) if lane.points]
            sound = [lane for lane in lanes if lane.shares_objective and lane.ending not in BAD]
            row = [name]
            if sound:
                top = max(lane.best for lane in sound)
                row += [f"{top:.4f}", _nats(self.best.objective - top)]
                for nats in LEVELS:
                    there = self.reached(name, nats)
                    row += [f"{len(there)}/{self.starts}", _median(there, _step), _median(there, _seconds)]
            else:
                row += ["-"] * (2 + 3 * len(LEVELS))
            if held:
                row.append(_held_out(lanes))
            rows.append(row)
        return rows

    def _costs(self) -> list[list[str]]:
        """Lay out what each contender took on its way, and how its starts ended."""
        rows = [["contender", "E-steps", "gradients", "ms a step", "set-up s", "first s", "endings"]]
        for name in self.contenders:
            lanes = self.of(name)
            there = self.reached(name, LEVELS[-1])
            ran = [lane for lane in lanes if lane.points]
            speeds = [lane.ms_per_step for lane in ran if not math.isnan(lane.ms_per_step)]
            endings = {lane.ending: sum(other.ending == lane.ending for other in lanes) for lane in lanes}
            rows.append(
                [
                    name,
                    _median(there, lambda p: p.e_steps),
                    _median(there, lambda p: p.gradients),
                    f"{statistics.median(speeds):.2f}" if speeds else "-",
                    f"{max(lane.setup_seconds for lane in ran):.2f}" if ran else "-",
                    f"{max(lane.first_seconds for lane in ran):.2f}" if ran else "-",
                    ", ".join(f"{n} {ending}" for ending, n in endings.items()),
                ]
            )
        return rows

    def _remarks(self) -> list[str]:
        """What contenders said, each text once with how often."""
        lines = []
        for name in self.contenders:
            lanes = self.of(name)
            for text in dict.fromkeys(lane.message for lane in lanes if lane.message):
                times = sum(lane.message == text for lane in lanes)
                what = "not able" if any(not lane.points and lane.message == text for lane in lanes) else "note"
                lines.append(f"{name}, {what} ({times} of {len(lanes)}): {text}")
            if any(not lane.shares_objective and lane.points for lane in lanes):
                lines.append(f"{name}: its objective is a bound of its own; it is compared on held-out data alone.")
        return ["", *lines] if lines else []


def _step(point: Point) -> float:
    return point.step


def _seconds(point: Point) -> float:
    return point.seconds


def _median(points: Sequence[Point], what: Callable[[Point], float]) -> str:
    if not points:
        return "-"
    value = statistics.median(what(point) for point in points)
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _held_out(lanes: Sequence[Lane]) -> str:
    """Of the lane that a user would keep: the one with the highest objective of its own."""
    scored = [lane for lane in lanes if lane.held_out is not None and lane.ending not in BAD]
    if not scored:
        return "-"
    kept = max(scored, key=lambda lane: lane.points[-1].objective)
    return f"{kept.held_out:.3f}"


def _nats(value: float) -> str:
    return f"{max(value, 0.0):.1e}" if value < 0.1 else f"{value:.3f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Align: the first column left, the others right, a long last one left."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    words = rows[0][-1] == "endings"

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        if words:
            cells[-1] = row[-1]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(rows[0]), rule, *(line(row) for row in rows[1:])])
