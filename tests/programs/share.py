"""Groups of real processes: `python share.py` reads lines "SCENARIO SIZE FOLDER", and forks a group for each.

Of every line it prints what each process has found, as JSON. Torch is imported once, before the forks.
"""

import datetime
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, distributed, tensor
from torch.distributions import constraints

from em_pyro import EM, EMError, load
from em_pyro.fit.loop import State
from programs import torchrun
from programs.batches import Broken
from programs.columns import dummies, exposed_groups, exposed_shares, slope, sorted_rows
from programs.links import batches, gamma, poissons

Ran = Callable[..., list[Any]]
"""Asked for a scenario by so many processes, what each has found."""

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"acceleration": None},
    "starts": {"acceleration": None, "starts": 3, "seed": 2},
    "accelerated": {"acceleration": "quasi-newton"},
}

FITS = {2: ("plain", "accelerated"), 3: ("starts",)}
"""Which of these are fitted by how many processes."""

LINKED = {2: (gamma,), 3: (poissons,)}
"""And which regressions with a link."""

TIMEOUT = 15  # seconds, of the group; of the one in which a process hangs, three


def data() -> Tensor:
    """Two clusters, sorted: the shares have other means."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.arange(90).remainder(3).eq(0).double()
    return (torch.randn(90, generator=generator, dtype=torch.float64) + 6 * sides).sort().values


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


def weighed(x: Tensor, w: Tensor) -> None:
    """Rows with weights."""
    loc = pyro.param("loc", tensor([0.0, 4.0]))
    with pyro.poutine.scale(scale=w), pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


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
    """Fits of all rows; of three also one in which a process has no weight, of two what is refused."""
    found: dict[str, Any] = {}
    for name in FITS[len(shares)]:
        pyro.clear_param_store()
        found[name] = told(EM(mixture, process_group=group, **OPTIONS[name]).fit(shares[rank]))
    pyro.clear_param_store()
    if len(shares) > 2:
        weights = torch.full_like(shares[rank], float(rank < len(shares) - 1))
        found["idle"] = told(EM(weighed, process_group=group, acceleration=None).fit(shares[rank], weights))
        return found
    found["refused"] = raised(EM(heavy, process_group=group), shares[rank])
    found["centred"] = raised(EM(centred, process_group=group), shares[rank])
    found["options"] = raised(EM(mixture, process_group=group, seed=rank), shares[rank])
    bad = shares[rank].clone()
    if rank == len(shares) - 1:
        bad[-1] = torch.nan
    found["data"] = raised(EM(mixture, process_group=group), bad)
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
    for model in LINKED[size]:
        pyro.clear_param_store()
        found[model.__name__] = told(EM(model, process_group=group, tol=1e-12).fit_stream(mine[rank]))
    ends = [0, 140, 300] if size == 2 else [0, 0, 140, 300]
    share = {name: part[ends[rank] : ends[rank + 1]] for name, part in sorted_rows().items()}
    for model in (slope, exposed_shares) if size == 2 else (dummies, exposed_groups):
        pyro.clear_param_store()
        found[model.__name__] = told(EM(model, process_group=group, acceleration=None, tol=0, max_steps=4).fit(share))
    if size > 2:
        whole = [torch.cat(parts) for parts in zip(*mine[rank], strict=True)] or [part[:0] for part in every[0]]
        pyro.clear_param_store()
        return found | {"shares": told(EM(poissons, process_group=group, tol=1e-12).fit(*whole))}
    broken = Broken(cut[rank]) if rank == size - 1 else cut[rank]
    found["changed"] = raised(EM(mixture, process_group=group, acceleration=None, check=False), broken, "fit_stream")
    found["none"] = raised(EM(mixture, process_group=group), [], "fit_stream")
    return found


def steps(group: Any, shares: list[Tensor], rank: int) -> dict[str, Any]:
    """Single steps, planned once; and more of them where one process has other rows."""
    em, plans = EM(mixture, process_group=group, starts={"loc": tensor([0.0, 4.0])}), [0]
    planned = em._planned

    def counted(*args: Any, **kwargs: Any) -> Any:
        plans[0] += 1
        return planned(*args, **kwargs)

    em._planned = counted  # type: ignore[method-assign]
    losses = [em.step(shares[rank]) for _ in range(4)]
    first = plans[0]
    other = shares[rank] + 1.0 if rank == len(shares) - 1 else shares[rank]
    losses += [em.step(other) for _ in range(2)]
    return {"losses": losses, "loc": em.params["loc"].tolist(), "plans": first}


def assigned(group: Any, shares: list[Tensor], rank: int) -> dict[str, Any]:
    """Rows in one state each: in shares, in batches of shares, and what has no such M-step."""
    found: dict[str, Any] = {}
    batches_of = list(shares[rank].split(20)) if len(shares[rank]) else []
    start = {"starts": {"loc": tensor([0.0, 4.0])}}
    for how, options in {"hard": {}, "sampled": {"max_steps": 12}}.items():
        pyro.clear_param_store()
        found[how] = told(EM(mixture, process_group=group, e_step=how, **start, **options).fit(shares[rank]))
    pyro.clear_param_store()
    found["stream"] = told(EM(mixture, process_group=group, e_step="hard", **start).fit_stream(batches_of))
    try:
        EM(poissons, process_group=group, e_step="hard").fit(*batches()[0])
    except EMError as error:
        found["links"] = str(error)
    return found


def lost(scenario: str, group: Any, shares: list[Tensor], rank: int, folder: Path) -> dict[str, Any]:
    """The last process ends, or hangs, in its third step; the others say so, and keep what they had."""

    def leave(state: State) -> None:
        if rank == len(shares) - 1 and state.step == 3:
            if scenario == "dies":
                os._exit(3)
            time.sleep(600)

    em = EM(mixture, process_group=group, callback=leave, tol=0, max_steps=50, acceleration=None)
    began = time.monotonic()
    found = raised(em, shares[rank])
    last = em.last
    assert last is not None
    last.save(folder / scenario)
    return {**found, "seconds": time.monotonic() - began, "outcome": last.outcome, "steps": last.num_steps,
            "path": last.path, "loc": last.params["loc"].tolist()}  # fmt: skip


def kept(scenario: str, group: Any, shares: list[Tensor], rank: int, folder: Path) -> dict[str, Any]:
    """Fits that write a checkpoint: the first or the last process is killed, or all go on, in these or other shares."""
    dies = {"first-killed": 0, "last-killed": len(shares) - 1}.get(scenario)

    def leave(state: State) -> None:
        if rank == dies and state.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    file = folder / "fit.pt"
    if rank == 0 and dies is not None:
        file.unlink(missing_ok=True)
    em = EM(mixture, process_group=group, callback=leave, acceleration=None, checkpoint=file, every=1)
    x = shares[rank].flip(0) if scenario == "other-shares" else shares[rank]
    found = raised(em, x)
    return found or told(em.last)


def again(group: Any, shares: list[Tensor], rank: int, folder: Path) -> dict[str, Any]:
    """A fit from the last values of one that has lost a process."""
    return told(
        EM(mixture, process_group=group, acceleration=None, starts=load(folder / "dies").params).fit(shares[rank])
    )


def joined(scenario: str, rank: int, size: int, folder: Path, there: Path) -> Any:
    """Join a group whose file lies `there`, and do what is asked; files of the scenario go into `folder`."""
    wait = datetime.timedelta(seconds=3 if scenario == "hangs" else 4 * TIMEOUT)
    file = f"file://{there / 'group'}"
    distributed.init_process_group("gloo", init_method=file, rank=rank, world_size=size, timeout=wait)
    x = data()
    shares = [x[:30], x[30:]] if size == 2 else [x[:0], x[:50], x[50:]]
    group = distributed.group.WORLD
    if scenario == "streams":
        return streams(group, size, rank)
    if scenario in ("dies", "hangs"):
        return lost(scenario, group, shares, rank, folder)
    if scenario == "again":
        return again(group, shares, rank, folder)
    alone = {"fits": fits, "steps": steps, "assigned": assigned}
    if scenario in alone:
        return alone[scenario](group, shares, rank)
    return kept(scenario, group, shares, rank, folder)


def ran(scenario: str, size: int, folder: Path) -> list[Any]:
    """Fork a group, and return what each process has found; None of one that has ended without a word.

    One that hangs is killed when all others have ended.
    """
    there, children = Path(tempfile.mkdtemp()), []
    port = torchrun.free_port()
    for rank in range(size):
        if not (child := os.fork()):
            forked(scenario, rank, size, folder, there, port)
        children.append(child)
    for rank, child in enumerate(children):
        if scenario == "hangs" and rank == size - 1:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    files = [there / str(rank) for rank in range(size)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def forked(scenario: str, rank: int, size: int, folder: Path, there: Path, port: int) -> NoReturn:
    """Write what one process has found, and end: a group of which a process is gone does not end by itself."""
    try:
        example = scenario == "example"
        found = torchrun.example(rank, size, port) if example else joined(scenario, rank, size, folder, there)
        (there / str(rank)).write_text(json.dumps(found))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def main() -> None:
    """Answer line by line."""
    import torch._dynamo  # a backward pass imports it: here it is once for all

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for line in sys.stdin:
        scenario, size, folder = line.split()
        print(json.dumps(ran(scenario, int(size), Path(folder))), flush=True)


if __name__ == "__main__":
    main()
