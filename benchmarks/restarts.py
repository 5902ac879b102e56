"""A hundred random starts of one mixture, fifty iterations each, none screened out."""

from __future__ import annotations

import argparse
import inspect
import warnings
from pathlib import Path
from typing import Any

from .problem import Problem, load
from .process import answer, baseline_bytes, call, cpu_seconds, peak_bytes
from .race import stored

FEW, MANY = 10, 50
AGREE = 1e-4
"""Of the best log-likelihood, relative: the two draw their own starts, and scikit-learn adds to the diagonal."""


def compare(case: str = "gmm_10k", *, starts: int = 100) -> dict[str, Any]:
    """Time both, in processes of their own.

    Raises:
        AssertionError: the best of one is not the best of the other.
    """
    with stored(case) as folder:
        found = {who: call("benchmarks.restarts", who, str(folder), str(starts)) for who in ("em_pyro", "scikit-learn")}
    if not any("failed" in part for part in found.values()):
        ours, theirs = (part["log_likelihood"] for part in found.values())
        if abs(ours / theirs - 1) > AGREE:
            raise AssertionError(f"{starts} starts: em_pyro's best is {ours:.10g}, scikit-learn's {theirs:.10g}.")
    return {"starts": starts, "iterations": MANY, **found}


def em(problem: Problem, starts: int, iterations: int) -> float:
    """Fit from `starts` random starts; unscreened where there is screening."""
    import pyro
    import torch
    from em_pyro.models import gaussian_mixture

    from em_pyro import EM

    pyro.clear_param_store()
    options: dict[str, Any] = {"screen": False} if "screen" in inspect.signature(EM).parameters else {}
    driver = EM(gaussian_mixture.full, starts=starts, tol=0.0, max_steps=iterations, **options)
    return driver.fit(torch.as_tensor(problem.rows["x"]), len(problem.start["weights"])).log_likelihood


def sklearn(problem: Problem, starts: int, iterations: int) -> float:
    """Fit `GaussianMixture(n_init=starts)` from random rows."""
    from sklearn.mixture import GaussianMixture

    warnings.simplefilter("ignore")
    x, K = problem.rows["x"], len(problem.start["weights"])
    mixture = GaussianMixture(
        K, n_init=starts, init_params="random_from_data", tol=0.0, max_iter=iterations, random_state=0
    )
    return float(mixture.fit(x).score(x)) * len(x)


def main() -> None:
    """Run one of the two in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["em_pyro", "scikit-learn"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("starts", type=int)
    asked = parser.parse_args()
    problem, fit = load(asked.folder), em if asked.who == "em_pyro" else sklearn
    fit(problem.head(1000), 2, 2)
    baseline, marks = baseline_bytes(), [cpu_seconds()]
    for iterations in (FEW, MANY):
        log_likelihood = fit(problem, asked.starts, iterations)
        marks.append(cpu_seconds())
    first, second = marks[1] - marks[0], marks[2] - marks[1]
    answer(
        {
            "cpu": 1e3 * (second - first) / (MANY - FEW),
            "total": 1e3 * second,
            "memory": (peak_bytes() - baseline) / 2**20,
            "log_likelihood": log_likelihood,
        }
    )


if __name__ == "__main__":
    main()
