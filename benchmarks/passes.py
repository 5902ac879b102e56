"""Passes over the data to the end of a fit, by EM and by EM in slices, from the same start; and the time they take."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from .process import answer, call

WAYS: Mapping[str, Mapping[str, Any]] = {
    "plain EM": {"acceleration": None},
    "default": {},
    "incremental, 20 slices": {"batches": 20},
    "online, 20 slices": {"batches": 20, "update": "online"},
}
ROWS, DIM, K = 100_000, 5, 5
GAPS = {"clusters six standard deviations apart": 6.0, "clusters two standard deviations apart": 2.0}
ROUNDS = 3


def compare() -> list[dict[str, Any]]:
    """Fit both problems by every contender, each in a process of its own."""
    return [{"title": name, **call("benchmarks.passes", name)} for name in GAPS]


def measured(name: str) -> dict[str, Any]:
    """Fit by every contender in turn; CPU milliseconds are the least of a whole fit, planning apart."""
    import pyro
    import torch
    from em_pyro.models import gaussian_mixture

    from em_pyro import EM

    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(1)
    loc = GAPS[name] * torch.eye(K, DIM) / 2**0.5
    x = loc[torch.randint(K, (ROWS,), generator=generator)] + torch.randn(ROWS, DIM, generator=generator)
    start = {"loc": loc + torch.randn(K, DIM, generator=generator), "scale": torch.full((K, DIM), 1.5)}
    found: dict[str, dict[str, Any]] = {way: {"milliseconds": float("inf")} for way in WAYS}
    for _ in range(ROUNDS):
        for way, options in WAYS.items():
            pyro.clear_param_store()
            em = EM(partial(gaussian_mixture.diagonal, K=K), starts=start, check=False, **options)
            em.plan(x)
            began = time.process_time()
            fit = em.fit(x)
            spent = 1e3 * (time.process_time() - began)
            found[way]["milliseconds"] = min(found[way]["milliseconds"], spent)
            found[way] |= {"passes": fit.num_steps, "end": fit.objective, "outcome": fit.outcome}
    best = max(part["end"] for part in found.values())
    for part in found.values():
        part["short"] = best - part.pop("end")
    return {"contenders": found, "best": best}


def table(found: list[dict[str, Any]]) -> str:
    """Write the section of the page."""
    lines = [
        "## Passes over the data to the end of a fit, nats below the best, and CPU ms of the fit in memory\n",
        f"Five Normals, {ROWS:,} rows in {DIM} dimensions, from one start at the default tolerance.\n",
        f"| work | {' | '.join(WAYS)} |",
        "|---|" + "---|" * len(WAYS),
    ]
    for part in found:
        cells = [part.get("failed", "")]
        if not cells[0]:
            each = (part["contenders"][way] for way in WAYS)
            cells = [f"{one['passes']} passes, {one['short']:.0e}, {one['milliseconds']:.0f} ms" for one in each]
        lines.append(f"| {part['title']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure one problem in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("problem", choices=list(GAPS))
    answer(measured(parser.parse_args().problem))


if __name__ == "__main__":
    main()
