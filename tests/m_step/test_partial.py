"""M-steps that go part of the way: few evaluations, no fall, and the same end."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, laid_out
from oracles.steps import expect
from oracles.tolerances import IDENTITY, SOLVERS
from programs.hills import hill_on
from pyro.distributions import constraints
from torch import Tensor, tensor

from em_pyro import EM
from em_pyro.fit.problem import prepare
from em_pyro.m_step.ascent.ascend import Carried, ascend
from em_pyro.m_step.ascent.climbs import LBFGS, Climb
from em_pyro.m_step.ascent.hill import Hill
from em_pyro.m_step.ascent.partial import TRIALS, Curvature, Pairs, by_curvature, by_memory
from em_pyro.m_step.regression.irls import Regression
from em_pyro.m_step.regression.site import Site

LINKS = tensor([[0.8, 0.0], [0.1, 0.7], [0.5, 0.4]])


def noisy_or(seen: Tensor) -> None:
    """Two hidden causes of three symptoms (Pearl 1988, section 4.3.2); one link is absent from the data."""
    rate = pyro.param("rate", tensor([0.4, 0.3]), constraint=constraints.unit_interval)
    link = pyro.param("link", 0.6 * LINKS + 0.15, constraint=constraints.unit_interval)
    leak = pyro.param("leak", tensor(0.1), constraint=constraints.unit_interval)
    with pyro.plate("rows", len(seen)):
        a, b = (pyro.sample(f"z{k}", dist.Bernoulli(rate[k])) for k in range(2))
        for f in range(3):
            quiet = (1 - leak) * (1 - link[f, 0] * a) * (1 - link[f, 1] * b)
            pyro.sample(f"y{f}", dist.Bernoulli(1 - quiet), obs=seen[:, f])


def symptoms(count: int = 200) -> Tensor:
    """Draw them."""
    generator = torch.Generator().manual_seed(0)
    cause = (torch.rand(count, 2, generator=generator) < tensor([0.3, 0.5])).double()
    return (torch.rand(count, 3, generator=generator) > 0.95 * (1 - LINKS * cause[:, None]).prod(-1)).double()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often `Q` is differentiated, once and twice."""
    found: Counter[str] = Counter()
    for name in ("slope", "curvature"):
        whole = getattr(Hill, name)

        def counted(self: Hill, *args: Any, name: str = name, whole: Any = whole) -> Any:
            found[name] += 1
            return whole(self, *args)

        monkeypatch.setattr(Hill, name, counted)
    return found


def test_a_step_costs_few_evaluations(calls: Counter[str]) -> None:
    """A gradient at the outset and a few trials; a Hessian for as many evaluations as it has backward passes."""
    em, seen, steps = EM(noisy_or), symptoms(), 24
    assert "few steps of Newton" in em.plan(seen)["link"].why
    losses = [em.step(seen) for _ in range(4)]
    begun = calls.copy()
    losses += [em.step(seen) for _ in range(steps)]
    assert all(b <= a + IDENTITY * (1 + abs(a)) for a, b in zip(losses, losses[1:], strict=False))
    assert calls["slope"] - begun["slope"] <= (1 + TRIALS) * steps
    assert calls["curvature"] - begun["curvature"] <= steps / 2
    calls.clear()
    whole = EM(noisy_or, m_step=dict.fromkeys(["link", "leak"], "torch"))  # the fault: every step to the maximum
    [whole.step(seen) for _ in range(steps)]
    assert calls["curvature"] > steps / 2


def test_the_end_is_that_of_whole_m_steps() -> None:
    """Where torch is asked to maximise, and where it goes part of the way: one maximum, and a slope that says so."""
    seen = symptoms()
    fits = []
    for asked in ({}, dict.fromkeys(["link", "leak"], "torch")):
        with pyro.get_param_store().scope():
            fits.append(EM(noisy_or, m_step=asked, acceleration="quasi-newton").fit(seen))
    part, whole = fits
    assert ("generalised EM" in part.plan["link"].why, "generalised EM" in whole.plan["link"].why) == (True, False)
    assert part.converged
    assert whole.converged
    assert abs(part.objective - whole.objective) < 2e-8 * 10 * (1 + abs(whole.objective))


@pytest.mark.parametrize("hessian", [1e3, -1e-4, 1e9])
def test_a_memory_that_is_wrong_is_given_up(hessian: float) -> None:
    """Whatever is carried, `Q` rises by about as much as with the Hessian of the place."""
    with pyro.get_param_store().scope():
        here = prepare(noisy_or, (symptoms(),), {}, {}, check=False)
    params = {name: p.initial.double() for name, p in here.program.parameters.items()}
    found = expect(here.engine, params)
    (climb,) = here.plan.climbs
    values = []
    memories: list[Carried] = [{}, {climb.names: Curvature(hessian * torch.eye(7), torch.ones(7), age=100)}]
    for memory in memories:
        new = ascend(here.engine, found, params, climb, memory)
        values.append(float(here.engine.q({n: v.unsqueeze(0) for n, v in {**params, **new}.items()}, found)))
    begun = float(here.engine.q({n: v.unsqueeze(0) for n, v in params.items()}, found))
    assert values[0] > begun
    assert values[1] > begun + 0.3 * (values[0] - begun)


def bowl(x: Tensor) -> Tensor:
    """A hill of two coordinates that meet, with its top at one."""
    return -(x - 1).square().cosh().sum() - 0.3 * (x[0] - x[1]).square()


@pytest.mark.parametrize("by", [by_curvature, by_memory])
def test_a_memory_gets_there(by: Any) -> None:
    """Call upon call, with what each has left to the next, leads to the top."""
    hill = hill_on(bowl, tensor([0.05, 0.3]))
    point, known = (hill.start, *hill.slope(hill.start)), None
    for _ in range(30):
        point, known, *_ = by(hill, point, known, *([None] if by is by_curvature else []))
    assert point[1] > hill.value(tensor([1.0, 1.0])) - SOLVERS
    assert known is not None
    assert known.size == 2


def test_a_pair_along_which_q_is_convex_is_not_remembered() -> None:
    """Its direction would be one of descent."""
    none = torch.zeros(0, 2)
    step = tensor([1.0, 0.5])
    assert len(Pairs(none, none).with_pair(step, 2 * step).steps) == 0
    pairs = Pairs(none, none).with_pair(step, -2 * step)
    assert distance(pairs.direction(step), step / 2) < IDENTITY


def test_blocks_of_many_entries_remember_pairs() -> None:
    """L-BFGS over M-steps ascends, and its memory goes with the start."""
    built = laid_out("irt-normal-ogive")
    found, climb = expect(built.compiled, built.here), built.plan.climbs[0]
    memory: Any = {}
    part = Climb(climb.names, LBFGS, exact=False)
    here, heights = built.here, []
    for _ in range(8):
        here = {**here, **ascend(built.compiled, found, here, part, memory)}
        heights.append(float(built.compiled.q({n: v.unsqueeze(0) for n, v in here.items()}, found)))
    assert all(b >= a - IDENTITY * abs(a) for a, b in pairwise(heights))
    assert isinstance(memory[climb.names], Pairs)


def test_categories_cost_no_passes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rate behind thirty logits is differentiated as one coordinate, with what all thirty would have said."""
    size = torch.arange(30.0)

    def model(y: Tensor) -> None:
        lam = pyro.param("lam", tensor(6.0), constraint=constraints.positive)
        with pyro.plate("sites", len(y)):
            n = pyro.sample("n", dist.Categorical(logits=dist.Poisson(lam).log_prob(size)))
            pyro.sample("y", dist.Normal(n, 1.0), obs=y)

    y, found = tensor([3.0, 1.0, 8.0, 4.0]), []
    for few in (True, False):
        monkeypatch.setattr(Site, "by_coordinates", lambda self, count, few=few: few)
        with pyro.get_param_store().scope():
            here = prepare(model, (y,), {}, {}, check=False)
            (solver,) = here.plan.solvers
            assert isinstance(solver, Regression)
            batch = {name: p.initial.double().unsqueeze(0) for name, p in here.program.parameters.items()}
            sums = here.engine.expect(here.engine.bind(batch)).sums
            found.append(solver.expand(solver.coordinates(batch), solver._sums(sums), batch))
            (site,) = solver.sites
    monkeypatch.undo()
    assert site.by_coordinates(1)
    assert all(distance(a, b) < IDENTITY for a, b in zip(*found, strict=True))
