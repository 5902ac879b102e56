"""One process of a group: `python share.py SCENARIO RANK SIZE FILE`; what it has found is printed as JSON."""

import datetime
import json
import os
import sys
import time
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, distributed, tensor
from torch.distributions import constraints

from em_pyro import EM, EMError
from em_pyro.fit.loop import State

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


def raised(em: EM, x: Tensor) -> dict[str, str]:
    """The error of a fit."""
    try:
        em.fit(x)
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
    print(json.dumps(fits(group, shares, rank) if scenario == "fits" else lost(scenario, group, shares, rank)))
    sys.stdout.flush()
    os._exit(0)  # a group of which a process is gone does not end by itself


if __name__ == "__main__":
    main()
