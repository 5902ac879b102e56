"""The observed information in EM iterations: the pass over the rows, and all that `fit.information()` does."""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

from .process import answer, call, cpu_seconds

CASES = {"one million rows": (1_000_000, 5, 4), "many parameters": (100_000, 10, 10)}
"""Rows, dimensions and components of mixtures of normals, each with its own covariance."""

ROUNDS = 5


def compare() -> list[dict[str, Any]]:
    """Measure all, in processes of their own."""
    return [{"title": title(*case), **call("benchmarks.information", *map(str, case))} for case in CASES.values()]


def title(n: int, d: int, k: int) -> str:
    """Name a mixture by its sizes."""
    return f"Full GMM, {n:,} x {d}, K={k}"


def measure(n: int, d: int, k: int) -> dict[str, Any]:
    """Return CPU seconds of an E-step with its statistics, of the pass and of the call, by turns, and parameters."""
    from functools import partial

    import torch
    from em_pyro.models import gaussian_mixture

    from em_pyro import EM
    from em_pyro.after.information.louis import second_order
    from em_pyro.fit.problem import prepare
    from em_pyro.fit.verdict.ground import around_of

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    loc = 2 * torch.randn(k, d)
    x = loc[torch.randint(k, (n,))] + torch.randn(n, d)
    problem = prepare(partial(gaussian_mixture.full, K=k), (x,), {}, {}, check=False)
    params = {"weights": torch.full((k,), 1 / k), "loc": loc, "scale_tril": torch.eye(d).repeat(k, 1, 1)}
    fit = EM(partial(gaussian_mixture.full, K=k), starts=params, check=False).fit(x)
    spent: dict[str, list[float]] = {"step": [], "information": [], "call": []}
    for _ in range(1 + ROUNDS):
        began = cpu_seconds()
        problem.expect(problem.bind({name: value.unsqueeze(0) for name, value in params.items()}))
        between = cpu_seconds()
        second_order(problem, params)
        spent["step"].append(between - began)
        after = cpu_seconds()
        fit.information()
        spent["information"].append(after - between)
        spent["call"].append(cpu_seconds() - after)
    step, whole, call = (median(part[1:]) for part in spent.values())  # the first pays for what is made once
    return {"parameters": around_of(problem, params).size, "step": step, "information": whole, "call": call}


def main() -> None:
    """Measure one in this process."""
    parser = argparse.ArgumentParser()
    for size in ("n", "d", "k"):
        parser.add_argument(size, type=int)
    asked = parser.parse_args()
    answer(measure(asked.n, asked.d, asked.k))


if __name__ == "__main__":
    main()
