"""Statistics that follow from others are left out of the products: the same answers, and all of them near zero."""

from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.contraction import mixture
from em_pyro.e_step.contraction.mixture import Mixture
from em_pyro.e_step.engine import Engine
from em_pyro.e_step.several.lean import LEAST, SMALLEST, Features
from em_pyro.m_step.maximise import maximise
from em_pyro.m_step.plan import Plan
from em_pyro.program.named import batched

N, K, J = 60, 3, 4


@pytest.fixture(autouse=True)
def few_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave features out although there are few rows."""
    monkeypatch.setattr(mixture, "FEW", 0)


def draw(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def weights() -> Tensor:
    """Mixing weights."""
    return pyro.param("weights", tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)


def items(shape: tuple[int, ...]) -> Tensor:
    """Probabilities of yes, away from zero and one."""
    start = torch.linspace(0.2, 0.8, torch.Size(shape).numel()).reshape(shape)
    return pyro.param("probs", start, constraint=constraints.unit_interval)


def bernoulli(x: Tensor) -> None:
    """Binary answers as one event."""
    probs = items((K, J))
    with pyro.plate("person", len(x)):
        kind = pyro.sample("kind", dist.Categorical(weights()))
        pyro.sample("x", dist.Bernoulli(probs[kind]).to_event(1), obs=x)


def folded(x: Tensor) -> None:
    """Binary answers in a plate of items."""
    probs = items((K, J))
    with pyro.plate("person", len(x), dim=-2):
        kind = pyro.sample("kind", dist.Categorical(weights()))
        with pyro.plate("item", J, dim=-1):
            pyro.sample("x", dist.Bernoulli(probs[kind, torch.arange(J)]), obs=x)


def loop(x: Tensor, mask: Tensor | None = None) -> None:
    """Categories, one site an item, and a mask."""
    start = (torch.eye(K) + 0.5) / 2.5
    rows = [pyro.param(f"row_{j}", start, constraint=constraints.simplex) for j in range(x.shape[1])]
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    with pyro.plate("person", len(x)):
        kind = pyro.sample("kind", dist.Categorical(weights()))
        for j, row in enumerate(rows):
            pyro.sample(f"x_{j}", dist.Categorical(row[kind]).mask(mask[:, j]), obs=x[:, j])


def binomial(x: Tensor, total: Tensor) -> None:
    """Successes among known totals."""
    probs = items((K,))
    with pyro.plate("row", len(x)):
        kind = pyro.sample("kind", dist.Categorical(weights()))
        pyro.sample("x", dist.Binomial(total, probs[kind]), obs=x)


def multinomial(x: Tensor) -> None:
    """Counts of categories."""
    probs = pyro.param("probs", (torch.eye(K) + 0.5) / 2.5, constraint=constraints.simplex)
    with pyro.plate("row", len(x)):
        kind = pyro.sample("kind", dist.Categorical(weights()))
        pyro.sample("x", dist.Multinomial(probs=probs[kind], validate_args=False), obs=x)


def mixed(x: Tensor, y: Tensor) -> None:
    """Binary answers beside a narrow normal, whose natural parameters are large."""
    probs = items((K, J))
    loc = pyro.param("loc", tensor([-1.0, 0.0, 1.0]))
    scale = pyro.param("scale", torch.full((K,), 1e-4), constraint=constraints.positive)
    with pyro.plate("person", len(x)):
        kind = pyro.sample("kind", dist.Categorical(weights()))
        pyro.sample("x", dist.Bernoulli(probs[kind]).to_event(1), obs=x)
        pyro.sample("y", dist.Normal(loc[kind], scale[kind]), obs=y)


def answers(high: int = 2, columns: int = J) -> Tensor:
    """Integers below `high`, shape (N, columns)."""
    return torch.randint(high, (N, columns), generator=draw())


def near() -> Tensor:
    """Values within some thousandths of -1, 0 and 1."""
    return torch.arange(N).remainder(3) - 1.0 + 1e-3 * torch.randn(N, generator=draw())


def counts() -> Tensor:
    """Rows of counts that add up to nine."""
    return dist.Multinomial(9, tensor([0.2, 0.3, 0.5])).sample((N,)).double()


LEAN: dict[str, tuple[Any, Any]] = {
    "bernoulli": (bernoulli, lambda: (answers().double(),)),
    "folded": (folded, lambda: (answers().double(),)),
    "loop": (loop, lambda: (answers(K),)),
    "binomial": (binomial, lambda: (answers(8, 1)[:, 0].double(), tensor(7.0))),
    "binomial-each-seven": (binomial, lambda: (answers(8, 1)[:, 0].double(), torch.full((N,), 7.0))),
    "multinomial": (multinomial, lambda: (counts(),)),
    "mixed": (mixed, lambda: (answers().double(), near())),
}
"""Programs that are lean."""

COMPLETE: dict[str, tuple[Any, Any]] = {
    "binomial-of-several-totals": (binomial, lambda: (answers(4, 1)[:, 0].double(), 3.0 + answers(3, 1)[:, 0])),
    "loop-with-a-gap": (loop, lambda: (answers(K, 1), torch.arange(N).unsqueeze(-1) > 0)),
}
"""Programs in which nothing follows from the rest."""


def prepared(model: Any, *args: Any) -> tuple[Engine, Plan, dict[str, Tensor]]:
    """Engine, plan and starting values; equal rows are kept apart."""
    pyro.clear_param_store()
    em = EM(model, collapse=False)
    plan = em.plan(*args)
    assert em._prepared is not None
    return em._prepared.engine, plan, {n: v.double() for n, v in em.params.items()}


def mixture_of(engine: Engine) -> Mixture:
    """The mixture of an engine."""
    (part,) = [p for p in engine.parts if isinstance(p, Mixture)]
    return part


def complete(engine: Engine, lean: Features | None = None) -> Engine:
    """The same engine with all features, or with the given lean ones."""
    part = replace(mixture_of(engine))
    part.__dict__["lean"] = lean
    return replace(engine, parts=tuple(part if isinstance(p, Mixture) else p for p in engine.parts))


def apart(engine: Engine, plan: Plan, batch: dict[str, Tensor], other: Engine | None = None) -> float:
    """Largest difference between one step of an engine and one of it with all features."""
    ends = []
    for each in (complete(engine), other or engine):
        found = each.expect(each.bind(batch))
        ends.append((maximise(each, plan, found, batch), found))
    (a, one), (b, two) = ends
    assert one.sums.keys() == two.sums.keys()
    pairs = [(a[n], b[n]) for n in a]
    pairs += [pair for n, sums in one.sums.items() for pair in zip(sums.parts, two.sums[n].parts, strict=True)]
    pairs.append((one.log_evidence, two.log_evidence))
    return max(float(((x - y).abs() / (1 + x.abs())).max()) for x, y in pairs)


@pytest.mark.parametrize("name", LEAN)
def test_the_same_step(name: str) -> None:
    """Evidence, statistics and new parameters; of several starts at once as well."""
    model, args = LEAN[name]
    engine, plan, params = prepared(model, *args())
    assert mixture_of(engine).lean is not None
    assert apart(engine, plan, batched(params)) < 1e-10
    assert apart(engine, plan, {n: torch.stack([v, v.flip(0)]) for n, v in params.items()}) < 1e-10


@pytest.mark.parametrize("name", LEAN)
def test_a_wrong_total_is_noticed(name: str) -> None:
    """The check of the test above sees a total that is a thousandth too large."""
    model, args = LEAN[name]
    engine, plan, params = prepared(model, *args())
    lean = mixture_of(engine).lean
    assert lean is not None
    wrong = Features(lean.rows, {n: 1.001 * total for n, total in lean.totals.items()}, ones=True)
    assert apart(engine, plan, batched(params), complete(engine, wrong)) > 1e-6


@pytest.mark.parametrize("name", COMPLETE)
def test_nothing_is_left_out(name: str) -> None:
    """Totals that differ between rows, and gaps."""
    model, args = COMPLETE[name]
    engine, _, _ = prepared(model, *args())
    assert all(part.lean is None for part in engine.parts if isinstance(part, Mixture))


def test_near_zero_all_features_are_taken() -> None:
    """An item that only one kind answers with yes: the path is that of all features, and its zeros are exact."""
    x = answers().double()
    x[:, 0] = (torch.arange(N) < N // 2).double()
    x[:, 1:] = torch.where(x[:, :1] == 1, x[:, 1:], 0.0)
    paths = []
    for lean in (True, False):
        pyro.clear_param_store()
        em = EM(bernoulli, tol=0, max_steps=300, collapse=False)
        em.plan(x)
        assert em._prepared is not None
        if not lean:
            mixture_of(em._prepared.engine).__dict__["lean"] = None
        fit = em.fit(x)
        paths.append(fit)
    close(tensor(paths[0].path), tensor(paths[1].path))
    for name, value in paths[1].params.items():
        close(paths[0].params[name], value)
    smallest = float(paths[0].params["probs"].min())
    assert 0 <= smallest < SMALLEST
    assert (paths[0].switches, paths[1].switches) == (1, 0)  # summed again where the zeros begin


def test_a_structural_zero_does_not_swamp() -> None:
    """At a probability of exactly zero the lean form is still finite, and off by little more than rounding."""
    engine, plan, params = prepared(bernoulli, answers().double())
    params["probs"][0, 0] = 0.0
    params["probs"][1, 1] = 1.0
    assert apart(engine, plan, batched(params)) < 1e-15 * -LEAST
