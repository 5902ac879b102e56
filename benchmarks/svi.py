"""The same Pyro model by SVI: total time to within a thousandth of a nat a point of the optimum.

EM and SVI start at the same values. Planning, and what SVI does in its first step, are reported apart. The optimum is
that of EM run until it has converged; SVI counts as there when its own objective, which for a fully enumerated model
is the exact log evidence, is no more than a thousandth of a nat a point below.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .cases import find
from .problem import Problem, load
from .process import answer, call, cpu_seconds
from .race import stored

RATES = (0.01, 0.03, 0.1)
NEAR = 1e-3


def compare(case: str, *, limit: float = 60.0) -> dict[str, Any]:
    """Time EM, then SVI at every learning rate and scikit-learn's EM, each in a process of its own.

    Args:
        case: name of a case of full Gaussian mixtures.
        limit: seconds of CPU after which SVI is stopped.
    """
    with stored(case) as folder:
        found = call("benchmarks.svi", case, "em", str(folder))
        if "failed" in found:
            return {"case": case, **found}
        goal = ("--goal", repr(found["goal"]), "--iterations", str(found["iterations"]))
        found["scikit-learn"] = call("benchmarks.svi", case, "sklearn", str(folder), *goal)
        for rate in RATES:
            more = (*goal, "--rate", str(rate), "--limit", str(limit))
            found[f"adam {rate}"] = call("benchmarks.svi", case, "svi", str(folder), *more)
    return {"case": case, "title": find(case).title, "limit": limit, **found}


def best(found: dict[str, Any]) -> float | None:
    """Milliseconds of the fastest learning rate that arrived; None if none did."""
    times = [found[f"adam {rate}"] for rate in RATES]
    arrived = [t["milliseconds"] for t in times if t.get("arrived")]
    return min(arrived) if arrived else None


def em(problem: Problem) -> dict[str, Any]:
    """Converge once for the goal, count the iterations to it, and time that many."""
    import pyro
    import torch
    from em_pyro.models import gaussian_mixture

    from em_pyro import EM

    x, K = torch.as_tensor(problem.rows["x"]), len(problem.start["weights"])
    start = {name: torch.as_tensor(value) for name, value in problem.start.items()}
    pyro.clear_param_store()
    driver = EM(gaussian_mixture.full, starts=start, max_steps=2000)
    converged = driver.fit(x, K)
    goal = converged.objective - NEAR * len(x)
    iterations = next(i for i, value in enumerate(converged.path) if value >= goal)
    driver.tol = 0.0
    marks = [cpu_seconds()]
    for steps in (0, 0, iterations):
        driver.max_steps = steps
        driver.fit(x, K)
        marks.append(cpu_seconds())
    total = (marks[3] - marks[2]) - (marks[2] - marks[1])
    seconds = converged.plan.seconds
    return {"goal": goal, "iterations": iterations, "milliseconds": 1e3 * total, "planning": seconds}


def sklearn(problem: Problem, iterations: int, goal: float) -> dict[str, Any]:
    """Time scikit-learn for as many iterations."""
    from .peers import sklearn_full

    run = sklearn_full(problem)
    run(1)
    marks = [cpu_seconds()]
    for steps in (1, iterations + 1):
        result = run(steps)
        marks.append(cpu_seconds())
    total = (marks[2] - marks[1]) - (marks[1] - marks[0])
    return {"milliseconds": 1e3 * total, "arrived": result.log_likelihood >= goal}


def svi(problem: Problem, goal: float, rate: float, limit: float) -> dict[str, Any]:
    """Step Adam on `TraceEnum_ELBO` until the goal or the limit."""
    import pyro
    import torch
    from em_pyro.models import gaussian_mixture
    from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
    from pyro.optim import Adam
    from torch.distributions import constraints

    x, K = torch.as_tensor(problem.rows["x"]), len(problem.start["weights"])
    torch.set_default_dtype(x.dtype)
    pyro.clear_param_store()
    domains = {"weights": constraints.simplex, "loc": constraints.real, "scale_tril": constraints.lower_cholesky}
    for name, value in problem.start.items():
        pyro.param(name, torch.as_tensor(value).clone(), constraint=domains[name])

    def guide(x: torch.Tensor, K: int) -> None:
        """Nothing is left to guide: the component is summed out."""

    driver = SVI(
        config_enumerate(gaussian_mixture.full), guide, Adam({"lr": rate}), TraceEnum_ELBO(max_plate_nesting=1)
    )
    began = cpu_seconds()
    driver.step(x, K)
    began, set_up, steps = cpu_seconds(), cpu_seconds() - began, 1
    while True:
        objective = -driver.step(x, K)
        steps += 1
        spent = cpu_seconds() - began
        if objective >= goal or spent > limit:
            break
    arrived = objective >= goal
    left = (goal - objective) / len(x) + NEAR
    return {"milliseconds": 1e3 * spent, "steps": steps, "arrived": arrived, "set_up": set_up, "nats_a_point": left}


def main() -> None:
    """Run one of the three in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case")
    parser.add_argument("who", choices=["em", "sklearn", "svi"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--goal", type=float, default=0.0)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--limit", type=float, default=60.0)
    asked = parser.parse_args()
    problem = load(asked.folder)
    if asked.who == "em":
        answer(em(problem))
    elif asked.who == "sklearn":
        answer(sklearn(problem, asked.iterations, asked.goal))
    else:
        answer(svi(problem, asked.goal, asked.rate, asked.limit))


if __name__ == "__main__":
    main()
