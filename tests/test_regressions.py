"""Predictors through a link: how they are found, and that Newton's method on `Q` is exact; each check seen to fail."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from agreement import close
from em_pyro.models import item_response, regressions
from engines import laid_out
from m_steps import Model, check_closed, how, same, step, why
from tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.affine.newton_block import NewtonBlock, NewtonUse
from em_pyro.affine.predictor import Affine, adjoint, gram
from em_pyro.m_step import maximise
from em_pyro.prepare import prepare
from em_pyro.program import Program
from em_pyro.recognise import recognise
from em_pyro.survey import survey

N = 40
PROGRAMS = (
    "poisson_regressions",
    "binomial_items",
    "three_experts",
    "gamma_regressions",
    "gamma_means",
    "multiplicative_rates",
    "negative_binomial_regressions",
    "unequal_spread",
    "shrunken_regressions",
    "transitions_with_a_covariate",
)


def design(columns: int = 2) -> Tensor:
    """An intercept and standard normals."""
    x = torch.randn((N, columns), generator=torch.Generator().manual_seed(0))
    x[:, 0] = 1
    return x


def counts() -> Tensor:
    """Counts that grow with the covariate."""
    noise = torch.randn(N, generator=torch.Generator().manual_seed(1))
    return (design()[:, 1] + noise).exp().floor()


def bits() -> Tensor:
    """Zeros and ones that no covariate separates."""
    noise = torch.randn(N, generator=torch.Generator().manual_seed(1))
    return (design()[:, 1] + 1.5 * noise > 0).double()


def logistic(x: Tensor, y: Tensor) -> None:
    """A logistic regression, without latents."""
    b = pyro.param("b", torch.full(x.shape[1:], 0.1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)


def fitted(model: Model, *args: Any, **options: Any) -> Any:
    """Fit in a store of its own."""
    with pyro.get_param_store().scope():
        return EM(model, **options).fit(*args)


# ---- how they are found ----------------------------------------------------------------------------------------------


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
    """Ten components are found by no more replays than three."""
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
    assert found[1] <= found[0]


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


# ---- that the maximum is one -----------------------------------------------------------------------------------------


def by_irls(x: Any, y: Any, penalty: float = 0.0) -> Any:
    """Iteratively reweighted least squares for a logistic regression, with a Normal prior of that precision."""
    b = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ b))
        hessian = x.T @ ((p * (1 - p))[:, None] * x) + penalty * np.eye(len(b))
        b = b + np.linalg.solve(hessian, x.T @ (y - p) - penalty * b)
    return b


def test_logistic_regression_is_irls() -> None:
    """McCullagh & Nelder (1989), section 2.5, in NumPy: one M-step is the whole fit."""
    x, y = design(3), bits()
    close(step(logistic, x, y).params["b"], by_irls(x.numpy(), y.numpy()))


def test_a_normal_prior_is_a_ridge() -> None:
    """MAP: the prior's precision is added to the Hessian."""

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 0.5).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    x, y = design(3), bits()
    assert "Newton" in why(model, "b", x, y)
    close(fitted(model, x, y).params["b"], by_irls(x.numpy(), y.numpy(), penalty=4.0))


def test_lines_with_many_columns_are_weighted_least_squares() -> None:
    """The linear mixture uses the same design: `X' diag(w) X` for each component."""
    x, y = design(3), 2 * design()[:, 1] + counts()
    found = check_closed(regressions.linear, x, y)
    start, w = found.start, found.start["weights"]
    log_odds = w.log() + dist.Normal(x @ start["coef"].T, start["scale"]).log_prob(y[:, None])
    r = torch.softmax(log_odds, -1)
    for k in range(2):
        same(found.params["coef"][k], torch.linalg.solve(x.T @ (r[:, k, None] * x), x.T @ (r[:, k] * y)))


def test_separable_rows_have_no_finite_maximum() -> None:
    """Newton stops with a likelihood of one in sight, and finite coefficients."""
    x = design()
    fit = fitted(logistic, x, (x[:, 1] > 0).double())
    assert bool(torch.isfinite(fit.params["b"]).all())
    assert fit.path[0] < -10
    assert -1e-8 < fit.objective <= 0


def test_columns_that_depend_on_each_other() -> None:
    """Collinear columns, and a softmax with a row too many: the fit is that of the columns that matter."""
    x, y = design(), bits()
    full = fitted(logistic, torch.cat([x, x[:, :1] - 2 * x[:, 1:]], 1), y)
    close(full.objective, fitted(logistic, x, y).objective)

    def softmax(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", tensor([[0.1, 0.2], [0.3, -0.1]]))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(logits=x @ b.T), obs=y.long())

    found = step(softmax, x, y)
    assert found.how == {"b": "Newton"}
    close(found.params["b"][1] - found.params["b"][0], by_irls(x.numpy(), y.numpy()))


def test_covariates_far_from_zero() -> None:
    """Years as they stand: every probe overflows at first, and the columns differ by a factor of 2,000."""
    x, y = design(), counts()
    year = torch.stack([x[:, 0], 1950 + 30 * x[:, 1]], -1)

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", tensor([0.1, 0.0]))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Poisson((x @ b).exp()), obs=y)

    far, near = step(model, year, y), step(model, x, y)
    assert far.how == {"b": "Newton"}
    close(year @ far.params["b"], x @ near.params["b"], SOLVERS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_batch_of_starts_is_one_by_one(name: str) -> None:
    """Starts in front of every parameter advance as they would alone."""
    built = laid_out(name)
    starts = [built.here, built.there]
    both = {n: torch.stack([start[n] for start in starts]) for n in built.here}
    together = maximise(built.compiled, built.plan, built.compiled.expect(both, 1), both, 1)
    for k, start in enumerate(starts):
        alone = maximise(built.compiled, built.plan, built.compiled.expect(start), start)
        for n, value in alone.items():
            close(together[n][k], value, 1e-9)  # two contractions differ in their last digits, and a maximum is flat


# ---- options, and what is solved with what ---------------------------------------------------------------------------


def gamma(x: Tensor, y: Tensor) -> None:
    """A Gamma regression whose concentration is estimated."""
    b = pyro.param("b", tensor([0.1, 0.2]))
    shape = pyro.param("shape", tensor(1.3), constraint=constraints.positive)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Gamma(shape, (x @ b).exp()), obs=y)


def test_a_concentration_is_solved_together_with_the_rates() -> None:
    """One block, one maximum."""
    x, y = design(), counts() + 0.5
    found = step(gamma, x, y)
    assert found.how == {"b": "Newton", "shape": "Newton"}
    assert found.slope <= IDENTITY
    assert "joint maximum" in why(gamma, "shape", x, y)


def test_options_of_a_block() -> None:
    """Asked for, fixed, left to torch or to the user: each is done, and the rest of the block adapts."""
    x, y = design(), counts() + 0.5
    assert step(gamma, x, y, m_step={"b": "closed"}).how == {"b": "Newton", "shape": "Newton"}
    fixed = step(gamma, x, y, m_step={"shape": "fixed"})
    assert fixed.how == {"b": "Newton", "shape": "fixed"}
    same(fixed.params["shape"], tensor(1.3))
    split = step(gamma, x, y, m_step={"shape": "torch"})
    assert split.how == {"b": "swept", "shape": "torch"}
    same(split.params["b"], step(gamma, x, y).params["b"], SOLVERS)
    assert step(gamma, x, y, m_step={"b": "torch"}).how == {"b": "torch", "shape": "swept"}


def test_float32_is_found_too() -> None:
    """Parameters and data of float32."""
    x, y = design().float(), bits().float()

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", torch.full((2,), 0.1, dtype=torch.float32))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    assert how(model, x, y) == {"b": "Newton"}
    close(fitted(model, x, y).params["b"], by_irls(x.double().numpy(), y.double().numpy()), 1e-5)  # six digits


def test_an_empty_component_is_named_and_an_empty_node_is_not() -> None:
    """Coefficients that no row uses are an empty state; nodes of a rule share theirs, and may be empty."""
    x, y = design(), counts()
    start = {"weights": tensor([1.0 - 1e-14, 1e-14]), "coef": tensor([[0.5, 0.9], [-9.0, 0.0]])}
    assert fitted(regressions.poisson, x, y, starts=start, max_steps=1).outcome == "empty state"
    answers = torch.stack([bits(), 1 - bits(), bits().roll(1)], -1)
    assert fitted(item_response.rasch, answers, 201).outcome == "converged"


# ---- planted faults --------------------------------------------------------------------------------------------------


def test_a_hessian_that_is_off_still_leads_to_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curvature 1 % too big: slower, and exact all the same."""
    x, y = design(3), bits()
    truth, expand = by_irls(x.numpy(), y.numpy()), NewtonBlock.expand

    def wrong(self: Any, *args: Any) -> Any:
        value, slope, curvature = expand(self, *args)
        return value, slope, 1.01 * curvature

    monkeypatch.setattr(NewtonBlock, "expand", wrong)
    close(step(logistic, x, y).params["b"], truth, 1e-9)  # the last digit that a slope of 1e-10 leaves
    assert not fitted(logistic, x, y).notes


def test_a_gradient_that_is_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Successes 0.1 % too many: the certificate withdraws the block, and the fit ends at the maximum by torch."""
    x, y = design(3), bits()
    truth, density = by_irls(x.numpy(), y.numpy()), NewtonUse.density

    def wrong(self: Any, etas: Any, parts: Any) -> Any:
        return density(self, etas, [1.001 * parts[0], *parts[1:]])

    monkeypatch.setattr(NewtonUse, "density", wrong)
    assert step(logistic, x, y).slope > IDENTITY
    fit = fitted(logistic, x, y)
    assert any("withdrawn" in note for note in fit.notes)
    close(fit.params["b"], truth, SOLVERS)


def test_a_wrong_column_is_noticed() -> None:
    """A design 0.1 % too big: the arguments measured on the user's program are others."""
    from em_pyro.prepare import disagreements

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
    engine = replace(here.engine, recognition=replace(recognition, readings={"y": wrong}), uncollapsed=None)
    assert disagreements(engine, params) == ["y"]


# ---- products with the design ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_products_are_those_of_the_dense_design(name: str) -> None:
    """`X' g` and `X' diag(w) X` by pieces are those of a matrix with a column for every entry."""
    built = laid_out(name)
    generator = torch.Generator().manual_seed(3)
    for term in built.compiled.terms.values():
        for key, role in term.roles.items():
            if role.affine is None or term.family.roles[key].event_dim:
                continue
            affine, E = role.affine, len(role.affine.entries)
            shape = (*term.cell_shape, *term.event_shape)
            zero, eye = affine.at(torch.zeros(1, E)), affine.at(torch.eye(E))
            X = (eye - zero).nan_to_num(0.0).expand((E, *shape)).reshape(E, -1)
            slope, weight = torch.randn((2, 1, *shape), generator=generator)
            close(adjoint(affine, slope, E)[0], X @ slope.reshape(-1))
            close(gram(affine, affine, weight, E)[0], X @ (weight.reshape(-1, 1) * X.T))
