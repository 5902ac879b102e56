"""M-steps of one's own: what they are given, that what they return stands, and that they go with every other option."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import IDENTITY, SOLVERS
from programs.pairs import pairwise
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ObjectiveError, ParameterError

Statistics = Mapping[str, tuple[Tensor, ...]]

X = tensor([0.2, 0.9, 0.4, 0.7, 0.1, 0.6, 0.3], dtype=torch.float64)
COUNTS = tensor([0.0, 2, 1, 4, 3, 1, 5], dtype=torch.float64)
ROWS = torch.stack([X, 1 - X], -1)
ONE = torch.ones(7, dtype=torch.float64)
A = tensor([1.5, 0.6], dtype=torch.float64)
"""An argument of two states, positive and no probability."""

Law = tuple[Callable[[Tensor], Any], Tensor, Tensor, tuple[Tensor, ...]]

LAWS: dict[str, Law] = {
    "Bernoulli": (dist.Bernoulli, A / 2, (X > 0.5).double(), ((X > 0.5).double(), (X <= 0.5).double())),
    "Beta": (lambda a: dist.Beta(a, 2.0), A, X, (ONE, X.log(), (1 - X).log())),
    "Binomial": (lambda p: dist.Binomial(6, p), A / 2, COUNTS, (COUNTS, 6 - COUNTS)),
    "Categorical": (
        lambda p: dist.Categorical(torch.stack([p, 1 - p], -1)),
        A / 2,
        (X > 0.5).long(),
        (torch.nn.functional.one_hot((X > 0.5).long()).double(),),
    ),
    "Dirichlet": (lambda a: dist.Dirichlet(torch.stack([a, a], -1)), A, ROWS, (ONE, ROWS.log())),
    "Exponential": (dist.Exponential, A, X, (ONE, X)),
    "Gamma": (lambda rate: dist.Gamma(2.0, rate), A, X, (2 * ONE, X)),
    "Gamma, concentration": (lambda a: dist.Gamma(a, 2.0), A, X, (ONE, X, X.log())),
    "Geometric": (dist.Geometric, A / 2, COUNTS, (ONE, COUNTS)),
    "InverseGamma": (lambda rate: dist.InverseGamma(2.0, rate), A, X, (2 * ONE, 1 / X)),
    "InverseGamma, concentration": (lambda a: dist.InverseGamma(a, 2.0), A, X, (ONE, 1 / X, -X.log())),
    "Laplace": (lambda loc: dist.Laplace(loc, 0.5), A, X, (torch.eye(7, dtype=torch.float64),)),
    "LogNormal": (lambda loc: dist.LogNormal(loc, 0.5), A, X, (ONE, X.log(), X.log() ** 2)),
    "MultivariateNormal": (
        lambda loc: dist.MultivariateNormal(loc.unsqueeze(-1) + torch.zeros(2), torch.eye(2)),
        A,
        ROWS,
        (ONE, ROWS, torch.stack([ROWS[:, 0] ** 2, ROWS[:, 0] * ROWS[:, 1], ROWS[:, 1] ** 2], -1)),
    ),
    "NegativeBinomial": (lambda p: dist.NegativeBinomial(3.0, p), A / 2, COUNTS, (COUNTS, 3 * ONE)),
    "Normal": (lambda loc: dist.Normal(loc, 0.5), A, X, (ONE, X, X**2)),
    "Poisson": (dist.Poisson, A, COUNTS, (COUNTS, ONE)),
    "StudentT": (lambda loc: dist.StudentT(4.0, loc, 0.5), A, X, (torch.eye(7, dtype=torch.float64),)),
    "VonMises": (lambda loc: dist.VonMises(loc, 2.0), A, X, (ONE, X.cos(), X.sin())),
    "Weibull": (lambda scale: dist.Weibull(scale, 2.0), A, X, (torch.eye(7, dtype=torch.float64),)),
}
"""A law of one argument, its two values, data, and the statistics of every row as `help(EM)` has them."""


@pytest.mark.parametrize("name", LAWS)
def test_the_statistics_are_those_that_the_help_states(name: str) -> None:
    """Sums of the data as they are, times the posterior weights of both states."""
    law, value, x, statistics = LAWS[name]
    assert f"        {name.split(',')[0]}: " in str(EM.__doc__)
    seen: list[Statistics] = []

    def model() -> None:
        a = pyro.param("a", value, constraint=constraints.unit_interval if value.max() < 1 else constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.3, 0.7])))
            pyro.sample("x", law(a[z]), obs=x)

    def keep(found: Statistics, now: Tensor) -> Tensor:
        seen.append(found)
        return now

    em = EM(model, m_step={"a": keep})
    em.step()
    weights = torch.stack([law(part).log_prob(x) for part in value], -1) + tensor([0.3, 0.7]).log()
    weights = weights.softmax(-1)
    assert len(seen[0]["x"]) == len(statistics)
    for got, rows in zip(seen[0]["x"], statistics, strict=True):
        close(got.reshape(2, -1), torch.einsum("nk,n...->k...", weights, rows).reshape(2, -1), 1e-9)


def first(x: Tensor) -> Tensor:
    """Where locations begin."""
    return tensor([0.5, 3.0], dtype=x.dtype) + x.mean() - 1.8


def mixture(x: Tensor) -> None:
    """Two Normals."""
    weights = pyro.param("weights", torch.full((2,), 0.5, dtype=x.dtype), constraint=constraints.simplex)
    loc = pyro.param("loc", first(x))
    scale = pyro.param("scale", torch.ones(2, dtype=x.dtype), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def chain(x: Tensor) -> None:
    """Two Normals by a chain; its steps are summed under the name of the first."""
    move = pyro.param("weights", torch.full((2, 2), 0.5, dtype=x.dtype), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([0.5, 3.0], dtype=x.dtype))
    scale = pyro.param("scale", torch.ones(2, dtype=x.dtype), constraint=constraints.positive)
    z: Any = None
    for t in pyro.markov(range(12)):
        z = pyro.sample(f"z{t}", dist.Categorical(tensor([0.5, 0.5], dtype=x.dtype) if z is None else move[z]))
        pyro.sample("x" if t == 0 else f"x{t}", dist.Normal(loc[z], scale[z]), obs=x[5 * t])


def data(dtype: torch.dtype = torch.float64) -> Tensor:
    """Two clusters, every row twice."""
    return (
        torch.cat([torch.linspace(-1.5, 1.5, 60), torch.linspace(2.5, 5.5, 40)])
        .repeat(2)[torch.arange(200) * 7 % 200]
        .to(dtype)
    )


def mean(found: Statistics, now: Tensor) -> Tensor:
    """The weighted mean; a state that has no row stays where it is."""
    n, total, _ = found["x"]
    return torch.where(n > 0, total / n, now)


def spread(found: Statistics, now: Tensor) -> Tensor:
    """The weighted deviation from the weighted mean."""
    n, total, squares = found["x"]
    return (squares / n - (total / n) ** 2).sqrt()


@pytest.mark.parametrize("model", [mixture, chain])
@pytest.mark.parametrize(
    "own", [{"loc": mean}, {"scale": spread}, {"scale": spread, "loc": mean}], ids=["loc", "scale", "both"]
)
def test_the_formulas_of_a_book_are_those_of_the_plan(model: Any, own: Any) -> None:
    """One step leads where the plan's own leads, whichever of them are the user's."""
    x = data()
    plain, with_own = EM(model, check=False), EM(model, m_step=own)
    plain.step(x)
    right = {name: value.clone() for name, value in plain.params.items()}
    pyro.clear_param_store()
    with_own.step(x)
    assert all(line.how == "closed form" for n, line in with_own.plan(x).lines.items() if n not in own)
    for name, value in right.items():
        close(with_own.params[name], value, 1e-9)


def test_a_location_far_from_zero_is_the_users_too() -> None:
    """No centre is taken from what a callable is given."""
    fit = EM(mixture, m_step={"loc": mean}, tol=1e-10).fit(data() + 1000.0)
    pyro.clear_param_store()
    close(fit.params["loc"], EM(mixture, tol=1e-10).fit(data() + 1000.0).params["loc"], 1e-5)


def unit(found: Statistics, now: Tensor) -> Tensor:
    """Keep the first entry."""
    return torch.stack([now[0], mean(found, now)[1]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_what_is_returned_stands(acceleration: str | None, dtype: torch.dtype) -> None:
    """Entries that a callable keeps are where they began, bit by bit, though the likelihood is higher elsewhere."""
    x, weights = data(dtype), tensor([0.3, 0.7], dtype=dtype)
    keep: dict[str, Any] = {"weights": lambda found, now: now.clone(), "loc": unit}
    fit = EM(mixture, m_step=keep, starts={"weights": weights}, acceleration=acceleration).fit(x)
    assert fit.outcome == "converged", fit.notes
    assert torch.equal(fit.params["weights"], weights)
    assert torch.equal(fit.params["loc"][0], first(x)[0])


def test_nearly_the_same_value_passes() -> None:
    """Rounding of the value itself is no fall of `Q`."""
    wobble = iter(itertools.cycle([1.0, 1.0 + 2e-16, 1.0 - 2e-16]))
    fit = EM(mixture, m_step={"loc": lambda s, v: v * next(wobble)}, max_steps=30).fit(data())
    close(fit.params["loc"], first(data()), IDENTITY)


def test_a_value_that_lowers_q_is_refused() -> None:
    """And so is what is no value."""
    for wrong in (lambda s, v: v + 100, lambda s, v: v * torch.inf):
        with pytest.raises((ObjectiveError, ParameterError), match="loc"):
            EM(mixture, m_step={"loc": wrong}).fit(data())
    for wrong in (lambda s, v: None, lambda s, v: "a", lambda s, v: v * torch.nan, lambda s, v: v[0]):
        with pytest.raises(ParameterError, match=r'^m_step\["loc"\]: expected a value of shape'):
            EM(mixture, m_step={"loc": wrong}).fit(data())


def test_what_a_callable_is_given_is_its_own() -> None:
    """Writing into statistics or into the current value changes nothing else."""

    def rude(found: Statistics, now: Tensor) -> Tensor:
        new = mean(found, now)
        for parts in found.values():
            for part in parts:
                part.zero_()
        now.zero_()
        return new

    fit = EM(mixture, m_step={"loc": rude}).fit(data())
    pyro.clear_param_store()
    close(fit.objective, EM(mixture).fit(data()).objective, SOLVERS)


def weibulls(x: Tensor) -> None:
    """Two Weibulls of known shape, whose statistics are the rows' weights."""
    scale = pyro.param("scale", tensor([0.5, 4.0]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Weibull(scale[z], 2.0), obs=x)


def test_rows_that_a_callable_counts_are_not_merged() -> None:
    """Weights of all rows, in their order, however many are equal."""
    x = tensor([0.3, 0.7, 2.0, 3.5, 5.0]).repeat(200)

    def by_rows(found: Statistics, now: Tensor) -> Tensor:
        (weights,) = found["x"]
        return ((weights * x**2).sum(-1) / weights.sum(-1)).sqrt()

    fit = EM(weibulls, m_step={"scale": by_rows}, tol=1e-10).fit(x)
    pyro.clear_param_store()
    close(fit.params["scale"], EM(weibulls, tol=1e-10).fit(x).params["scale"], SOLVERS)


# ---- with every other option -----------------------------------------------------------------------------------------

OPTIONS: dict[str, list[Any]] = {
    "loc": [None, "torch", "closed", "fixed", mean],
    "scale": [None, "torch", "closed", "fixed", spread],
    "weights": [None, "torch", "fixed", lambda found, now: found["z"][0] / found["z"][0].sum()],
    "acceleration": [None, "squarem"],
    "e_step": ["soft", "hard", "sampled"],
    "collapse": [True, False],
    "starts": [1, 2],
    "check": [True, False],
    "checkpoint": [False, True],
    "dtype": [torch.float64, torch.float32],
}


@pytest.mark.parametrize("row", pairwise(OPTIONS))
def test_callables_go_with_every_other_option(row: dict[str, Any], tmp_path: Path) -> None:
    """The plan does what was asked, the path never falls, what is fixed stays, and a file changes nothing."""
    x = data(row["dtype"])
    m_step = {name: row[name] for name in ("loc", "scale", "weights") if row[name] is not None}
    if row["loc"] == "fixed" and row["scale"] is spread:
        del m_step["scale"]  # the deviation from the mean is no maximum around another location, and may be refused
    others = {name: row[name] for name in ("acceleration", "e_step", "collapse", "starts", "check")}
    file = {"checkpoint": tmp_path / "fit.pt", "every": 1} if row["checkpoint"] else {}
    if row["e_step"] != "soft" and (file or row["acceleration"]):
        with pytest.raises(ParameterError, match="e_step"):
            EM(mixture, m_step=m_step, **others, **file)
        file, others["acceleration"] = {}, None
    fit = EM(mixture, m_step=m_step, max_steps=3, **others, **file).fit(x)
    if file:
        pyro.clear_param_store()
        assert EM(mixture, m_step=m_step, max_steps=3, **others).fit(x).path == fit.path
    for name, choice in m_step.items():
        how = fit.plan[name].how
        assert how == ("callable" if callable(choice) else choice) or (
            choice == "closed" and how in ("closed form", "swept")
        )
    if row["e_step"] != "sampled":
        assert all(b >= a - 1e-6 * (1 + abs(a)) for a, b in itertools.pairwise(fit.path))
    if row["loc"] == "fixed" and row["starts"] == 1:
        assert torch.equal(fit.params["loc"], first(x))
