"""How often intervals hold what they are of: simulated data sets, fitted from the truth, and nominal 95 % intervals.

The share of the sets whose interval covers the value that the data were drawn with is itself uncertain, by
`sqrt(0.95 * 0.05 / sets)`: what is further from 0.95 than a few of these is no accident, but may be the bias of small
samples, since standard errors are asymptotic.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .process import answer, call

SETS = 1000
LEVEL = 0.95


def compare(sets: int = SETS) -> list[dict[str, Any]]:
    """Simulate every problem, each in a process of its own."""
    return [{"title": name, **call("benchmarks.coverage", name, str(sets))} for name in PROBLEMS]


def coin(generator: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Two coins in unequal shares: 200 sequences of ten tosses."""
    import torch
    from em_pyro.models import coins

    truth = {"weights": torch.tensor([0.4, 0.6]), "bias": torch.tensor([0.3, 0.7])}
    which = torch.multinomial(truth["weights"], 200, replacement=True, generator=generator)
    heads = torch.binomial(torch.full((200,), 10.0), truth["bias"][which], generator=generator)
    return coins.coins, (heads, 10), truth


def normals(generator: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Two normals three standard deviations apart: 500 rows."""
    import torch
    from em_pyro.models import gaussian_mixture

    truth = {
        "weights": torch.tensor([0.4, 0.6]),
        "loc": torch.tensor([0.0, 3.0]),
        "scale": torch.tensor([1.0, 0.8]),
    }
    which = torch.multinomial(truth["weights"], 500, replacement=True, generator=generator)
    x = torch.randn(500, generator=generator) * truth["scale"][which] + truth["loc"][which]
    return gaussian_mixture.univariate, (x, 2), truth


def counts(generator: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Two Poisson regressions on one covariate: 400 rows."""
    import torch
    from em_pyro.models import regressions

    truth = {"weights": torch.tensor([0.4, 0.6]), "coef": torch.tensor([[0.5, 0.8], [2.0, -0.4]])}
    x = torch.stack([torch.ones(400), torch.randn(400, generator=generator)], -1)
    which = torch.multinomial(truth["weights"], 400, replacement=True, generator=generator)
    return regressions.poisson, (x, torch.poisson((x * truth["coef"][which]).sum(-1).exp(), generator=generator)), truth


PROBLEMS: dict[str, Callable[[Any], tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {
    "two coins, 200 x 10": coin,
    "two normals, 500 rows": normals,
    "two Poisson regressions, 400 rows": counts,
}


def measured(name: str, sets: int) -> dict[str, Any]:
    """Count the sets whose interval covers the truth, by entry, for ordinary and for robust standard errors."""
    import pyro
    import torch

    from em_pyro import EM

    torch.set_default_dtype(torch.float64)
    covered: dict[str, dict[str, float]] = {}
    silent = 0
    for seed in range(sets):
        model, args, truth = PROBLEMS[name](torch.Generator().manual_seed(seed))
        pyro.clear_param_store()
        fit = EM(model, starts=truth, check=False).fit(*args)
        for kind in ("observed", "robust"):
            found = fit.information(kind)
            for parameter, value in truth.items():
                lower, upper = found.interval(parameter, LEVEL)
                silent += int(found.se[parameter].isnan().sum())
                holds = ((lower <= value) & (value <= upper)).reshape(-1).tolist()
                for k, held in enumerate(holds):
                    counted = covered.setdefault(f"{parameter}.{k}", {"observed": 0.0, "robust": 0.0})
                    counted[kind] += held / sets
    return {"sets": sets, "covered": covered, "without": silent}


def main() -> None:
    """Measure one problem in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("problem", choices=list(PROBLEMS))
    parser.add_argument("sets", type=int)
    asked = parser.parse_args()
    answer(measured(asked.problem, asked.sets))


if __name__ == "__main__":
    main()
