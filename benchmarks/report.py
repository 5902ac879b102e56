"""`RESULTS.md` from the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from statistics import median
from textwrap import fill
from typing import Any

from . import passes
from .cases import CASES, find
from .iterations import WAYS
from .published import page as published
from .race import Row
from .scale import slope
from .svi import RATES, best

HEAD = """\
# Results

{processor}, {cores} cores, {memory_gib} GiB; load {load} at the start. {versions}. {date}.

CPU: user and system milliseconds of one EM iteration on one thread, the median over rounds and in brackets their
range, as the difference between a long and a short fit in one process. Ratio: a contender's CPU over ours. All
contenders of a row start at the same values and run for as many iterations; one whose log-likelihood does not agree
with ours to 1e-9 relative is left out and says so (the site form of a chain is another model than hmmlearn's: it may
differ more). Apart: that disagreement; in the float32 table, from our float64. Wall: milliseconds on the clock with
two threads, measured once. Memory: peak beyond the data and the imported libraries. Planning: seconds on the clock
before the first iteration, in none of the times. By hand, coins are fitted in NumPy with SciPy's log-sum-exp, as a
tutorial has it, and once more with the log-sum-exp written out. Where the title says "a step", a step of SVI on the
same Pyro model stands beside one of EM, and the log evidence that must agree is that of the start.

Make it anew by `make bench` (`python -m benchmarks --quick` for a minute's run).
"""


def updated(before: dict[str, Any], found: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return earlier results with the cases `names` as they were found now, and when that was."""
    replaced = {(row["case"], row["dtype"]) for row in found["rows"]}
    rows = [row for row in before["rows"] if (row["case"], row["dtype"]) not in replaced] + found["rows"]
    order = list(CASES)
    rows.sort(key=lambda row: order.index(row["case"]))
    others = {key: value for key, value in found.items() if key not in ("machine", "quick", "rows", "refused")}
    refused = [line for line in before["refused"] if not any(name in line for name in names)] + found["refused"]
    again = {**before.get("again", {}), **dict.fromkeys(names, found["machine"]["date"])}
    versions = {**before["machine"]["versions"], **found["machine"]["versions"]}
    machine = {**before["machine"], "versions": versions}
    return {**before, **others, "machine": machine, "rows": rows, "refused": refused, "again": again}


def report(found: dict[str, Any]) -> str:
    """Write the whole page."""
    machine = found["machine"]
    names = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    facts = {k: v for k, v in machine.items() if k not in ("versions", "load")}
    load = " ".join(str(x) for x in machine["load"])
    parts = [HEAD.format(**facts, load=load, versions=names)]
    for when in sorted(set(found.get("again", {}).values())):
        cases = [CASES[name].title if name in CASES else name for name, day in found["again"].items() if day == when]
        text = f"On {when}, when the machine may have been slower or faster (compare within a case): "
        parts.append(fill(text + "; ".join(cases) + ".", 120) + "\n")
    if found.get("note"):
        parts.append(fill(found["note"], 120) + "\n")
    for dtype in ("float64", "float32"):
        rows = [Row(**row) for row in found["rows"] if row["dtype"] == dtype]
        if rows:
            parts.append(f"## {dtype}\n\n" + _table(rows))
    sections = {
        "restarts": _restarts, "iterations": _iterations, "svi": _svi, "published": published, "scale": _scale,
        "coverage": _coverage, "whole": _whole, "information": _information, "streams": _streams,
        "passes": passes.table, "weak": _weak,
    }  # fmt: skip
    parts += [write(found[name]) for name, write in sections.items() if found.get(name)]
    if found.get("refused"):
        parts.append("## Not believed\n\n" + "\n".join(f"- {line}" for line in found["refused"]) + "\n")
    return "\n".join(parts)


def _table(rows: list[Row]) -> str:
    lines = [
        "| work | by | CPU ms | ratio | to reach | wall ms, 2 threads | memory MiB | planning s | apart |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shown = ""
    for row in rows:
        case = find(row.case)
        title = case.title if shown != row.case else ""
        shown = row.case
        if row.absent:
            lines.append(f"| {title} | {row.contender} | {row.absent} | | | | | | |")
            continue
        ours = next(r for r in rows if r.case == row.case)
        ratio = "" if row is ours or ours.absent else f"{row.cpu / ours.cpu:.2f}"
        reach = f"{case.target[1]:g}" if case.target and case.target[0] == row.contender else ""
        low, high = row.range
        planning = "" if row.planning is None else f"{row.planning:.2f}"
        lines.append(
            f"| {title} | {row.contender} | {_ms(row.cpu)} ({_ms(low)} to {_ms(high)}) | {ratio} | {reach} "
            f"| {_ms(row.wall_two)} | {max(row.memory, 0):.0f} | {planning} | {row.error:.0e} |"
        )
    return "\n".join(lines) + "\n"


def _restarts(found: dict[str, Any]) -> str:
    lines = [
        f"## {found['starts']} random starts\n",
        f"Full GMM, 10k x 2, K=3, {found['iterations']} iterations each, none screened out.\n",
        "| by | CPU ms for one iteration of all | CPU s in total | memory MiB | best log-likelihood |",
        "|---|---|---|---|---|",
    ]
    for who in ("em_pyro", "scikit-learn"):
        part = found[who]
        if "failed" in part:
            lines.append(f"| {who} | {part['failed']} | | | |")
        else:
            lines.append(
                f"| {who} | {part['cpu']:.0f} | {part['total'] / 1e3:.1f} | {part['memory']:.0f} "
                f"| {part['log_likelihood']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def _iterations(found: list[dict[str, Any]]) -> str:
    lines = [
        "## Accelerations: EM steps to within a millionth of a nat of the best, and CPU ms of a whole fit by default\n",
        f"| work | {' | '.join(WAYS)} |",
        "|---|" + "---|" * len(WAYS),
    ]
    for part in found:
        if "failed" in part:
            lines.append(f"| {part['title']} | {part['failed']} |" + " |" * (len(WAYS) - 1))
            continue
        cells = []
        for way in WAYS:
            one = part["contenders"][way]
            steps = f"{one['short']:.2g} nats lower" if one["steps"] is None else f"{one['steps']} steps"
            cells.append(f"{steps}, {_ms(one['milliseconds'])} ms")
        lines.append(f"| {part['title']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _coverage(found: list[dict[str, Any]]) -> str:
    lines = [
        "## Intervals: the share of simulated data sets whose nominal 95 % interval covers the truth\n",
        "Fits begin at the truth. By chance alone a share of 1,000 sets is off by 0.007 in one case out of three, and\n"
        "by 0.014 in one out of twenty. Both kinds are asymptotic, the sandwich is the further off in small samples:\n"
        "it is made of squares of the scores of few rows.\n",
        "| problem | sets | entry | observed information | robust |",
        "|---|---|---|---|---|",
    ]
    for part in found:
        if "failed" in part:
            lines.append(f"| {part['title']} | {part['failed']} | | | |")
            continue
        for entry, shares in part["covered"].items():
            cells = " | ".join(f"{shares[kind]:.3f}" for kind in ("observed", "robust"))
            lines.append(f"| {part['title']} | {part['sets']} | {entry} | {cells} |")
    return "\n".join(lines) + "\n"


def _whole(found: dict[str, Any]) -> str:
    lines = ["## Beside the steps\n", "| planning | CPU s |", "|---|---|"]
    for part in found["planned"].values():
        lines.append(f"| {part['title']} | {part['failed'] if 'failed' in part else format(part['seconds'], '.2f')} |")
    lines += [
        "\nWhole fit of a full GMM, 150 x 4, K=3, to about a thousandth of a nat a row, CPU ms:\n",
        "| by | default | without checks | once more, planned |",
        "|---|---|---|---|",
    ]
    for who, part in found["fitted"].items():
        cells = [f"{part[name]:.1f}" if name in part else "" for name in ("default", "unchecked", "again")]
        lines.append(f"| {who} | " + (f"{part['failed']} | | |" if "failed" in part else " | ".join(cells) + " |"))
    if "tails" in found:
        lines.append("\nWhole fit of a Student mixture, 20,000 rows, K=3, to 1e-8 of the log-likelihood, CPU ms:\n")
        lines += ["| by | default |", "|---|---|"]
        for who, part in zip(("em_pyro", "ECME in NumPy, by hand"), found["tails"].values(), strict=True):
            lines.append(f"| {who} | {part['failed'] if 'failed' in part else format(part['default'], '.0f')} |")
    return "\n".join(lines) + "\n"


def _information(found: list[dict[str, Any]]) -> str:
    lines = [
        "## The observed information\n",
        "The pass over the rows, and the call of `fit.information()`, which goes to the very top first.\n"
        "Differences of scores take four E-steps a parameter. To reach: 15 E-steps of the first.\n",
        "| work | parameters | an E-step, CPU ms | the pass, ms | E-steps | the call, ms | E-steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in found:
        if "failed" in part:
            lines.append(f"| {part['title']} | {part['failed']} | | | | | |")
            continue
        step = 1e3 * part["step"]
        both = [1e3 * part[name] if name in part else None for name in ("information", "call")]
        cells = " | ".join(" | " if one is None else f"{_ms(one)} | {one / step:.1f}" for one in both)
        lines.append(f"| {part['title']} | {part['parameters']} | {_ms(step)} | {cells} |")
    return "\n".join(lines) + "\n"


def _streams(found: dict[str, Any]) -> str:
    lines = [
        "## Rows from a memory map\n",
        fill(
            f"Mixture of five Normals in ten dimensions: {found['rows']:,} rows, {found['mebibytes']:.0f} MiB, in "
            f"batches of {found['batch']:,}, which a read-only map has copied. Memory is anonymous, beyond the "
            f"interpreter, at its largest. To reach: 300 MiB, and 1.3 times the time in memory.",
            120,
        ),
        "\n| rows | CPU ns a row and step | memory MiB |",
        "|---|---|---|",
    ]
    sides = {name: side for name, side in found.items() if isinstance(side, dict)}
    lines += [f"| {name} | {side['ns']:.0f} | {side['MiB']:.0f} |" for name, side in sides.items()]
    return "\n".join(lines) + "\n"


def _weak(found: list[dict[str, Any]]) -> str:
    lines = [
        "## As many rows in every process\n",
        f"The same mixture, {found[0]['rows']:,} rows in each, gloo on this machine.\n",
        "| processes | wall ms a step | CPU ms a step | bytes a reduction |",
        "|---|---|---|---|",
    ]
    lines += [f"| {p['processes']} | {p['wall']:.0f} | {p['cpu']:.1f} | {p['bytes']:,.0f} |" for p in found]
    return "\n".join(lines) + "\n"


def _svi(found: list[dict[str, Any]]) -> str:
    lines = [
        "## The same Pyro model by SVI: total CPU ms to within a thousandth of a nat a point of the optimum\n",
        "| work | EM | EM with SQUAREM | scikit-learn's EM | "
        + " | ".join(f"Adam {rate}" for rate in RATES)
        + " | best SVI over EM | over SQUAREM |",
        "|---|" + "---|" * (5 + len(RATES)),
    ]
    for part in found:
        if "failed" in part:
            lines.append(f"| {part['title']} | {part['failed']} |" + " |" * (4 + len(RATES)))
            continue
        cells = []
        for rate in RATES:
            one = part[f"adam {rate}"]
            if "failed" in one:
                cells.append(one["failed"])
            elif one["arrived"]:
                cells.append(f"{one['milliseconds']:.0f} ({one['steps']} steps)")
            else:
                cells.append(f"{one['nats_a_point']:.3f} nats a point short after {part['limit']:g} s")
        theirs = part["scikit-learn"].get("milliseconds", float("nan"))
        lines.append(
            f"| {part['title']} | {part['milliseconds']:.1f} ({part['iterations']} iterations) "
            f"| {part['accelerated']:.1f} ({part['accelerated_steps']} EM steps) | {theirs:.0f} "
            f"| {' | '.join(cells)} | {_times(part, 'milliseconds')} | {_times(part, 'accelerated')} |"
        )
    return "\n".join(lines) + "\n" + _middle(found)


def _times(part: dict[str, Any], ours: str) -> str:
    """How many times longer the best SVI took."""
    fastest = best(part)
    return f"{fastest / part[ours]:.0f}" if fastest else f"over {1e3 * part['limit'] / part[ours]:.0f}"


def _middle(found: list[dict[str, Any]]) -> str:
    """The medians over the draws of the first size."""
    draws = [p for p in found if "failed" not in p and p["title"].split(",")[1] == found[0]["title"].split(",")[1]]
    ratios = [[best(p) / p[ours] for p in draws if best(p)] for ours in ("milliseconds", "accelerated")]  # type: ignore[operator]
    if len(draws) < 2 or not all(ratios):
        return ""
    plain, fast = (median(part) for part in ratios)
    return f"\nMedian over {len(draws)} draws: {plain:.0f} times, {fast:.0f} with SQUAREM (to reach: 50).\n"


def _scale(found: dict[str, Any]) -> str:
    lines = ["## Scale law\n", "![cost and memory against rows and components](scale.png)\n"]
    lines += ["| rows | CPU ms an iteration | memory beyond the data, MiB | planning s |", "|---|---|---|---|"]
    lines += [f"| {p['n']:,} | {_ms(p['cpu'])} | {p['memory']:.0f} | {p['planning']:.2f} |" for p in found["rows"]]
    rows, components = slope(found["rows"], "n"), slope(found["components"], "K")
    lines += ["", f"Growth exponent between the two largest sizes: {rows:.2f} in rows, {components:.2f} in components."]
    if found["left_out"]:
        lines.append(f"Left out, for want of memory: {', '.join(f'{n:,}' for n in found['left_out'])} rows.")
    return "\n".join(lines) + "\n"


def _ms(value: float) -> str:
    return "" if isnan(value) else f"{value:.2f}" if value < 10 else f"{value:.0f}"
