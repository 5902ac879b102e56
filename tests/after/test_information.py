"""Standard errors: those of Pyro's own second derivatives; what has none, and says so; intervals, functions, kinds."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import IDENTITY, SOLVERS
from programs.overlapping import fitted, overlapping, slow
from programs.zoo import simulated
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, tensor
from torch.distributions import constraints, transform_to

from em_pyro.after.information import scores
from em_pyro.after.information.record import Information
from em_pyro.errors import ParameterError
from em_pyro.fit.verdict import around

SIMPLEX, POSITIVE, UNIT = constraints.simplex, constraints.positive, constraints.unit_interval


def by_pyro(model: Callable[..., None], args: tuple[Any, ...], found: Information) -> Tensor:
    """Standard errors of all entries by torch's Hessian of Pyro's own log evidence, in coordinates of Pyro's own."""
    onto = {name: transform_to(constraint) for name, constraint in found.constraints.items()}
    points = {name: onto[name].inv(found.params[name]) for name in onto}

    def params(v: Tensor) -> dict[str, Tensor]:
        parts = v.split([point.numel() for point in points.values()])
        return {n: onto[n](part.reshape(points[n].shape)) for n, part in zip(onto, parts, strict=True)}

    def loss(v: Tensor) -> Tensor:
        given = config_enumerate(poutine.substitute(model, data=params(v)))
        return TraceEnum_ELBO(max_plate_nesting=2).differentiable_loss(given, lambda *args: None, *args)

    here = torch.cat([point.reshape(-1) for point in points.values()])
    spread = torch.linalg.pinv(torch.autograd.functional.hessian(loss, here), hermitian=True)  # of more than are free
    moves = torch.autograd.functional.jacobian(lambda v: torch.cat([p.reshape(-1) for p in params(v).values()]), here)
    return (moves @ spread @ moves.mT).diagonal().clamp(min=0).sqrt()


NAMES = ["gaussian-full", "bernoulli", "abo", "regression-experts", "student", "von-mises", "irt-two-parameters"]


@pytest.mark.parametrize("name", [*NAMES, "hmm-multivariate", "zero-inflated-poisson"])
def test_standard_errors_are_those_of_pyros_second_derivatives(name: str) -> None:
    """Mixtures, chains, regressions, sites that torch maximises and the model itself."""
    model, args = simulated(name)
    found = fitted(model, *args).information()
    assert found.rank == found.dimension
    assert found.notes == ()
    with pyro.get_param_store().scope():
        close(torch.cat([se.reshape(-1) for se in found.se.values()]), by_pyro(model, args, found), SOLVERS)


def test_gaussian_latents() -> None:
    """A random intercept: the Hessian of the multivariate normal that the groups have."""
    generator = torch.Generator().manual_seed(3)
    group = torch.arange(60) % 12
    y = torch.randn(12, generator=generator)[group] * 0.8 + torch.randn(60, generator=generator) * 0.5 + 1.0

    def model(y: Tensor, group: Tensor) -> None:
        mean = pyro.param("mean", tensor(0.0))
        between, within = (pyro.param(n, tensor(1.0), constraint=POSITIVE) for n in ("between", "within"))
        with pyro.plate("groups", 12):
            b = pyro.sample("b", dist.Normal(0.0, between))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean + b[group], within), obs=y)

    def objective(v: Tensor) -> Tensor:
        same = (group.unsqueeze(-1) == group).to(v)
        covariance = v[1] ** 2 * same + v[2] ** 2 * torch.eye(60)
        return torch.distributions.MultivariateNormal(v[0].expand(60), covariance).log_prob(y)

    found = fitted(model, y, group, tol=1e-10).information()
    names = ("mean", "between", "within")
    point = torch.stack([found.params[name] for name in names])
    spread = torch.linalg.inv(-torch.autograd.functional.hessian(objective, point))
    close(found.covariance(names), spread)


# ---- what has no standard error ----


def classes(items: int) -> tuple[Callable[[Tensor], None], Tensor]:
    """Two classes, and answers to some items."""
    generator = torch.Generator().manual_seed(1)
    z = torch.rand(400, generator=generator) < 0.4
    x = (torch.rand((400, items), generator=generator) < torch.where(z, 0.8, 0.2).unsqueeze(-1)).double()

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.45, 0.55]), constraint=SIMPLEX)
        probs = pyro.param("probs", torch.linspace(0.3, 0.7, 2 * items).reshape(2, items), constraint=UNIT)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(probs[z]).to_event(1), obs=x)

    return model, x


@pytest.mark.parametrize("kind", ["observed", "opg", "robust"])
def test_two_classes_need_three_items(kind: str) -> None:
    """On two items two of five directions are flat, and everything moves along them; the frequencies are known."""
    model, x = classes(2)
    fit = fitted(model, x)
    found = fit.information(kind)
    assert (found.rank, found.dimension, len(found.directions)) == (3, 5, 2)
    assert all(bool(se.isnan().all()) for se in found.se.values())
    assert "not identified" in str(found)
    share = found.function(lambda p: p["weights"] @ p["probs"])
    mean = x.mean(0)
    close(share.value, mean, SOLVERS)
    close(share.se, (mean * (1 - mean) / len(x)).sqrt(), SOLVERS)
    model, x = classes(3)
    found = fitted(model, x).information(kind)
    assert found.rank == found.dimension == 7
    assert not any(bool(se.isnan().any()) for se in found.se.values())


def sum_of_two(x: Tensor) -> None:
    """Two locations and a shift that no density tells apart; and a mean of its own."""
    a, b, c = (pyro.param(n, tensor(v)) for n, v in (("a", [0.0, 3.0]), ("b", 0.1), ("c", 0.0)))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(a[z] + b, 1.0), obs=x)
        pyro.sample("y", dist.Normal(c, 1.0), obs=x)


def test_only_what_moves_along_a_flat_direction_is_refused() -> None:
    """Of `a + b` neither is known, their sum is, and so is everything else."""
    x = tensor([0.0, 0.5, 0.2, 3.0, 3.5, 2.9, 0.1])
    found = fitted(sum_of_two, x).information()
    assert bool(found.se["a"].isnan().all())
    assert bool(found.se["b"].isnan())
    close(found.se["c"], len(x) ** -0.5)
    assert not bool(found.function(lambda p: p["a"] + p["b"]).se.isnan().any())
    assert not bool(found.function(lambda p: p["a"][1] - p["a"][0]).se.isnan())
    assert bool(found.function(lambda p: p["a"][1] - p["b"]).se.isnan())
    (direction,) = found.directions
    close(direction.moves["a"], -direction.moves["b"].expand(2))
    close(direction.moves["c"], 0.0)
    assert str(direction) == '"a"[0], "a"[1], "b"'
    covariance = found.covariance(("b", "c"))
    assert covariance.isnan().tolist() == [[True, True], [True, False]]
    assert found.notes_of("b") == {(): "not identified: no standard error"}


def test_a_kink_and_a_boundary() -> None:
    """A median has no second derivative; a class that never says yes is at zero, which the rest takes as given."""

    def model(x: Tensor, y: Tensor) -> None:
        median, spread = pyro.param("median", tensor(0.1)), pyro.param("spread", tensor(1.0), constraint=POSITIVE)
        p = pyro.param("p", tensor([0.2, 0.5]), constraint=UNIT)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Laplace(median, spread), obs=x)
            pyro.sample("y", dist.Bernoulli(p[torch.arange(len(x)) % 2]), obs=y)

    x = torch.linspace(-1, 2, 41) ** 3
    y = (torch.arange(41) % 4 == 1).double()
    found = fitted(model, x, y).information()
    assert found.notes_of("median") == {(): "no second derivative: no standard error"}
    assert found.notes_of("p") == {(0,): "on the boundary: no standard error"}
    assert found.interval("p").lower.isnan().tolist() == [True, False]
    close(found.se["spread"], found.params["spread"] / 41**0.5, SOLVERS)
    assert "boundary" in str(found)
    assert (found.dimension, found.rank) == (4, 2)


def test_a_simplex_of_which_one_is_left() -> None:
    """An entry that is one, since all others are at the boundary, has no standard error either."""

    def model(x: Tensor) -> None:
        table = pyro.param("table", torch.full((2, 3), 1 / 3), constraint=SIMPLEX)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Categorical(table[torch.arange(len(x)) % 2]), obs=x)

    x = torch.where(torch.arange(30) % 2 == 0, 1, torch.arange(30) % 3)
    found = fitted(model, x).information()
    assert set(found.notes_of("table")) == {(0, 0), (0, 1), (0, 2)}
    close(found.se["table"][1], tensor([2 / 9 / 15] * 3).sqrt(), SOLVERS)


def test_a_degenerate_fit_is_refused() -> None:
    """A scale that collapses is no maximum: neither has an answer."""

    def model(x: Tensor) -> None:
        loc, scale = pyro.param("loc", tensor([0.0, 9.0])), pyro.param("scale", torch.ones(2), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    fit = fitted(model, tensor([0.0, 0.5, 1.0, 9.0]))
    assert fit.outcome == "degenerate"
    for ask in (fit.information, fit.certificate):
        with pytest.raises(ParameterError, match="degenerate"):
            ask()


# ---- the way to the top ----


def test_a_fit_that_stopped_early_has_the_standard_errors_of_the_top() -> None:
    """Newton's method goes there; the certificate says how far that was, in nats."""
    x = overlapping()
    whole, early = fitted(slow, x, tol=1e-13), fitted(slow, x, max_steps=8, acceleration=None)
    assert early.outcome == "step limit"
    there, here = whole.information(), early.information()
    for name in there.se:
        close(here.params[name], there.params[name], SOLVERS)
        close(here.se[name], there.se[name], 1e-8)
    gap = whole.objective - early.objective
    assert gap > 1e-5
    certificate = early.certificate()
    close(certificate.decrement / gap, 1.0, 0.01)
    assert any("below the maximum" in note for note in here.notes)
    assert not there.notes
    assert whole.certificate().decrement < 1e-10
    assert str(certificate.rank) in str(certificate)
    close(certificate.rate, there.rate)


def test_the_rate_is_that_of_the_steps() -> None:
    """One less the smallest curvature is what plain EM shows at its end."""
    x = overlapping()
    path = fitted(slow, x, tol=0, max_steps=14, acceleration=None).path
    gains = [b - a for a, b in zip(path[:-1], path[1:], strict=True)]
    found = fitted(slow, x).information()
    close(gains[-1] / gains[-2], found.rate**2, 1e-2)
    close(found.missing[0], found.rate)


# ---- planted faults ----


def test_a_row_weight_that_is_squared_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three equal rows are one row of weight three; with the weight squared they are not."""
    x = overlapping()[:40]

    def weighted(x: Tensor, by: Tensor) -> None:
        loc, scale = pyro.param("loc", tensor(0.0)), pyro.param("scale", tensor(1.0), constraint=POSITIVE)
        with pyro.plate("rows", len(x)), poutine.scale(scale=by):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    by = 1.0 + torch.arange(40) % 3
    each = fitted(weighted, x.repeat_interleave(by.long()), tensor(1.0)).information("robust")

    def largest() -> float:
        found = fitted(weighted, x, by).information("robust")
        return max(float((found.se[n] / each.se[n] - 1).abs()) for n in ("loc", "scale"))

    assert largest() < IDENTITY
    monkeypatch.setattr(scores, "_counts", lambda problem, plate: torch.ones(40))
    assert largest() > 0.05


def test_coordinates_with_a_wrong_slope_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinate of positive numbers that is no logarithm near its point changes what differences see."""
    x = torch.linspace(-1.0, 2.0, 50)

    def model(x: Tensor) -> None:
        loc, scale = pyro.param("loc", tensor(0.0)), pyro.param("scale", tensor(1.0), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    fit = fitted(model, x)
    want = float(fit.params["scale"]) / 10
    close(fit.information().se["scale"], want, SOLVERS)
    moved = around._moved

    def bent(point: Tensor, value: Tensor, move: Tensor, domain: str, onto: Any) -> Tensor:
        return value * (1 + move + 5 * move**2) if domain == "positive" else moved(point, value, move, domain, onto)

    monkeypatch.setattr(around, "_moved", bent)
    close(fit.information().se["scale"], want, SOLVERS)  # at a maximum second derivatives are a tensor: any will do
    monkeypatch.setattr(
        around, "_moved", lambda p, v, m, d, o: v * 0.9 * m.exp() if d == "positive" else moved(p, v, m, d, o)
    )
    assert abs(float(fit.information().se["scale"]) / want - 1) > 1e-3
