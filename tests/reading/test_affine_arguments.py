"""Arguments that are affine in parameters, through a link: how they are found, and multiplied with."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import regressions
from oracles.agreement import close
from oracles.engines import laid_out
from oracles.m_steps import Model, how, same, step, why
from oracles.tolerances import IDENTITY, SOLVERS
from programs.designs import PROGRAMS, N, bits, counts, design, logistic
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro.fit.problem import prepare
from em_pyro.program.program import Program
from em_pyro.program.survey import survey
from em_pyro.reading.gradients.elsewhere import WIDTHS
from em_pyro.reading.predictor import Affine, adjoint, gram
from em_pyro.reading.recognise import recognise


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_plan_says_newton(name: str) -> None:
    """No parameter of these programs is left to torch, and none of them is replayed."""
    built = laid_out(name)
    found = {line.how for line in built.plan.lines.values()}
    assert "Newton" in found
    assert found <= {"Newton", "closed form"}
    assert not built.compiled.moving


def affine_of(model: Model, *args: Any) -> dict[str, Affine]:
    """The predictors of a program, by site."""
    with pyro.get_param_store().scope():
        readings = recognise(survey(model, args, {})).readings
    roles = {name: role.affine for name, reading in readings.items() for role in reading.roles.values()}
    return {name: affine for name, affine in roles.items() if affine is not None}


def test_the_component_selects_and_the_covariates_multiply() -> None:
    """Nothing of size components x rows is kept: the design is an index `(K, 1, P)` and a multiplier `(1, N, P)`."""
    (affine,) = affine_of(regressions.poisson, design(3), counts(), 4).values()
    (piece,) = affine.pieces
    assert piece.index.shape == (4, 1, 3)
    assert piece.value.shape == (1, N, 3)
    assert affine.offset.shape == (1, 1)
    same(piece.value[0], design(3))
    assert affine.chart.name == "exp"


def grouped(x: Tensor, y: Tensor) -> None:
    """An intercept for each of twenty groups, a slope for each component, a known offset."""
    a, b = pyro.param("a", torch.linspace(-0.5, 0.5, 20)), pyro.param("b", tensor([0.3, -0.4]))
    group = torch.arange(len(y)) % 20
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
        pyro.sample("y", dist.Poisson((a[group] + b[z] * x[:, 1] + 0.2 * x[:, 1] ** 2).exp()), obs=y)


def test_the_intercepts_of_groups_are_one_slot() -> None:
    """A row takes one of twenty entries: they are found together, and stored as one index by row."""
    (affine,) = affine_of(grouped, design(), counts()).values()
    shapes = {(tuple(p.index.shape), tuple(p.value.shape)) for p in affine.pieces}
    assert shapes == {((1, N, 1), (1, 1, 1)), ((2, 1, 1), (1, N, 1))}
    same(affine.offset[0], 0.2 * design()[:, 1] ** 2)


@pytest.mark.parametrize("model", [regressions.poisson, regressions.experts], ids=["poisson", "experts"])
def test_replays_do_not_grow_with_the_components(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten components take no more replays than three, but for a few where a start may be saturated."""
    calls: list[int] = []
    run = Program.run

    def counted(self: Program, *args: Any) -> Any:
        calls.append(1)
        return run(self, *args)

    monkeypatch.setattr(Program, "run", counted)
    found = []
    for components in (3, 10):
        calls.clear()
        affine_of(model, design(3), counts(), components)
        found.append(len(calls))
    assert found[1] <= found[0] + len(WIDTHS)


THROUGH: dict[str, Callable[[Tensor], Any]] = {
    "exp": lambda eta: dist.Poisson(eta.exp()),
    "softplus": lambda eta: dist.Poisson(torch.nn.functional.softplus(eta)),
    "reciprocal of exp": lambda eta: dist.Exponential(1 / eta.exp()),
    "logits": lambda eta: dist.Geometric(logits=eta),
    "sigmoid": lambda eta: dist.Geometric(torch.sigmoid(eta)),
    "complement": lambda eta: dist.Geometric(1 - torch.sigmoid(eta)),
}


@pytest.mark.parametrize("link", THROUGH)
def test_links(link: str) -> None:
    """Every link of the table leaves no slope of `Q`, and the maximum is what torch finds."""

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", tensor([[0.5, 0.3], [-0.5, 0.1]]))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("y", THROUGH[link]((b[z] * x).sum(-1)), obs=y)

    found = step(model, design(), counts() + 0.5 * ("exp" in link and link != "exp"))
    assert found.how == {"b": "Newton"}
    assert found.slope <= IDENTITY
    other = step(model, design(), counts() + 0.5 * ("exp" in link and link != "exp"), m_step={"b": "torch"})
    same(found.params["b"], other.params["b"], SOLVERS)


@pytest.mark.parametrize(("name", "said"), [("lines_in_the_plane", "closed form"), ("one_slope_in_the_plane", "swept")])
def test_lines_in_the_plane(name: str, said: str) -> None:
    """Zellner (1962): with one design for all coordinates no covariance matters; else the two are swept."""
    lines = laid_out(name).plan.lines
    assert {line.how for n, line in lines.items() if n != "weights"} == {said}


@pytest.mark.parametrize("family", ["normal", "poisson"])
def test_emissions_of_a_chain_with_a_covariate(family: str) -> None:
    """`DiscreteHMM` whose emissions are regressions: the M-step is that of the sites that it is made of."""

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", tensor([[0.5, 0.3], [-0.5, 0.1]]))
        eta = x @ b.T
        emission = dist.Normal(eta, 1.0) if family == "normal" else dist.Poisson(eta.exp())
        start, move = tensor([0.6, 0.4]).log(), tensor([[0.9, 0.1], [0.2, 0.8]]).log()
        pyro.sample("y", dist.DiscreteHMM(start, move, emission, duration=len(y)), obs=y)

    found = step(model, design(), counts())
    assert found.how == {"b": "closed form" if family == "normal" else "Newton"}
    assert found.slope <= IDENTITY
    same(found.params["b"], step(model, design(), counts(), m_step={"b": "torch"}).params["b"], SOLVERS)


def test_a_wrong_column_is_noticed() -> None:
    """A design 0.1 % too big: the arguments measured on the user's program are others."""
    from em_pyro.e_step.confirm import disagreements

    with pyro.get_param_store().scope():
        here = prepare(logistic, (design(), bits()), {}, {}, check=True)
    params = {"b": tensor([0.4, -0.7])}
    assert disagreements(here.engine, params) == []
    recognition = here.engine.recognition
    reading = recognition.readings["y"]
    role = reading.roles["probs"]
    assert role.affine is not None
    affine = role.affine.changed(lambda part, slots: part * 1.001 if slots and part.is_floating_point() else part)
    wrong = replace(reading, roles={"probs": replace(role, affine=affine)})
    engine = replace(here.engine, recognition=replace(recognition, readings={"y": wrong}), unmerged=None)
    assert disagreements(engine, params) == ["y"]


# ---- what is left to torch -------------------------------------------------------------------------------------------


CROOKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square": lambda b, x: (b[0] ** 2 + b[1] * x).exp(),
    "exponential slope": lambda b, x: (b[0] + b[1].exp() * x).exp(),
    "clamp": lambda b, x: (b[0] + b[1] * x).clamp(-0.5, 0.5).exp(),
    "product": lambda b, x: (b[0] + b[0] * b[1] * x).exp(),
    "background": lambda b, x: 0.3 + (b[0] + b[1] * x).exp(),
    "detached": lambda b, x: (b[0] + b[1].detach() * x).exp(),
}


@pytest.mark.parametrize("name", CROOKED)
def test_what_is_not_affine_is_torch(name: str) -> None:
    """A predictor that is crooked, or has not the gradient of its values, is left to torch."""

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", tensor([0.4, 0.3]))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Poisson(CROOKED[name](b, x[:, 1])), obs=y)

    assert how(model, design(), counts()) == {"b": "torch"}


def test_a_model_that_does_not_exist_at_zero_is_torch() -> None:
    """Columns are read off at coordinates of zero, where this matrix has no Cholesky factor."""

    def model(x: Tensor, y: Tensor) -> None:
        b, root = pyro.param("b", tensor([0.4, 0.3])), pyro.param("root", torch.eye(2))
        with pyro.plate("row", len(y)):
            size = torch.linalg.cholesky(root @ root.T).diagonal().log().sum()
            pyro.sample("y", dist.Poisson((x @ b + size).exp()), obs=y)

    assert set(how(model, design(), counts()).values()) == {"torch"}


def test_a_kink_is_torch() -> None:
    """Least absolute deviations have no second derivative."""

    def model(x: Tensor, y: Tensor) -> None:
        b, s = pyro.param("b", tensor([0.4, 0.3])), pyro.param("s", tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Laplace(x @ b, s), obs=y)

    assert how(model, design(), counts())["b"] == "torch"
    assert "kink" in why(model, "b", design(), counts())


# ---- products with the design ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_products_are_those_of_the_dense_design(name: str) -> None:
    """`X' g` and `X' diag(w) X` by pieces are those of a matrix with a column for every entry."""
    built = laid_out(name)
    generator = torch.Generator().manual_seed(3)
    for factor in built.compiled.sites.values():
        for key, role in factor.roles.items():
            if role.affine is None or factor.family.roles[key].event_dim:
                continue
            affine, E = role.affine, len(role.affine.entries)
            shape = (*factor.cell_shape, *factor.event_shape)
            zero, eye = affine.at(torch.zeros(1, E)), affine.at(torch.eye(E))
            X = (eye - zero).nan_to_num(0.0).expand((E, *shape)).reshape(E, -1)
            slope, weight = torch.randn((2, 1, *shape), generator=generator)
            close(adjoint(affine, slope, E)[0], X @ slope.reshape(-1))
            close(gram(affine, affine, weight, E)[0], X @ (weight.reshape(-1, 1) * X.T))
