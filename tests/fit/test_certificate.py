"""A closer look at the end: what runs to infinity, is not identified or at a boundary, and slopes that are not zero."""

from collections.abc import Callable
from itertools import product
from math import inf, isfinite, nan
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import genetic_linkage
from oracles.agreement import close
from programs.zoo import simulated
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.after.answer
import em_pyro.fit.starting.ends
from em_pyro import EM, Fit
from em_pyro.fit.problem import Problem, prepare
from em_pyro.fit.verdict.around import Around
from em_pyro.fit.verdict.ground import FINE, Ground

SIMPLEX, POSITIVE, UNIT = constraints.simplex, constraints.positive, constraints.unit_interval


def fitted(model: Callable[..., None], *args: Any, **options: Any) -> Fit:
    """Fit from an empty store."""
    pyro.clear_param_store()
    return EM(model, **options).fit(*args)


def said(fit: Fit, *words: str) -> bool:
    """Whether one note has all of `words`."""
    return any(all(word in note for word in words) for note in fit.notes)


def test_a_separated_covariate_runs_to_infinity() -> None:
    """Of a logistic regression by groups only the coefficient of the group that is separated is named."""
    t = torch.linspace(-2.0, 2.0, 40)
    mixed = (torch.arange(40) % 3 == 0).double()
    group = torch.cat([torch.zeros(40), torch.ones(40)]).long()

    def model(x: Tensor, y: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(2))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=slope[group] * x), obs=y)

    fit = fitted(model, t.repeat(2), torch.cat([(t < 0).double(), mixed]), max_steps=100)
    assert said(fit, "runs to minus infinity", '"slope"[0]')
    assert not said(fit, '"slope"[1]')


def test_a_state_that_always_shows_the_same_runs_to_infinity() -> None:
    """In a chain: a logit whose observations are all one."""

    def model(x: Tensor) -> None:
        start, logit = pyro.param("start", tensor([0.5, 0.5]), constraint=SIMPLEX), pyro.param("logit", torch.zeros(2))
        z = 0
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z_{t}", dist.Categorical(start))
            pyro.sample(f"x_{t}", dist.Normal(8.0 * z, 1.0), obs=x[t, 0])
            pyro.sample(f"y_{t}", dist.Bernoulli(logits=logit[z]), obs=x[t, 1])

    z = torch.arange(12) % 2
    x = torch.stack([8.0 * z, torch.where(z == 1, 1.0, (torch.arange(12) % 4 == 0).double())], 1)
    fit = fitted(model, x, max_steps=60)
    assert said(fit, "infinity", '"logit"[1]')
    assert not said(fit, '"logit"[0]')


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_of_two_parameters_is_not_identified(dtype: torch.dtype) -> None:
    """One direction is flat where a density knows the sum only; none where each enters a site of its own."""
    x = tensor([0.0, 0.5, 0.2, 3.0, 3.5, 2.9, 0.1], dtype=dtype)

    def model(x: Tensor, apart: int) -> None:
        a, b = pyro.param("a", tensor([0.0, 3.0], dtype=dtype)), pyro.param("b", tensor(0.1, dtype=dtype))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5], dtype=dtype)))
            pyro.sample("x", dist.Normal(a[z] + b, tensor(1.0, dtype=dtype)), obs=x)
            if apart:
                pyro.sample("y", dist.Normal(b, 1.0), obs=x)

    assert said(fitted(model, x, 0), "not identified", "one direction", '"b"')
    assert not said(fitted(model, x, 1), "not identified")


@pytest.mark.parametrize(("items", "flat"), [(2, True), (3, False)])
def test_two_classes_need_three_items(items: int, flat: bool) -> None:  # noqa: FBT001
    """Five parameters are two too many for four frequencies; seven are as many as eight frequencies allow."""
    generator = torch.Generator().manual_seed(1)
    z = torch.rand(400, generator=generator) < 0.4
    x = (torch.rand((400, items), generator=generator) < torch.where(z, 0.8, 0.2).unsqueeze(-1)).double()

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.45, 0.55]), constraint=SIMPLEX)
        probs = pyro.param("probs", torch.linspace(0.3, 0.7, 2 * items).reshape(2, items), constraint=UNIT)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(probs[z]).to_event(1), obs=x)

    fit = fitted(model, x)
    assert said(fit, "not identified", "2 directions") == flat
    assert said(fit, "not identified") == flat


@pytest.mark.parametrize(
    "name", ["gaussian-full", "bernoulli", "gamma", "laplace", "regression-logistic", "student", "abo", "outliers"]
)
def test_models_that_are_identified(name: str) -> None:
    """Nothing is said of a fit about which there is nothing to say."""
    model, args = simulated(name)
    fit = fitted(model, *args)
    assert not said(fit, "identif")
    assert not said(fit, "runs to")


def test_a_start_on_the_boundary_is_named() -> None:
    """An entry of a row of probabilities that starts at zero stays; the note says that the objective rises inwards."""

    def model(x: Tensor) -> None:
        table = pyro.param("table", tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), constraint=SIMPLEX)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.7, 0.3])))
            pyro.sample("x", dist.Categorical(table[z]), obs=x)

    fit = fitted(model, torch.arange(60) % 3)
    assert said(fit, "at the boundary", "rises inwards", '"table"[0, 2]')


def test_a_single_probability_leaves_its_boundary() -> None:
    """It starts at zero where one is best, and at one where zero is: the maximum is at the other boundary."""
    z = torch.arange(60) % 3

    def model(x: Tensor) -> None:
        probs = pyro.param("probs", tensor([0.0, 0.5, 1.0]), constraint=UNIT)
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Bernoulli(torch.where(k == 0, probs[z], 0.5)), obs=x)

    fit = fitted(model, (z == 0).double())
    close(fit.params["probs"], tensor([1.0, 0.0, 0.0]))
    assert not said(fit, "rises inwards")


def mixture(x: Tensor) -> None:
    """Two normals of one scale."""
    loc, scale = pyro.param("loc", tensor([0.0, 1.0])), pyro.param("scale", tensor(1.0), constraint=POSITIVE)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


def apart(x: Tensor) -> None:
    """Two normals, each with a scale."""
    loc, scale = pyro.param("loc", tensor([1.0, 6.0])), pyro.param("scale", torch.ones(2), constraint=POSITIVE)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def test_steps_that_stand_still_are_no_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the M-step does nothing there is no gain to come, and the slope says that it is no maximum."""
    monkeypatch.setattr(Problem, "maximise", lambda self, found, batch, memory: dict(batch))
    monkeypatch.setattr(em_pyro.fit.starting.ends, "tried", lambda problem, point: (problem, (), True))
    fit = fitted(mixture, torch.linspace(2.0, 9.0, 20))
    assert (fit.outcome, fit.converged) == ("unconfirmed", False)
    assert said(fit, "the slope is not zero")
    assert fit.starts[0].outcome == "unconfirmed"


@pytest.mark.parametrize(
    ("again", "dtype"), [(-1.0, torch.float64), *product((nan, -inf), (torch.float64, torch.float32))]
)
def test_a_model_that_contradicts_the_loop_is_no_convergence(
    again: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own densities have the last word, also where they are no number."""
    torch.set_default_dtype(dtype)
    monkeypatch.setattr(em_pyro.after.answer, "measured", lambda engine, params: again)
    fit = fitted(mixture, torch.linspace(2.0, 9.0, 20))
    assert isfinite(fit.log_likelihood)
    assert (fit.outcome, fit.converged) == ("unconfirmed", False)
    assert said(fit, "the model itself gives")


def test_many_coordinates_are_not_looked_at() -> None:
    """Above some hundred coordinates the note says so; the slope is looked at all the same."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(600))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    fit = fitted(model, torch.randn((40, 600), generator=torch.Generator().manual_seed(0)))
    assert fit.converged
    assert said(fit, "not looked at", "600 free coordinates")


def test_observed_information_of_genetic_linkage() -> None:
    """The information in the data of Dempster, Laird and Rubin is 377.5169, on the scale of the parameter."""
    pyro.clear_param_store()
    p, x = 0.6268214978709824, torch.arange(4).repeat_interleave(tensor([125, 18, 20, 34]))
    problem = prepare(genetic_linkage.five_cells, (x,), {}, {}, check=False)
    (name,) = problem.program.parameters
    ground = Ground(problem, Around(problem.program, (name,), {name: tensor(p)}))
    found = ground.information(torch.zeros(1), torch.eye(1) * 0.1, FINE) / (0.1 * p * (1 - p)) ** 2
    close(float(found), 377.5169003946873, 1e-7)


@pytest.mark.parametrize(
    ("rows", "tied", "words"),
    [
        (tensor([[0.0, 1.0], [0.5, 0.2], [1.0, 0.4], [9.0, 9.0]]), False, "few rows"),
        (torch.stack([torch.linspace(0, 1, 40), torch.linspace(0, 1, 40)], 1), True, "collinear"),
        (torch.stack([torch.linspace(0, 1, 40), 2 * torch.linspace(0, 1, 40) + 1e-8], 1), False, "collinear"),
    ],
)
def test_a_collapse_says_why(rows: Tensor, tied: bool, words: str) -> None:  # noqa: FBT001
    """Few rows are not collinear columns; and nobody is told to tie what is tied."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([[0.4, 0.4], [8.5, 8.5]]))
        root = torch.eye(2) if tied else torch.eye(2).repeat(2, 1, 1)
        root = pyro.param("root", root, constraint=constraints.lower_cholesky)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.MultivariateNormal(loc[z], scale_tril=root if tied else root[z]), obs=x)

    fit = fitted(model, rows)
    assert fit.outcome == "degenerate"
    assert said(fit, words)
    assert not said(fit, "tie") or not tied


def test_equal_values_say_so() -> None:
    """A component whose rows have one value."""
    fit = fitted(apart, torch.cat([torch.full((20,), 1.0), 5 + torch.linspace(0, 2, 20)]))
    assert fit.outcome == "degenerate"
    assert said(fit, "20 rows have equal values")


@pytest.mark.parametrize("name", ["gaussian-full", "hmm-gaussian", "irt-rasch", "student"])
def test_curvature_is_that_of_q_entry_by_entry(name: str) -> None:
    """The Hessian of `Q`, of which all rows are taken in one pass, is what torch finds at one start."""
    model, args = simulated(name)
    pyro.clear_param_store()
    problem = prepare(model, args, {}, {}, check=False)
    values = {n: p.initial.double() for n, p in problem.program.parameters.items()}
    ground = Ground(problem, Around(problem.program, tuple(values), values))
    found = problem.expect(problem.bind(ground.around.batch(torch.zeros(1, ground.around.size, dtype=torch.float64))))

    def q(point: Tensor) -> Tensor:
        return problem.engine.q(ground.around.batch(point.unsqueeze(0)), found).sum()

    zero = torch.zeros(ground.around.size, dtype=torch.float64)
    information = ground.curvature_of_q(found)
    assert information is not None
    close(information, -torch.autograd.functional.hessian(q, zero))
    alone = Ground(problem, ground.around).slope(found)  # by a pass of its own
    assert bool((alone != 0).any())
    close(ground.slope(found), alone)


def blocks(items: int) -> tuple[Callable[[Tensor], None], Tensor]:
    """Fifteen blocks of questions, the answers to each of two classes of its own: 75 or 105 parameters."""
    generator = torch.Generator().manual_seed(2)
    kind = torch.rand((300, 15), generator=generator) < 0.4
    right = torch.where(kind, 0.85, 0.2).unsqueeze(-1)
    x = (torch.rand((300, 15, items), generator=generator) < right).double()

    def model(x: Tensor) -> None:
        share = pyro.param("share", torch.full((15,), 0.45), constraint=UNIT)
        probs = pyro.param("probs", torch.linspace(0.7, 0.3, 2).reshape(2, 1, 1).repeat(1, 15, items), constraint=UNIT)
        block = torch.arange(15)
        with pyro.plate("people", len(x), dim=-2), pyro.plate("blocks", 15, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(share)).long()
            pyro.sample("x", dist.Bernoulli(probs[z, block]).to_event(1), obs=x)

    return model, x


@pytest.mark.parametrize(("items", "many"), [(2, 30), (3, 0)])
def test_many_coordinates_are_looked_at(items: int, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above fifty the smallest curvature is found first, and all second derivatives only where it may be none."""
    whole = list[int]()
    look = Ground.information

    def counted(self: Ground, at: Tensor, basis: Tensor, stencil: Any) -> Tensor:
        whole.append(basis.shape[1])
        return look(self, at, basis, stencil)

    monkeypatch.setattr(Ground, "information", counted)
    fit = fitted(*blocks(items), tol=1e-10)
    assert fit.converged
    assert not said(fit, "not looked at")
    assert said(fit, "not identified", f"{many} directions") == (many > 0)
    assert bool(whole) == (many > 0)
