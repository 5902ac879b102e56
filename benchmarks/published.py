"""Pyro's published examples, unmodified, beside SVI: `python -m benchmarks --only published`.

Each is fitted from ten starts. Then SVI, which is Adam on `TraceEnum_ELBO` with `AutoDelta` for sites with a prior, has
the same starts and ten times the CPU time in all, shared by starts and learning rates. With `--quick` there is one
start, and SVI has the same time. The files are found as `examples.py` says.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from pathlib import Path
from statistics import median
from typing import Any

from .examples import EXAMPLES, FOLDER, Example, load
from .process import answer, call, cpu_seconds

AGREE = 1e-8
"""How far, relative, the objective may be from Pyro's own."""

STARTS, TIMES, MOST = 10, 10.0, 40.0
"""Starts; SVI's CPU time by that of EM; its seconds at most, which the table notes."""

RATES = (0.01, 0.05, 0.2)
"""Learning rates of Adam."""

FAR = 10.0
"""Where in unconstrained coordinates Adam begins, instead of at a boundary, on which it cannot move."""

ROUNDS, STEPS = 3, 10
"""How often, in turn, so many steps of each are timed."""


def compare(names: tuple[str, ...] = tuple(EXAMPLES), *, quick: bool = False) -> list[dict[str, Any]]:
    """Fit each in a process of its own; one row that says so where the files are not at hand."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return [{"title": "Pyro's published examples", "failed": f"not run: {FOLDER} names no folder that has them"}]
    rows = []
    for name in names:
        file = f"{EXAMPLES[name].file}.py"
        there = (Path(folder) / file).exists()
        asked = (name, "--quick") if quick else (name,)
        found = call("benchmarks.published", *asked) if there else {"failed": f"not run: no {file} in {FOLDER}"}
        rows.append({"title": name, **found})
    return rows


def measure(example: Example, *, quick: bool = False) -> dict[str, Any]:
    """Fit one example, compare its objective with Pyro's, time its steps against those of Adam, and race the two.

    Raises:
        AssertionError: the objective is not that of `TraceEnum_ELBO`.
    """
    import pyro
    import torch

    from em_pyro import EM
    from em_pyro.fit.problem import prepare
    from em_pyro.fit.starting.starts import starting_points
    from em_pyro.options import planning

    torch.set_default_dtype(torch.float64)
    module = load(example.file)
    torch.manual_seed(0)
    args, kwargs = example.arguments(module)
    model = getattr(module, example.model)
    pyro.clear_param_store()
    em = EM(model, starts=1 if quick else STARTS, **example.options)
    problem = prepare(model, args, kwargs, {}, **planning(em))
    points = starting_points(problem, em.starts, em.seed)
    began = cpu_seconds()
    plan = em.plan(*args, **kwargs)
    planned = cpu_seconds()
    fit = em.fit(*args, **kwargs)
    spent = cpu_seconds() - began
    theirs = _theirs(problem, fit.params, args, kwargs, example.nesting)
    apart = abs(theirs - fit.objective) / (1 + abs(theirs))
    if apart > AGREE:
        raise AssertionError(f"Pyro's objective is {theirs:.10g}, that of the fit {fit.objective:.10g}")
    paces = _paces(problem, EM(model, tol=0.0, starts=points[0], max_steps=STEPS, **example.options), points[0])
    given = spent if quick else min(TIMES * spent, MOST)
    each = given / (len(points) * len(RATES))
    best = max(_ascended(problem, start, rate, each)[0] for start in points for rate in RATES)
    how = [line.how for line in plan.lines.values()]
    return {
        "how": ", ".join(f"{how.count(kind)} {kind}" for kind in dict.fromkeys(how)),
        "planning": planned - began,
        "outcome": fit.outcome,
        "steps": fit.num_steps,
        "objective": fit.objective,
        "apart": apart,
        "seconds": spent,
        "given": given,
        "ascended": best,
        "milliseconds": paces[0],
        "svi": paces[1],
    }


def _theirs(problem: Any, params: Any, args: Any, kwargs: Any, nesting: int) -> float:
    """Pyro's objective at these values."""
    from pyro.infer import TraceEnum_ELBO, config_enumerate

    from em_pyro.program.handlers import Substitute
    from em_pyro.program.volume import UnconstrainedPriors

    density = UnconstrainedPriors if problem.program.unconstrained else contextlib.nullcontext

    def model(*args: Any, **kwargs: Any) -> Any:
        with density():
            return problem.program.model(*args, **kwargs)

    sites = {name: value for name, value in params.items() if problem.program.parameters[name].kind == "prior"}
    elbo = TraceEnum_ELBO(max_plate_nesting=nesting, strict_enumeration_warning=False)
    with Substitute(sites):  # around the densities, which are of the values
        return -elbo.loss(config_enumerate(model), lambda *args, **kwargs: None, *args, **kwargs)


def _paces(problem: Any, em: Any, start: Any) -> tuple[float, float]:
    """Milliseconds of CPU of a step of EM and of one of Adam, in turn."""
    ticks, ours, theirs = list[float](), list[float](), list[float]()
    em.callback = lambda state: ticks.append(cpu_seconds())
    for _ in range(ROUNDS):
        ticks.clear()
        em.fit(*problem.program.args, **problem.program.kwargs)
        ours += [after - before for before, after in zip(ticks, ticks[1:], strict=False)]
        theirs.append(_ascended(problem, start, RATES[0], 0.0, STEPS)[1])
    return 1e3 * median(ours or [float("nan")]), 1e3 * median(theirs)


def _ascended(problem: Any, start: Any, rate: float, seconds: float, steps: int = 1) -> tuple[float, float]:
    """Ascend by Adam for at least so many seconds of CPU and so many steps: the highest objective, seconds a step."""
    from pyro.optim import Adam  # type: ignore[attr-defined]

    from em_pyro.compare.contenders import svi, svi_map
    from em_pyro.compare.lane import Clock
    from em_pyro.compare.stochastic import NotAble, run_svi

    class Spent(Clock):
        """A clock of CPU time."""

        def start(self) -> None:
            self.began = cpu_seconds()

        @property
        def now(self) -> float:
            return cpu_seconds() - self.began

        def spent(self, step: int = 0) -> str:
            return "time" if step >= steps and self.now >= self.budget else ""

    prior = any(parameter.kind == "prior" for parameter in problem.program.parameters.values())
    who = (svi_map if prior else svi)(Adam({"lr": rate}))
    try:
        lane = run_svi(problem, "Adam", who, 0, _inside(problem, start), Spent(seconds, 0), 0, None)
    except NotAble:
        return -float("inf"), float("nan")
    return lane.best, lane.points[-1].seconds / max(lane.points[-1].step, 1)


def _inside(problem: Any, start: Any) -> Any:
    """A start that lies at no boundary."""
    import torch

    from em_pyro.fit.acceleration.points import unflatten

    vector = problem.coordinates.vector(start)
    if bool(vector.isfinite().all()):
        return dict(start)
    return unflatten(
        problem.coordinates, torch.where(vector.isfinite(), vector, FAR * vector.sign().nan_to_num()), [start]
    )


def page(rows: list[dict[str, Any]]) -> str:
    """Lay the rows out as a table."""
    lines = [
        "## Pyro's published examples, unmodified\n",
        "Apart: the relative distance of the objective from Pyro's at the fitted values. Ratio: CPU time of an EM step",
        "over that of a step of Adam on `TraceEnum_ELBO`. Then the race: EM's objective, the best of several starts,",
        f"less the best that Adam passed from the same starts, at learning rates {', '.join(map(str, RATES))}; and the",
        f"CPU seconds of each, with * where Adam was stopped before {TIMES:g} times those of EM.\n",
        "| example | M-steps | outcome | objective | apart | EM ms a step | SVI ms a step | ratio | planning s "
        "| EM - SVI | EM s | SVI s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['title']} | {row['failed']} |" + " |" * 10)
            continue
        ratio, ahead = row["milliseconds"] / row["svi"], row["objective"] - row["ascended"]
        lines.append(
            "| {title} | {how} | {outcome} after {steps} | {objective:.4f} | {apart:.0e} | {milliseconds:.1f} "
            "| {svi:.1f} | {ratio:.2f} | {planning:.2f} | {ahead:+.2g} | {seconds:.1f} | {given:.1f}{cut} |".format(
                **row, ratio=ratio, ahead=ahead, cut="*" * (row["given"] == MOST)
            )
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure one example in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=list(EXAMPLES))
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):  # some of the models print their shapes
        found = measure(EXAMPLES[asked.name], quick=asked.quick)
    answer(found)


if __name__ == "__main__":
    main()
