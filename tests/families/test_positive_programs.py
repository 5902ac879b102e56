"""Families of positive and heavy-tailed data in larger programs, and at their limits."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import check_closed, same, step
from oracles.tolerances import IDENTITY, SOLVERS
from programs.zoo import simulated
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.families import RowFamily, family_for
from em_pyro.families.heavy_tailed import NORMAL

N = 60
positive, unit = constraints.positive, constraints.unit_interval


def draw(law: Any, *shape: int) -> Tensor:
    """Sample."""
    return law.sample(shape)


def test_events_and_masks() -> None:
    """Columns of their own shapes, some answers missing (and not even valid), rows of known exposure."""
    x = draw(dist.Gamma(3.0, 1.0), N, 2)
    seen = torch.rand(N, 2) > 0.2
    exposure = 1 + torch.rand(N)

    def model(law: Any, x: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.6, 0.4]), constraint=constraints.simplex)
        first = pyro.param("first", tensor([[1.0, 2.0], [3.0, 2.5]]), constraint=positive)
        second = pyro.param("second", tensor([[1.0, 2.0], [1.5, 2.5]]), constraint=positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", law(first[z], second[z]).mask(seen).to_event(1), obs=x)

    for law in (dist.Gamma, dist.Weibull, dist.InverseGamma):
        check_closed(lambda x, law=law: model(law, x), x)
    check_closed(lambda x: model(dist.Weibull, x), torch.where(seen, x, torch.full_like(x, 7.0)))

    def exposed(x: Tensor) -> None:
        rate = pyro.param("rate", tensor([0.5, 2.0]), constraint=positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Gamma(exposure, rate[z]), obs=x)
            pyro.sample("y", dist.Poisson(exposure * rate[z]), obs=x.floor())

    check_closed(exposed, x[:, 0])


def test_what_does_not_matter_behind_a_mask() -> None:
    """A masked value changes nothing, in a row-wise family either."""
    x = draw(dist.Weibull(2.0, 1.5), N)
    seen = torch.arange(N) % 5 > 0

    def model(x: Tensor) -> None:
        scale = pyro.param("scale", tensor([1.0, 2.0]), constraint=positive)
        k = pyro.param("k", tensor([1.0, 1.5]), constraint=positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Weibull(scale[z], k[z]).mask(seen), obs=x)

    first, other = (step(model, values).params for values in (x, torch.where(seen, x, 1e-3 + 0 * x)))
    for name in first:
        same(first[name], other[name])


def test_tied_across_sites() -> None:
    """Two sites, one law: their rows are pooled."""
    x = draw(dist.StudentT(3.0, 1.0, 2.0), N)

    def model(x: Tensor) -> None:
        df = pyro.param("df", tensor([3.0, 5.0]), constraint=positive)
        loc = pyro.param("loc", tensor([0.0, 2.0]))
        scale = pyro.param("scale", tensor([1.0, 1.5]), constraint=positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.StudentT(df[z], loc[z], scale[z]), obs=x)
            pyro.sample("y", dist.StudentT(df[z], loc[z], scale[z]), obs=x.flip(0) + 1)

    check_closed(model, x)


def test_nothing_latent() -> None:
    """Without a latent one step is the maximum of the likelihood."""
    x = draw(dist.Weibull(2.0, 1.5), N)

    def model(x: Tensor) -> None:
        scale = pyro.param("scale", tensor(1.0), constraint=positive)
        k = pyro.param("k", tensor(1.0), constraint=positive)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Weibull(scale, k), obs=x)

    params = {name: value.requires_grad_() for name, value in check_closed(model, x).params.items()}
    slopes = torch.autograd.grad(dist.Weibull(params["scale"], params["k"]).log_prob(x).sum(), list(params.values()))
    assert max(float(slope.abs()) for slope in slopes) < IDENTITY * N


def test_laplace() -> None:
    """Weighted median and mean absolute deviation: no location is better, and no fit stumbles over the kink."""
    model, (x,) = simulated("laplace")
    taken = step(model, x)
    assert set(taken.how.values()) == {"closed form"}
    assert taken.slope <= IDENTITY
    start = {name: value[:, None] for name, value in taken.start.items()}
    weights = (start["weights"] * dist.Laplace(start["loc"], start["scale"]).log_prob(x).exp()).T
    weights = (weights / weights.sum(-1, keepdim=True)).T
    for k in range(2):
        cost = (weights[k] * (x - x[:, None]).abs()).sum(-1)
        best = taken.params["loc"][k]
        assert float((weights[k] * (x - best).abs()).sum()) <= float(cost.min()) + IDENTITY
        same(taken.params["scale"][k], cost.min() / weights[k].sum())
    with pyro.get_param_store().scope():
        fit = EM(model).fit(x)
    assert str(fit.outcome) == "converged"
    assert not any("withdrawn" in note for note in fit.notes)


def test_angles_are_modulo_a_turn() -> None:
    """A location that starts a turn away stays there, and the fit is the same."""
    _, (x,) = simulated("von-mises")

    def model(x: Tensor, turns: float) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.5]) + 2 * torch.pi * turns)
        k = pyro.param("k", tensor([2.0, 2.0]), constraint=positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.VonMises(loc[z], k[z]), obs=x)

    here, there = (step(model, x, turns).params for turns in (0.0, 3.0))
    same(here["loc"] + 6 * torch.pi, there["loc"], IDENTITY)
    same(here["k"], there["k"])


def test_no_solution_keeps_the_value() -> None:
    """No weight, or values that are all equal: the shape stays, and nothing is nan."""
    one, gamma = torch.ones(1), family_for(dist.Gamma).wider
    assert gamma is not None
    args = {"concentration": 2 * one, "rate": 3 * one}
    for n, value in ((0.0, 1.0), (5.0, 1.7)):
        sums = (n * one, n * value * one, n * tensor([value]).log())
        got = gamma.solve(sums, args, frozenset(args))
        assert bool(torch.isfinite(torch.cat(list(got.values()))).all())
        assert float(got["concentration"]) == 2.0
    shares = family_for(dist.Dirichlet)
    args = {"concentration": tensor([[2.0, 3.0]])}
    got = shares.solve((one, tensor([[0.3, 0.7]]).log()), args, frozenset(args))
    assert got["concentration"].tolist() == [[2.0, 3.0]]
    student, nothing = family_for(dist.StudentT), torch.zeros(1, 4)
    assert isinstance(student, RowFamily)
    args = {"df": 4 * one, "loc": one, "scale": 2 * one}
    assert student.solve_rows(torch.randn(1, 4), nothing, args, frozenset(args)) == args


def test_limits() -> None:
    """Counts no more dispersed than Poisson counts, values no heavier than normal ones: large, and finite."""
    one, counts = torch.ones(1), family_for(dist.NegativeBinomial).wider
    assert isinstance(counts, RowFamily)
    x = tensor([[4.0, 5.0, 6.0]])
    args = {"total_count": 5 * one, "probs": 0.5 * one}
    got = counts.solve_rows(x, torch.ones(1, 3), args, frozenset(args))
    assert float(got["total_count"]) > 1e5
    same(got["total_count"] * got["probs"] / (1 - got["probs"]), 5 * one)
    zeros = counts.solve_rows(0 * x, torch.ones(1, 3), args, frozenset(args))
    assert (float(zeros["total_count"]), float(zeros["probs"])) == (5.0, 0.0)
    student = family_for(dist.StudentT)
    assert isinstance(student, RowFamily)
    args = {"df": 4 * one, "loc": one, "scale": 2 * one}
    flat = torch.linspace(-1, 1, 50)[None]
    got = student.solve_rows(flat, torch.ones(1, 50), args, frozenset(args))
    assert float(got["df"]) == pytest.approx(NORMAL)
    same(got["scale"], flat.std(-1, correction=0), 1e-7)


@pytest.mark.parametrize("case", ["permuted", "overlapping", "one minus", "shared"])
def test_what_has_no_closed_form(case: str) -> None:
    """Arguments that are no rows of their parameters, and rows whose partners differ, are for torch."""
    x = draw(dist.Dirichlet(torch.ones(3)), N)

    def shares(x: Tensor) -> None:
        concentration = pyro.param("a", tensor([2.0, 3.0, 4.0, 5.0]), constraint=positive)
        rows = {"permuted": [[2, 1, 0], [2, 0, 1]], "overlapping": [[0, 1, 2], [1, 2, 3]]}[case]
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Dirichlet(concentration[tensor(rows)[z]]), obs=x)

    heads = draw(dist.NegativeBinomial(2.0, tensor(0.6)), N)

    def counts(x: Tensor) -> None:
        r = pyro.param("r", tensor([2.0, 3.0]), constraint=positive)
        a = pyro.param("a", tensor([0.3, 0.6]) if case == "one minus" else tensor(0.3), constraint=unit)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            probs = 1 - a[z] if case == "one minus" else a
            pyro.sample("x", dist.NegativeBinomial(r[z], probs), obs=heads)

    model = shares if case in ("permuted", "overlapping") else counts
    taken = step(model, x)
    assert taken.how["a"] == "torch"
    assert taken.slope < SOLVERS


def test_a_partner_that_is_used_elsewhere() -> None:
    """A rate that is a Poisson's as well has no joint closed form with a free concentration."""
    x = draw(dist.Gamma(3.0, 1.0), N)

    def model(x: Tensor) -> None:
        a = pyro.param("a", tensor([2.0, 3.0]), constraint=positive)
        b = pyro.param("b", tensor([1.0, 2.0]), constraint=positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Gamma(a[z], b[z]), obs=x)
            pyro.sample("y", dist.Poisson(b[z]), obs=x.floor())

    taken = step(model, x)
    assert taken.how == {"a": "torch", "b": "torch"}
    assert taken.slope < SOLVERS


@pytest.mark.parametrize("unit_of_time", [1e-9, 1e9])
def test_units_do_not_matter(unit_of_time: float) -> None:
    """Nanoseconds are no collapse: a step of a Weibull mixture moves with its unit, and its fit converges."""
    model, (x,) = simulated("weibull")
    here, there = (step(model, x * scale).params for scale in (1.0, unit_of_time))
    same(there["scale"] / unit_of_time, here["scale"])
    same(there["concentration"], here["concentration"])
    with pyro.get_param_store().scope():
        assert str(EM(model).fit(x * unit_of_time).outcome) == "converged"


def test_a_poisson_component_among_negative_binomials() -> None:
    """Counts that vary no more than Poisson ones send the total count far up, and the objective never falls there."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", tensor([1 / 3, 2 / 3]), constraint=constraints.simplex)
        r = pyro.param("r", tensor([1.0, 3.0]), constraint=positive)
        probs = pyro.param("probs", tensor([0.3, 0.7]), constraint=unit)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.NegativeBinomial(r[z], probs[z]), obs=x)

    fit = EM(model, tol=1e-12).fit(tensor([0.0, 0.0, 1.0, 3.0, 2.0, 9.0, 4.0, 12.0]))
    assert fit.converged
    assert float(fit.params["r"].max()) > 1e4
