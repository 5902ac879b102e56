"""How Gaussian latents enter, told by runs that are made at once and by runs one by one: the same."""

from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.runs import counted
from oracles.tolerances import IDENTITY
from programs.gaussian_programs import gaussian_program
from torch import Tensor
from torch.distributions import constraints

from em_pyro.fit.problem import prepare
from em_pyro.program.program import Program
from em_pyro.reading.latents.bilinear import Bilinear
from em_pyro.reading.latents.replays import Replays
from em_pyro.reading.reading import Recognition


def read(seed: int) -> tuple[Recognition, int]:
    """Return what is read of a random program, and how often the model is run for it."""
    written = gaussian_program(seed)
    pyro.clear_param_store()
    with pytest.MonkeyPatch.context() as patch:
        calls = counted(patch)
        args = tuple(written.args.values())
        problem = prepare(written.model, args, {}, {}, check=False, continuous=written.continuous)
    return problem.engine.full.recognition, len(calls)


def numbers(site: Bilinear) -> Iterator[Tensor]:
    """Yield all that a residual is made of."""
    yield from (*site.index, *site.constants)
    for slot in site.slots:
        yield slot.which
        yield from (slope for slope in slot.slopes if slope is not None)


@pytest.mark.parametrize("seed", range(12))
def test_runs_at_once_tell_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which entries cells take, covariates and responses; by fewer runs of the model."""
    together, few = read(seed)
    monkeypatch.setattr("em_pyro.program.points.abreast.FEW", 10**9)
    alone, many = read(seed)
    assert together.latents is not None
    assert alone.latents is not None
    assert few < many - 5
    assert together.latents.sites.keys() == alone.latents.sites.keys()
    for name, site in together.latents.sites.items():
        other = alone.latents.sites[name]
        for mine, its in zip(numbers(site), numbers(other), strict=True):
            close(mine.double(), its.double(), IDENTITY)


def test_what_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the latents that were run at once, none is run again."""
    seen = list[Tensor]()
    ahead, run = Replays.ahead, Replays.run

    def before(replays: Replays, points: Any, known: Any, moved: Any = None) -> None:
        ahead(replays, points, known, moved)
        seen.extend(() if moved else points)
        monkeypatch.setattr(replays.__class__, "run", after)

    def after(replays: Replays, latents: Tensor, moved: Any) -> Any:
        if not moved and any(torch.equal(latents, point) for point in seen):
            monkeypatch.setattr(Program, "run", lambda *_: pytest.fail("these latents were run before"))
            found = run(replays, latents, moved)
            monkeypatch.undo()
            monkeypatch.setattr(replays.__class__, "run", after)
            return found
        return run(replays, latents, moved)

    monkeypatch.setattr(Replays, "ahead", before)
    read(0)
    assert len(seen) >= 4


def test_what_all_steps_take_does_not_count_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """An effect of the shape of a step meets all of them: the steps still move by every second, as without it."""

    def panel(y: Tensor) -> None:
        one = torch.ones(()).double()
        keep = pyro.param("keep", 0.8 * one)
        spread, moves, noise = (pyro.param(n, one, constraint=constraints.positive) for n in ("u", "q", "r"))
        with pyro.plate("rows", len(y)):
            effect, z = pyro.sample("effect", dist.Normal(0.0 * one, spread)), y[..., 0] * 0
            for t in pyro.markov(range(y.shape[-1])):
                z = pyro.sample(f"z_{t}", dist.Normal(keep * z, moves))
                pyro.sample(f"y_{t}", dist.Normal(effect + z, noise), obs=y[..., t])

    calls = counted(monkeypatch)
    prepare(panel, (torch.arange(600.0).double().sin().reshape(10, 60),), {}, {}, check=False)
    assert len(calls) < 60
