"""Laws about data: rows split, repeated, weighted, masked, in chunks; states relabelled."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import Built, distance, farthest, lay_out, moved
from oracles.replay import Params
from oracles.steps import em_step, expect
from oracles.tolerances import IDENTITY
from programs.zoo import simulated
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from em_pyro.e_step import chunks
from em_pyro.e_step.engine import Engine
from em_pyro.m_step.ascent.hill import gradient

ROWS = {
    "coins": (0, 1),
    "gaussian-univariate": (0,),
    "gaussian-univariate-tied": (0,),
    "gaussian-two-groups": (0,),
    "gaussian-full": (0,),
    "gaussian-full-covariance": (0,),
    "gaussian-tied": (0,),
    "gaussian-diagonal": (0,),
    "gaussian-spherical": (0,),
    "poisson": (0,),
    "zero-inflated-poisson": (0,),
    "regression-linear": (0, 1),
    "regression-logistic": (0, 1),
    "regression-experts": (0, 1),
    "linkage-two-coins": (0,),
    "abo": (0,),
    "log-normal": (0,),
    "student": (0,),
    "outliers": (0,),
    "hmm-gaussian": (0, 1),
    "hmm-multivariate": (0, 1),
    "hmm-poisson": (0, 1),
}
"""Zoo models of one plate, and which arguments have a row for each of its rows."""


@cache
def whole(name: str) -> Built:
    """The model on all its rows."""
    return lay_out(*simulated(name))


def on(name: str, rows: Tensor, wrap: Callable[[Any], Any] = lambda model: model) -> Built:
    """The model on some rows, at the parameters of the whole."""
    built = whole(name)
    args = tuple(arg[rows] if i in ROWS[name] else arg for i, arg in enumerate(built.args))
    return lay_out(wrap(built.model), args, built.here, built.there)


def weigh(model: Callable[..., Any], w: Tensor) -> Callable[..., Any]:
    """The model with weighted rows."""

    def weighted(*args: Any) -> None:
        with poutine.scale(scale=w):
            model(*args)

    return weighted


def count(name: str) -> int:
    """Number of rows."""
    return len(whole(name).args[ROWS[name][0]])


def measured(built: Built) -> tuple[float, Params]:
    """Evidence and slopes of `Q` elsewhere: they are sums over rows, as the statistics are."""
    found = expect(built.compiled, built.here)
    _, slopes = gradient(built.compiled, found, built.there, list(built.there))
    return float(found.objective), slopes


def same(a: tuple[float, Params], b: tuple[float, Params]) -> bool:
    """Whether two measurements agree."""
    return distance(a[0], b[0]) < IDENTITY and farthest(a[1], b[1]) < IDENTITY


@pytest.mark.parametrize("name", ROWS)
def test_statistics_of_split_data_add_up(name: str) -> None:
    """Evidence and slopes of `Q` of two parts sum to those of the whole; without one row they do not."""
    n = count(name)
    first, second = torch.arange(n // 3), torch.arange(n // 3, n)
    one, two, short = (measured(on(name, rows)) for rows in (first, second, second[1:]))
    total = measured(whole(name))

    def plus(a: tuple[float, Params], b: tuple[float, Params]) -> tuple[float, Params]:
        return a[0] + b[0], {key: a[1][key] + b[1][key] for key in a[1]}

    assert same(plus(one, two), total)
    assert not same(plus(one, short), total)


@pytest.mark.parametrize("name", ROWS)
def test_weight_two_is_the_row_twice(name: str) -> None:
    """Weights 0, 1, 2 are a row left out, kept and repeated, for one whole EM step."""
    n = count(name)
    w = torch.tensor([2.0, 0.0, 1.0]).repeat(n)[:n]
    repeated = on(name, torch.arange(n).repeat_interleave(w.long()))
    weighted = on(name, torch.arange(n), partial(weigh, w=w))
    unweighted = whole(name)
    assert same(measured(weighted), measured(repeated))
    assert not same(measured(weighted), measured(unweighted))
    steps = [em_step(built.compiled, built.plan, built.here)[0] for built in (weighted, repeated, unweighted)]
    tolerance = 1e-6 if weighted.plan.torch else IDENTITY  # torch stops where rounding lets it
    assert farthest(steps[0], steps[1]) < tolerance
    assert farthest(steps[0], steps[2]) > tolerance


@pytest.mark.parametrize("name", ROWS)
def test_masked_is_marginalised(name: str) -> None:
    """A masked row is as good as absent, for one whole EM step."""
    n = count(name)
    seen = torch.arange(n) % 3 != 0
    masked = on(name, torch.arange(n), partial(poutine.mask, mask=seen))
    without = on(name, seen.nonzero().squeeze(-1))
    assert same(measured(masked), measured(without))
    steps = [em_step(built.compiled, built.plan, built.here)[0] for built in (masked, without, whole(name))]
    tolerance = 1e-6 if masked.plan.torch else IDENTITY  # torch stops where rounding lets it
    assert farthest(steps[0], steps[1]) < tolerance
    assert farthest(steps[0], steps[2]) > tolerance


# ---- chunks ----------------------------------------------------------------------------------------------------------

CHUNKED = ["coins", "gaussian-full", "gaussian-tied", "gaussian-diagonal", "poisson", "regression-linear", "abo"]


@pytest.mark.parametrize("name", [*CHUNKED, "zero-inflated-poisson", "outliers", "latent-classes"])
def test_chunks_are_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows taken in chunks, the last one short, have the statistics of all rows at once; a lost chunk is noticed."""
    size = {"flips": torch.randint(5, 20, (700,)).double()} if name == "coins" else {"n": 700}
    model, args = simulated(name, **size)
    built = lay_out(model, args)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    blocked = lay_out(model, args, built.here, built.there)
    engine: Engine = blocked.compiled
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 40)
    unblocked = lay_out(model, args, built.here, built.there)
    assert len(engine.parts[0].chunks()) == 3
    assert all(len(part.chunks()) == 1 for part in unblocked.compiled.parts)
    assert same(measured(blocked), measured(unblocked))
    steps = [em_step(b.compiled, b.plan, b.here)[0] for b in (blocked, unblocked)]
    assert farthest(*steps) < (1e-6 if blocked.plan.torch else IDENTITY)  # torch stops where rounding lets it
    every = type(engine.parts[0]).chunks
    monkeypatch.setattr(
        type(engine.parts[0]),
        "chunks",
        lambda self, starts=1: every(self, starts)[: max(1, len(every(self, starts)) - 1)],
    )
    if not engine.replayed:  # a replayed site's weights must have a row for each row
        assert not same(measured(blocked), measured(unblocked))


def exposures(count: Tensor, exposure: Tensor) -> None:
    """Multiply rates by an exposure of each row."""
    rate = pyro.param("rate", torch.tensor([1.0, 4.0]), constraint=constraints.positive)
    with pyro.plate("row", len(count)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
        pyro.sample("count", dist.Poisson(exposure * rate[z]), obs=count)


def known_scales(count: Tensor, scale: Tensor) -> None:
    """Observe each row with a known error of its own."""
    loc = pyro.param("loc", torch.tensor([1.0, 4.0]))
    with pyro.plate("row", len(count)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
        pyro.sample("count", dist.Normal(loc[z], scale), obs=count)


def shares_by_row(count: Tensor, _: Tensor) -> None:
    """Give each row weights of its own."""
    share = pyro.param("share", torch.full((len(count), 2), 0.5), constraint=constraints.simplex)
    rate = pyro.param("rate", torch.tensor([1.0, 4.0]), constraint=constraints.positive)
    with pyro.plate("row", len(count)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("count", dist.Poisson(rate[z]), obs=count)


@pytest.mark.parametrize("model", [exposures, known_scales, shares_by_row])
def test_arguments_that_differ_by_row_survive_chunks(
    model: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known factors, known scales and parameters of each row: a small cache changes nothing."""
    count = torch.poisson(torch.full((700,), 2.5))
    args = (count, torch.linspace(0.5, 2.0, 700))
    built = lay_out(model, args)
    at_once = measured(built), em_step(built.compiled, built.plan, built.here)[0]
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    small = lay_out(model, args, built.here, built.there)
    assert same(measured(small), at_once[0])
    assert farthest(em_step(small.compiled, small.plan, small.here)[0], at_once[1]) < IDENTITY


# ---- relabelling -----------------------------------------------------------------------------------------------------

STATES: dict[str, dict[str, tuple[int, ...]]] = {
    "coins": {"weights": (0,), "bias": (0,)},
    "gaussian-univariate": {"weights": (0,), "loc": (0,), "scale": (0,)},
    "gaussian-univariate-tied": {"weights": (0,), "loc": (0,), "scale": ()},
    "gaussian-full": {"weights": (0,), "loc": (0,), "scale_tril": (0,)},
    "gaussian-tied": {"weights": (0,), "loc": (0,), "scale_tril": ()},
    "gaussian-diagonal": {"weights": (0,), "loc": (0,), "scale": (0,)},
    "latent-classes-missing": {"weights": (0,), **{f"item_{j}": (0,) for j in range(4)}},
    "bernoulli": {"weights": (0,), "probs": (0,)},
    "regression-linear": {"weights": (0,), "coef": (0,), "scale": (0,)},
    "plsa": {"share": (1,), "topics": (0,)},
    "hmm-gaussian": {"initial": (0,), "transition": (0, 1), "loc": (0,), "scale": (0,)},
    "hmm-categorical": {"initial": (0,), "transition": (0, 1), "probs": (0,)},
    "gamma": {"weights": (0,), "concentration": (0,), "rate": (0,)},
}
"""Dimensions of each parameter along which the states lie."""


@pytest.mark.parametrize("name", STATES)
def test_relabelling_the_states_relabels_the_answer(name: str) -> None:
    """A start with its states in reverse order leads to the answer in reverse order."""
    built = whole(name)
    assert built.here.keys() == STATES[name].keys()

    def flip(params: Params) -> dict[str, Tensor]:
        return {key: value.flip(STATES[name][key]) for key, value in params.items()}

    new, found = em_step(built.compiled, built.plan, built.here)
    turned, again = em_step(built.compiled, built.plan, flip(built.here))
    tolerance = 1e-6 if built.plan.torch else IDENTITY  # torch stops where rounding lets it
    assert distance(again.objective, found.objective) < IDENTITY
    assert farthest(turned, flip(new)) < tolerance
    assert farthest(turned, new) > tolerance


def test_starts_elsewhere_lead_elsewhere() -> None:
    """The comparisons above are not of constants: another start has another evidence and another step."""
    built = whole("gaussian-full")
    other = moved(built.compiled, built.here, 5)
    assert not same(measured(built), measured(lay_out(built.model, built.args, other, built.there)))
