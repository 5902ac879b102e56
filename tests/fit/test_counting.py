"""What an iteration costs, counted and not timed: calls of the model, synchronisations and memory."""

import sys
from collections import Counter
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import bernoulli_mixture, coins, gaussian_mixture, poisson_mixture
from oracles.steps import expect
from torch import Tensor
from torch.distributions import constraints
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import em_pyro.m_step.least_squares.matrix
from em_pyro import EM
from em_pyro.fit.problem import Problem
from em_pyro.fit.step import em_step
from em_pyro.program.named import Batch, batched

SYNCHRONISING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.default")
"""Operations that wait for the device: a number or a shape is wanted on the host."""


class Counting(TorchDispatchMode):
    """Count every operation, and the entries of the largest tensor made, the range of a plate left out."""

    def __init__(self) -> None:
        """Start at nothing."""
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note one operation."""
        made = func(*args, **(kwargs or {}))
        self.calls[str(func)] += 1
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for part in tree_leaves(made):
            new = isinstance(part, Tensor) and part.untyped_storage()._cdata not in given
            if new and "aten.arange" not in str(func):  # the rows of a plate, which Pyro hands to the model: once
                self.largest = max(self.largest, part.untyped_storage().nbytes() // part.element_size())
        return made

    def synchronising(self) -> int:
        """Number of operations that wait for the device, copies to another one among them."""
        return sum(n for name, n in self.calls.items() if any(word in name for word in SYNCHRONISING))


def count(problem: Problem, batch: Batch) -> Counting:
    """Count one iteration as the loop takes it, the one look at its numbers included."""
    begun, _ = em_step(problem, batch)  # whatever is laid out once
    with Counting() as counted:
        em_step(problem, begun)
    return counted


def prepared(model: Any, *args: Any, **options: Any) -> tuple[Problem, dict[str, Tensor]]:
    """What the fit asks, and starting values."""
    em = EM(model, **options)
    em.plan(*args)
    assert em._prepared is not None
    return em._prepared, {n: v.double() for n, v in em.params.items()}


CASES: dict[str, tuple[Any, Any]] = {
    "coins": (coins.coins, lambda: (torch.randint(11, (300,)).double(), 10)),
    "bernoulli-many": (bernoulli_mixture.bernoulli_mixture, lambda: bernoulli_mixture.simulate(n=3000)),
    "gaussian-full": (gaussian_mixture.full, lambda: (gaussian_mixture.simulate(n=500), 2)),
    "gaussian-tied": (gaussian_mixture.tied, lambda: (gaussian_mixture.simulate(n=500), 2)),
    "gaussian-diagonal": (gaussian_mixture.diagonal, lambda: (gaussian_mixture.simulate(n=500), 2)),
    "bernoulli": (bernoulli_mixture.bernoulli_mixture, bernoulli_mixture.simulate),
    "poisson": (poisson_mixture.poisson_mixture, lambda: (torch.poisson(torch.full((300,), 3.0)), 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_no_synchronisation_between_looks(name: str) -> None:
    """An iteration of a compiled loop asks once for all numbers; asking is noticed."""
    model, args = CASES[name]
    problem, params = prepared(model, *args())
    assert count(problem, batched(params)).synchronising() <= 1
    assert count(problem, {n: torch.stack([v, v]) for n, v in params.items()}).synchronising() <= 1
    with Counting() as counted:
        float(expect(problem.engine, params).objective)
    assert counted.synchronising() >= 1


@pytest.mark.laws
@pytest.mark.parametrize("name", CASES)
def test_one_look_an_iteration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit of six more steps has no operation more that waits for the device: the one look a step is a list."""
    monkeypatch.setattr(em_pyro.m_step.least_squares.matrix, "at_hand", lambda tensor: False)  # as on a device
    model, args = CASES[name]
    data = args()

    def waits(steps: int) -> int:
        pyro.clear_param_store()
        em = EM(model, tol=0, max_steps=steps)
        em.plan(*data)
        with Counting() as counted:
            em.fit(*data)
        return counted.synchronising()

    assert waits(14) <= waits(8)


@pytest.mark.parametrize(("name", "operations", "calls"), [("coins", 52, 360), ("gaussian-full", 95, 485)])
def test_a_step_of_few_rows_is_few_calls(name: str, operations: int, calls: int) -> None:
    """A step of few rows takes as long as its calls: those of torch, and those of Python and of what is built into it.

    The bounds are what was counted, and one operation or some calls more.
    """
    model, args = CASES[name]
    problem, params = prepared(model, *args())
    assert sum(count(problem, batched(params)).calls.values()) <= operations
    begun, _ = em_step(problem, batched(params))
    events = Counter[str]()

    def noted(frame: Any, event: str, arg: Any) -> None:
        events[event] += 1

    before = sys.getprofile()
    sys.setprofile(noted)
    try:
        em_step(problem, begun)
    finally:
        sys.setprofile(before)
    assert 100 < events["call"] + events["c_call"] <= calls


@pytest.mark.laws
@pytest.mark.parametrize("name", CASES)
def test_the_loop_does_not_enter_the_model(name: str) -> None:
    """A long fit calls the model as often as a short one."""
    model, args = CASES[name]
    calls = 0

    def counted(*data: Any) -> None:
        nonlocal calls
        calls += 1
        model(*data)

    data, found = args(), []
    for steps in (2, 12):
        pyro.clear_param_store()
        calls = 0
        EM(counted, tol=0, max_steps=steps).fit(*data)
        found.append(calls)
    assert found[0] == found[1]


def test_memory_does_not_grow_with_the_rows() -> None:
    """The largest tensor of an iteration is of a chunk, however many rows there are; a whole one is noticed."""
    found = []
    for n in (40_000, 160_000):
        pyro.clear_param_store()
        x = torch.randn(n, 5, generator=torch.Generator().manual_seed(0))
        problem, params = prepared(gaussian_mixture.full, x, 8)
        found.append(count(problem, batched(params)).largest)
    assert found[1] < 2 * found[0]  # chunks are alike in size, so that rows four times as many may have larger ones
    assert max(found) < 40_000 * 8
    with Counting() as counted:
        torch.zeros(160_000, 8).exp()
        em_step(problem, batched(params))
    assert counted.largest >= 160_000 * 8


def mixture(x: Tensor) -> None:
    """Fit two Normal distributions with no more of a start than that."""
    weights = pyro.param("weights", x.new_tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", x.new_tensor([[-1.0, 0.0], [1.0, 0.5]]))
    scale = pyro.param("scale", x.new_ones(2, 2), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[kind], scale[kind]).to_event(1), obs=x)


def items(x: Tensor) -> None:
    """Answer some questions, each its own site."""
    weights = pyro.param("weights", x.new_tensor([0.4, 0.6]), constraint=constraints.simplex)
    start = x.new_tensor([[0.3], [0.7]]).expand(2, x.shape[1])
    probs = pyro.param("probs", start, constraint=constraints.unit_interval)
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Categorical(weights))
        for j in range(x.shape[1]):
            pyro.sample(f"answer_{j}", dist.Bernoulli(probs[kind, j]), obs=x[:, j])


def tosses(x: Tensor) -> None:
    """Toss two coins ten times a row: eleven kinds of row."""
    weights = pyro.param("weights", x.new_tensor([0.4, 0.6]), constraint=constraints.simplex)
    bias = pyro.param("bias", x.new_tensor([0.3, 0.7]), constraint=constraints.unit_interval)
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("heads", dist.Binomial(10, bias[kind]), obs=x)


def uses_its_indices(x: Tensor) -> None:
    """Read its rows by the indices of the plate: what it makes of them is as long as the data."""
    weights = pyro.param("weights", x.new_tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", x.new_tensor([-1.0, 1.0]))
    with pyro.plate("rows", len(x)) as rows:
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[kind], 1.0), obs=x[rows, 0])


MANY = 300_000  # rows: more than any block or slice holds


@pytest.mark.parametrize("model", [mixture, items, tosses])
def test_nothing_as_long_as_the_data_is_made(model: Any) -> None:
    """Neither planning, which may collapse equal rows, nor any step of a fit makes a tensor with an entry a row."""
    x = torch.randn(MANY, 5, generator=torch.Generator().manual_seed(0))
    args = {mixture: x[:, :2].contiguous(), items: (x > 0).double(), tosses: (4 * x[:, 0]).abs().round().clamp(max=10)}
    with Counting() as counted:
        fit = EM(model, max_steps=3, collapse=model is tosses).fit(args[model])
    assert counted.largest < MANY
    assert (f"11 distinct rows of {MANY:,}" in str(fit.plan)) == (model is tosses)


def test_what_is_as_long_as_the_data_is_noticed() -> None:
    """A program that makes something of every row is seen to."""
    x = torch.randn(MANY, 2, generator=torch.Generator().manual_seed(0))
    with Counting() as counted:
        EM(uses_its_indices, max_steps=3).fit(x)
    assert counted.largest >= MANY


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_separated_clusters_cost_no_calls_a_cell(kind: str) -> None:
    """Cells around their own locations: as many operations for eight clusters in six dimensions as for four in two."""
    found = []
    for K, D in ((4, 2), (8, 6)):
        pyro.clear_param_store()
        x = torch.randn(400, D, generator=torch.Generator().manual_seed(0))
        loc = 1e3 * torch.arange(K).unsqueeze(-1).expand(K, D)
        x = x + loc[torch.arange(400) % K]
        problem, params = prepared(getattr(gaussian_mixture, kind), x, K)
        here = batched({**params, "loc": loc.double()})
        natural = problem.engine.parts[0].natural(problem.bind(em_step(problem, here)[0]), None, {})
        assert natural.rows.each[0].own.every
        found.append(count(problem, here).calls.total())
    assert found[0] == found[1]
