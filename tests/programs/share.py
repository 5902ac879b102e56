"""One process of a group: `python share.py SCENARIO RANK SIZE FILE`; what it has found is printed as JSON."""

import datetime
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, distributed, tensor
from torch.distributions import constraints

from em_pyro import EM, EMError
from em_pyro.fit.loop import State
from programs.links import batches, gamma, poissons

TIMEOUT = 15  # seconds, of the group; of the one in which a process hangs, three


def data() -> Tensor:
    """Two clusters, sorted: the shares have other means."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.arange(90).remainder(3).eq(0).double()
    return (torch.randn(90, generator=generator, dtype=torch.float64) + 4 * sides).sort().values


def mixture(x: Tensor) -> None:
    """Two Normals with a prior on their scale."""
    weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: x.mean() + tensor([-1.0, 1.0]))
    with pyro.plate("states", 2):
        scale = pyro.sample("scale", dist.InverseGamma(2.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def heavy(x: Tensor) -> None:
    """Statistics that keep their rows."""
    loc = pyro.param("loc", tensor([0.0, 4.0]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Laplace(loc[z], 1.0), obs=x)


def centred(x: Tensor) -> None:
    """A constant that is computed of the share."""
    loc, scale = pyro.param("loc", tensor([0.0, 4.0])), x.abs().max()
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


def told(fit: Any) -> dict[str, Any]:
    """What is compared."""
    return {
        "params": {name: value.tolist() for name, value in fit.params.items()},
        "path": fit.path,
        "outcome": fit.outcome,
        "log_likelihood": fit.log_likelihood,
        "starts": [start.objective for start in fit.starts],
        "notes": fit.notes,
    }


def raised(em: EM, x: Any, how: str = "fit") -> dict[str, str]:
    """The error of a fit."""
    try:
        getattr(em, how)(x)
    except EMError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {}


def fits(group: Any, shares: list[Tensor], rank: int) -> dict[str, Any]:
    """Fits of all rows, and what is refused."""
    found: dict[str, Any] = {}
    for name, options in {
        "plain": {"acceleration": None},
        "starts": {"acceleration": None, "starts": 6, "seed": 2},
        "auto": {},
    }.items():
        pyro.clear_param_store()
        found[name] = told(EM(mixture, process_group=group, **options).fit(shares[rank]))
    pyro.clear_param_store()
    found["refused"] = raised(EM(heavy, process_group=group), shares[rank])
    found["centred"] = raised(EM(centred, process_group=group), shares[rank])
    found["options"] = raised(EM(mixture, process_group=group, seed=rank), shares[rank])
    bad = shares[rank].clone()
    if rank == len(shares) - 1:
        bad[-1] = torch.nan
    found["data"] = raised(EM(mixture, process_group=group), bad)
    found["step"] = raised_by_step(EM(mixture, process_group=group), shares[rank])
    return found


def streams(group: Any, size: int, rank: int) -> dict[str, Any]:
    """Fits of batches in every process, of slopes and curvatures that are added up, and what one of them breaks."""
    x = data()
    cut = [[x[:12], x[12:30]], [x[30:31], x[31:70], x[70:]]] if size == 2 else [[], [x[:50]], [x[50:60], x[60:]]]
    found: dict[str, Any] = {}
    pyro.clear_param_store()
    found["stream"] = told(EM(mixture, process_group=group, acceleration=None).fit_stream(cut[rank]))
    every = batches()
    mine = [every[:1], every[1:]] if size == 2 else [[], every[:1], every[1:]]
    for model in (poissons, gamma):
        pyro.clear_param_store()
        found[model.__name__] = told(EM(model, process_group=group, tol=1e-12).fit_stream(mine[rank]))
    whole = [torch.cat(parts) for parts in zip(*mine[rank], strict=True)] or [part[:0] for part in every[0]]
    pyro.clear_param_store()
    found["shares"] = told(EM(poissons, process_group=group, tol=1e-12).fit(*whole))
    broken = Broken(cut[rank]) if rank == size - 1 else cut[rank]
    found["changed"] = raised(EM(mixture, process_group=group, acceleration=None, check=False), broken, "fit_stream")
    found["none"] = raised(EM(mixture, process_group=group), [], "fit_stream")
    return found


class Broken:
    """Batches of which the last changes from the fourth pass on."""

    def __init__(self, parts: list[Tensor]) -> None:
        """Take them as they are at first."""
        self.parts, self.passes = parts, 0

    def __iter__(self) -> Iterator[Tensor]:
        """Begin another pass."""
        self.passes += 1
        yield from self.parts[:-1]
        yield self.parts[-1] + (1e-9 if self.passes > 3 else 0.0)


def raised_by_step(em: EM, x: Tensor) -> str:
    """The error of a step of one process."""
    try:
        em.step(x)
    except EMError as error:
        return str(error)
    return ""


def lost(scenario: str, group: Any, shares: list[Tensor], rank: int) -> dict[str, Any]:
    """The last process ends, or hangs, in its third step; the others say so, and keep what they had."""

    def leave(state: State) -> None:
        if rank == len(shares) - 1 and state.step == 3:
            if scenario == "dies":
                os._exit(3)
            time.sleep(30)
            os._exit(3)

    em = EM(mixture, process_group=group, callback=leave, tol=0, max_steps=50, acceleration=None)
    began = time.monotonic()
    found = raised(em, shares[rank])
    last = em.last
    assert last is not None
    return {**found, "seconds": time.monotonic() - began, "outcome": last.outcome, "steps": last.num_steps,
            "path": last.path, "loc": last.params["loc"].tolist()}  # fmt: skip


def main() -> None:
    """Join the group, and do what is asked."""
    scenario, rank, size, file = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=3 if scenario == "hangs" else 4 * TIMEOUT)
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size, timeout=wait)
    x = data()
    shares = [x[:30], x[30:]] if size == 2 else [x[:0], x[:50], x[50:]]
    group = distributed.group.WORLD
    asked = {"fits": lambda: fits(group, shares, rank), "streams": lambda: streams(group, size, rank)}
    print(json.dumps(asked.get(scenario, lambda: lost(scenario, group, shares, rank))()))
    sys.stdout.flush()
    os._exit(0)  # a group of which a process is gone does not end by itself


if __name__ == "__main__":
    main()
