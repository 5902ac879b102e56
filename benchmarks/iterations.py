"""EM steps to within a millionth of a nat of the best known: plain, and by every acceleration, from the same start.

Problems on which plain EM is slow, or that tempt an acceleration: rates that say little, clusters that overlap, classes
that answers hardly tell apart, a chain on which plain EM is fast. All contenders are followed to the end; the best of
their ends is what each is measured by, and a contender that ends at another maximum has no number.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from .process import answer, call

WAYS: dict[str, str | None] = {
    "plain EM": None,
    "SQUAREM": "squarem",
    "quasi-Newton": "quasi-newton",
    "default": "auto",
}
NEAR = 1e-6  # nats
MOST = 20_000
ROUNDS = 3


def compare() -> list[dict[str, Any]]:
    """Follow every contender on every problem, each problem in a process of its own."""
    return [{"title": name, **call("benchmarks.iterations", name)} for name in PROBLEMS]


def deaths() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Two rates of deaths in The Times, day by day (Hasselblad 1969)."""
    import torch
    from em_pyro.models import poisson_mixture
    from em_pyro.models.data import load

    days = torch.tensor(load("london_deaths")["days"]).long()
    start = {"weights": torch.tensor([0.3, 0.7]), "rate": torch.tensor([1.0, 2.5])}
    return poisson_mixture.poisson_mixture, (torch.arange(len(days)).double().repeat_interleave(days),), start


def overlapping() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Three Gaussians on the line, two standard deviations apart."""
    import torch
    from em_pyro.models import gaussian_mixture

    generator = torch.Generator().manual_seed(1)
    x = torch.cat([torch.randn(200, generator=generator, dtype=torch.float64) + 2.0 * k for k in range(3)])
    start = {"weights": torch.full((3,), 1 / 3), "loc": torch.tensor([-1.0, 1.5, 5.0]), "scale": torch.ones(3)}
    return partial(gaussian_mixture.univariate, K=3), (x,), start


def classes() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Four kinds of 600 people, whose answers to fifteen questions tell them apart badly: 63 parameters."""
    import torch
    from em_pyro.models import latent_classes

    generator = torch.Generator().manual_seed(1)
    probs = torch.rand(4, 15, generator=generator, dtype=torch.float64) * 0.55 + 0.225
    kind = torch.randint(4, (600,), generator=generator)
    answers = (torch.rand(600, 15, generator=generator, dtype=torch.float64) < probs[kind]).long()
    return latent_classes.latent_classes, (answers, 4), {"weights": torch.full((4,), 0.25)}


def earthquakes() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A hidden Markov chain of three Poisson rates (Zucchini & MacDonald 2009)."""
    import torch
    from em_pyro.models import discrete_hmm
    from em_pyro.models.data import load

    counts = torch.tensor(load("earthquakes")["count"]).double()
    return partial(discrete_hmm.poisson, S=3), (counts[None],), {"rate": torch.tensor([10.0, 20.0, 30.0])}


PROBLEMS: dict[str, Callable[[], tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {
    "Times deaths, two rates": deaths,
    "three overlapping Gaussians": overlapping,
    "latent classes, 600 x 15, K=4": classes,
    "earthquakes, three states": earthquakes,
}


def measured(name: str) -> dict[str, Any]:
    """Follow every contender; CPU milliseconds are of a whole fit at the default tolerance, the least of a few."""
    import pyro

    from em_pyro import EM

    model, args, start = PROBLEMS[name]()
    trails: dict[str, list[tuple[int, float]]] = {}
    found: dict[str, dict[str, Any]] = {way: {"milliseconds": float("inf")} for way in WAYS}
    for way, acceleration in WAYS.items():
        trail = trails[way] = []

        def note(state: Any, trail: list[tuple[int, float]] = trail) -> None:
            trail.append((state.step, state.objective))

        pyro.clear_param_store()
        options = {"starts": start, "acceleration": acceleration, "max_steps": MOST, "check": False}
        EM(model, tol=1e-12, callback=note, **options).fit(*args)
    for _ in range(ROUNDS):
        for way, acceleration in WAYS.items():
            pyro.clear_param_store()
            driver = EM(model, starts=start, acceleration=acceleration, max_steps=MOST, check=False)
            driver.plan(*args)
            began = time.process_time()
            driver.fit(*args)
            spent = 1e3 * (time.process_time() - began)
            found[way]["milliseconds"] = min(found[way]["milliseconds"], spent)
    best = max(trail[-1][1] for trail in trails.values())
    for way, trail in trails.items():
        found[way]["steps"] = next((step for step, objective in trail if objective >= best - NEAR), None)
        found[way]["short"] = best - trail[-1][1]
    return {"contenders": found, "best": best}


def main() -> None:
    """Measure one problem in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("problem", choices=list(PROBLEMS))
    answer(measured(parser.parse_args().problem))


if __name__ == "__main__":
    main()
