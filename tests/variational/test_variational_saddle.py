"""The saddle test of laws: states with equal laws are told apart, and what is a maximum stays."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import coins, gaussian_mixture, hidden_markov
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor

import em_pyro.variational.climbing.climb
from em_pyro import NormalWishart, StickBreaking, VariationalEM, VariationalFit
from em_pyro.fit.problem import prepare
from em_pyro.variational.choose import choose
from em_pyro.variational.conjugate import Conjugate
from em_pyro.variational.stick_breaking import Sticks

DOUBLE = torch.float64
HEADS = tensor([5.0, 9.0, 8.0, 4.0, 7.0], dtype=DOUBLE)
HALVES = tensor([0.5, 0.5], dtype=DOUBLE)
FLAT = dist.Dirichlet(torch.ones(2, dtype=DOUBLE))


def numbers() -> Tensor:
    """Two groups on the line."""
    return torch.cat([torch.linspace(-2, 1, 9, dtype=DOUBLE), torch.linspace(5, 7, 7, dtype=DOUBLE)])


def known_scale(x: Tensor) -> None:
    """Two normals whose scale is known."""
    weights = pyro.param("weights", HALVES, constraint=dist.constraints.simplex)
    loc = pyro.param("loc", tensor([0.0, 1.0], dtype=DOUBLE))
    with pyro.plate("points", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.5), obs=x)


Case = tuple[Callable[..., None], dict[Any, Any], dict[str, Tensor], tuple[Any, ...]]


def cases() -> Mapping[str, Case]:
    """Models, priors, a start at which all states are equal, arguments."""
    x, plane = numbers(), gaussian_mixture.simulate(40).double()
    line = NormalWishart(2.0, 0.1, 2.0, 2.0)
    series = tensor([[1.0, 2, 4, 1, 3, 2, 9, 11, 8, 7, 12, 9], [2, 0, 3, 2, 8, 10, 7, 9, 1, 2, 3, 2]], dtype=DOUBLE)
    return {
        "coins": (
            coins.coins,
            {"weights": FLAT, "bias": dist.Beta(1.0, 1.0)},
            {"weights": HALVES, "bias": tensor([0.6, 0.6], dtype=DOUBLE)},
            (HEADS, 10),
        ),
        "known scale": (
            known_scale,
            {"weights": FLAT, "loc": dist.Normal(2.0, 9.0)},
            {"weights": HALVES, "loc": tensor([2.0, 2.0], dtype=DOUBLE)},
            (x,),
        ),
        "numbers": (
            gaussian_mixture.univariate,
            {"weights": FLAT, ("loc", "scale"): line},
            {"weights": HALVES, "loc": tensor([2.0, 2.0], dtype=DOUBLE), "scale": tensor([3.0, 3.0], dtype=DOUBLE)},
            (x,),
        ),
        "vectors": (
            gaussian_mixture.full,
            {"weights": FLAT, ("loc", "scale_tril"): NormalWishart(plane.mean(0), 0.1, torch.eye(2), 3.0)},
            {"weights": HALVES, "loc": plane.mean(0).repeat(2, 1), "scale_tril": 2 * torch.eye(2).repeat(2, 1, 1)},
            (plane,),
        ),
        "chain": (
            hidden_markov.poisson,
            {"initial": FLAT, "transition": FLAT, "rate": dist.Gamma(1.0, 0.1)},
            {"initial": HALVES, "transition": HALVES.repeat(2, 1), "rate": tensor([5.0, 5.0], dtype=DOUBLE)},
            (series,),
        ),
    }


def fitted(name: str, *, equal: bool) -> VariationalFit:
    """From where all states are equal, or the best of the model's own start and others."""
    model, priors, start, args = cases()[name]
    return VariationalEM(model, priors, starts=start if equal else 5).fit(*args)


@pytest.mark.parametrize("name", cases())
def test_a_saddle_is_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal states end where the best of other starts does; without the test the steps settle where they are equal."""
    there, fit = fitted(name, equal=False), fitted(name, equal=True)
    assert fit.converged
    assert "left a saddle after" in fit.notes[0]
    assert fit.notes[0] in str(fit)
    assert distance(fit.elbo, there.elbo) < SOLVERS
    assert all(b >= a - IDENTITY * abs(a) for a, b in zip(fit.path, fit.path[1:], strict=False))
    monkeypatch.setattr(em_pyro.variational.climbing.climb, "leave_saddle", lambda *_: None)
    left = fitted(name, equal=True)
    assert left.converged
    assert not left.notes
    assert left.elbo < fit.elbo - 0.1


@pytest.mark.parametrize("name", cases())
def test_a_maximum_is_none(name: str) -> None:
    """From other starts nothing is noted, and no steps are counted for the test."""
    fit = fitted(name, equal=False)
    assert not fit.notes
    assert fit.acceleration is not None or fit.num_steps == len(fit.path) - 1


def test_no_tolerance_no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `tol=0` exactly `max_steps` are taken, and nothing is disturbed."""
    monkeypatch.setattr(em_pyro.variational.climbing.climb, "leave_saddle", lambda *_: 1 / 0)
    model, priors, start, args = cases()["coins"]
    assert VariationalEM(model, priors, starts=start, tol=0, max_steps=7).fit(*args).num_steps == 7


# ---- what a disturbance costs ----------------------------------------------------------------------------------------


def priors_of_laws() -> list[tuple[Conjugate, Any, int]]:
    """Of every kind of law a prior, some law, and how many hyperparameters are moved."""
    plane, generator = gaussian_mixture.simulate(9).double(), torch.Generator().manual_seed(0)
    shapes = 0.2 + 9 * torch.rand((2, 2), generator=generator, dtype=DOUBLE)

    def one(model: Callable[..., None], priors: dict[Any, Any], name: str, args: tuple[Any, ...]) -> Conjugate:
        return next(
            each for each in choose(prepare(model, args, {}, {}, check=False).engine, priors) if name in each.names
        )

    full = cases()["vectors"][1]
    series = cases()["chain"][3]
    vectors = one(gaussian_mixture.full, full, "loc", (plane,))
    matrix = tensor([[3.0, 1.0], [1.0, 2.0]], dtype=DOUBLE)

    def known(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.MultivariateNormal(torch.zeros(2, dtype=DOUBLE), matrix))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.MultivariateNormal(loc, matrix), obs=x)

    sticks = one(gaussian_mixture.full, {**full, "weights": StickBreaking(0.5)}, "weights", (plane,))
    return [
        (one(*cases()["chain"][:2], "transition", series), dist.Dirichlet(shapes), 4),
        (one(*cases()["chain"][:2], "rate", series), dist.Gamma(shapes[0], shapes[1]), 2),
        (one(*cases()["coins"][:2], "bias", (HEADS, 10)), dist.Beta(shapes[0], shapes[1]), 4),
        (one(*cases()["known scale"][:2], "loc", (numbers(),)), dist.Normal(shapes[0], shapes[1]), 2),
        (one(known, {}, "loc", (plane,)), dist.MultivariateNormal(shapes[0], matrix), 2),
        (sticks, Sticks(shapes[0], shapes[1], torch.arange(2), StickBreaking(0.5)), 4),
        (vectors, NormalWishart(shapes, shapes[0], matrix.repeat(2, 1, 1), 2 + shapes[1]), 8),
    ]


def one_at_a_time(index: int) -> Callable[[Tensor], Tensor]:
    """Numbers in the place of random ones: one of all that are drawn is one, the others zero."""
    seen = 0

    def draw(like: Tensor) -> Tensor:
        nonlocal seen
        noise = torch.zeros_like(like).reshape(-1)
        if 0 <= index - seen < noise.numel():
            noise[index - seen] = 1.0
        seen += noise.numel()
        return noise.reshape(like.shape)

    return draw


@pytest.mark.parametrize("which", range(7))
def test_every_hyperparameter_costs_what_was_asked(which: int) -> None:
    """The divergence of the disturbed law from the law, one hyperparameter at a time."""
    each, law, many = priors_of_laws()[which]
    nats = 1e-8
    costs = [float(each.divergence(each.disturbed(law, nats, one_at_a_time(k)), law)) for k in range(many)]
    assert distance(tensor(costs) / nats, torch.ones(many)) < 1e-3
    assert float(each.divergence(each.disturbed(law, nats, one_at_a_time(many)), law)) < 1e-3 * nats


def test_sticks_in_another_order_are_another_law() -> None:
    """Infinitely far."""
    shapes, prior = tensor([2.0, 3.0], dtype=DOUBLE), StickBreaking(1.0)
    here, there = (Sticks(shapes, shapes, order, prior) for order in (tensor([0, 1]), tensor([1, 0])))
    assert here.divergence(here) == 0
    assert torch.isinf(here.divergence(there))
