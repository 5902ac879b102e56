"""The same Pyro model by SVI: total time to within a thousandth of a nat a point of the optimum.

How long either takes depends on the draw, so there are several. EM, plain and accelerated, and SVI start at the same
values. Planning, and what SVI does in its first step, are reported apart. The optimum is
that of EM run until it has converged; SVI counts as there when its own objective, which for a fully enumerated model
is the exact log evidence, is no more than a thousandth of a nat a point below.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from .problem import Problem, gaussian, load
from .process import answer, call, cpu_seconds

RATES = (0.01, 0.03, 0.1)
ROUNDS = 5
NEAR = 1e-3


def compare(n: int, D: int, K: int, *, draw: int = 0, limit: float = 60.0) -> dict[str, Any]:
    """Time EM, then SVI at every learning rate and scikit-learn's EM, each in a process of its own.

    Args:
        n: rows of a mixture of full Gaussians.
        D: its coordinates.
        K: its components.
        draw: seed of data and start.
        limit: seconds of CPU after which SVI is stopped.
    """
    title = f"full GMM, {n // 1000}k x {D}, K={K}, draw {draw + 1}"
    with TemporaryDirectory() as where:
        folder = Path(where)
        gaussian(n, D, K, seed=draw).save(folder)
        found = call("benchmarks.svi", "em", str(folder))
        if "failed" in found:
            return {"title": title, **found}
        goal = ("--goal", repr(found["goal"]), "--iterations", str(found["iterations"]))
        found["scikit-learn"] = call("benchmarks.svi", "sklearn", str(folder), *goal)
        for rate in RATES:
            more = (*goal, "--rate", str(rate), "--limit", str(limit))
            found[f"adam {rate}"] = call("benchmarks.svi", "svi", str(folder), *more)
    return {"title": title, "limit": limit, **found}


def best(found: dict[str, Any]) -> float | None:
    """Milliseconds of the fastest learning rate that arrived; None if none did."""
    times = [found[f"adam {rate}"] for rate in RATES]
    arrived = [t["milliseconds"] for t in times if t.get("arrived")]
    return min(arrived) if arrived else None


def em(problem: Problem) -> dict[str, Any]:
    """Converge once for the goal, count the steps to it, plain and accelerated, and time that many."""
    import pyro
    import torch
    from em_pyro.models import gaussian_mixture

    from em_pyro import EM

    x, K = torch.as_tensor(problem.rows["x"]), len(problem.start["weights"])
    start = {name: torch.as_tensor(value) for name, value in problem.start.items()}
    pyro.clear_param_store()
    driver = EM(gaussian_mixture.full, starts=start, max_steps=2000, acceleration=None)
    converged = driver.fit(x, K)
    goal = converged.objective - NEAR * len(x)

    def there(state: Any) -> bool:
        return bool(state.objective >= goal)

    driver.callback = there
    iterations = driver.fit(x, K).num_steps
    fast = EM(gaussian_mixture.full, starts=start, max_steps=2000, acceleration="squarem", callback=there)
    steps = fast.fit(x, K).num_steps
    return {
        "goal": goal,
        "iterations": iterations,
        "milliseconds": _timed(driver, iterations, x, K),
        "accelerated_steps": steps,
        "accelerated": _timed(fast, steps, x, K),
        "planning": converged.plan.seconds,
    }


def _timed(driver: Any, steps: int, *args: Any) -> float:
    """Milliseconds of so many EM steps: what a fit of none takes is taken off. The median of a few."""
    driver.tol, driver.callback = 0.0, None
    found = []
    for _ in range(ROUNDS):
        marks = [cpu_seconds()]
        for most in (0, steps):
            driver.max_steps = most
            driver.fit(*args)
            marks.append(cpu_seconds())
        found.append((marks[2] - marks[1]) - (marks[1] - marks[0]))
    return 1e3 * median(found)


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
