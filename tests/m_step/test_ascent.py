"""Climbing `Q`: Newton and L-BFGS end at the same maximum, wherever there is one to be had."""

from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import Built, distance, farthest, laid_out
from oracles.steps import expect, q
from oracles.tolerances import IDENTITY, SOLVERS
from programs.hills import hill_on
from torch import Tensor, tensor
from torch.autograd.function import once_differentiable

from em_pyro import EM
from em_pyro.e_step.expectation import Expectation
from em_pyro.m_step.ascent import ascend
from em_pyro.m_step.ascent.climbs import LBFGS, NEWTON, Climb
from em_pyro.m_step.ascent.hill import OnlyOnce, gradient
from em_pyro.m_step.ascent.newton import newton

CLIMBED = (
    "hurdle-negative-binomial",
    "hmm-poisson-stationary",
    "irt-normal-ogive",
    "irt-three-parameters",
)
"""Zoo models some of whose parameters torch maximises."""


def climbed(built: Built, method: str | None = None) -> tuple[Expectation, dict[str, Tensor]]:
    """An E-step, and the parameters of the first block that torch maximises, maximised."""
    climb = built.plan.climbs[0]
    climb = replace(climb, exact=True) if method is None else Climb(climb.names, method)
    found = expect(built.compiled, built.here)
    return found, ascend.ascend(built.compiled, found, built.here, climb)


@pytest.mark.parametrize("name", CLIMBED)
def test_newton_ends_where_lbfgs_does_and_is_stationary(name: str) -> None:
    """The plan's method leaves no slope; L-BFGS finds the same `Q`."""
    built = laid_out(name)
    assert built.plan.climbs[0].method == NEWTON
    found, new = climbed(built)
    _, other = climbed(built, LBFGS)
    with torch.no_grad():
        first, second = (q(built.compiled, {**built.here, **params}, found) for params in (new, other))
        before = q(built.compiled, built.here, found)
    assert first > before
    assert distance(second, first) < SOLVERS
    value, slopes = gradient(built.compiled, found, {**built.here, **new}, list(new))
    assert max(float(slope.abs().max()) for slope in slopes.values()) < IDENTITY * (1 + abs(value))


def test_what_has_a_closed_form_is_not_climbed() -> None:
    """Unless that is asked for."""
    assert laid_out("gaussian_mixture").plan.climbs == ()
    plan = laid_out("gaussian_mixture").plan_with("torch")
    assert {name for climb in plan.climbs for name in climb.names} == {"weights", "loc", "scale"}


def test_parameters_that_q_separates_are_climbed_apart() -> None:
    """Two sites that share no parameter are two blocks."""

    def model(x: Tensor, y: Tensor) -> None:
        a, b = pyro.param("a", tensor([0.5, 1.0])), pyro.param("b", tensor(0.2))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(a.sin()[z], 1.0), obs=x)
            pyro.sample("y", dist.Normal(b.sin(), 1.0), obs=y)

    plan = EM(model).plan(tensor([0.1, 0.9, 0.3]), tensor([0.4, 0.2, 0.7]))
    assert [climb.names for climb in plan.climbs] == [("a",), ("b",)]


def test_a_kink_is_climbed() -> None:
    """The location of a Laplace law by torch: no curvature, and the median all the same."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor(0.3))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Laplace(loc, 1.0), obs=x)

    fit = EM(model, m_step={"loc": "torch"}).fit(tensor([-1.0, 2.0, 2.5, 7.0, 9.0]))
    assert fit.plan["loc"].how == "torch"
    assert distance(fit.params["loc"], tensor(2.5)) < SOLVERS


def test_newton_leaves_a_saddle() -> None:
    """From a point of positive curvature it climbs to the top: each eigenvalue counts with its absolute value."""
    hill = hill_on(lambda x: (x[0] ** 2 - x[0] ** 4 - x[1] ** 2).sum(), tensor([0.05, 0.3]))
    top, value, slope, _ = newton(hill, hill.start, *hill.slope(hill.start), None)
    assert distance(top, tensor([0.5**0.5, 0.0])) < SOLVERS
    assert float(slope.abs().max()) < IDENTITY
    assert value == pytest.approx(0.25)


class Once(torch.autograd.Function):
    """The square, which torch may differentiate once; the second time it says nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return it."""
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        """Return its slope."""
        (x,) = ctx.saved_tensors
        return 2 * x * slope


def far(x: Tensor) -> Tensor:
    """A distance that torch may differentiate once, and says so."""
    return 1e-9 * torch.cdist(x.view(1, 2), torch.zeros(1, 2), p=3.0).sum()


@pytest.mark.parametrize("says_so", [False, True])
def test_what_has_one_derivative_is_climbed_by_that(says_so: bool) -> None:  # noqa: FBT001
    """Where a Hessian cannot be had, or is wrong, L-BFGS takes over."""

    def f(x: Tensor) -> Tensor:
        return far(x) - (x - 1).square().cosh().sum() if says_so else -Once.apply(x - 1).cosh().sum()

    hill = hill_on(f, tensor([0.05, 0.3]))
    if says_so:
        with pytest.raises(OnlyOnce):
            hill.curvature(hill.start)
    else:
        assert not bool(hill.curvature(hill.start)[0].any())
    top, value, _ = ascend._maximum(hill, hill.start, *hill.slope(hill.start), Climb(("loc",), NEWTON))
    assert distance(value, hill.value(tensor([1.0, 1.0]))) < IDENTITY
    assert distance(top, tensor([1.0, 1.0])) < 1e-3  # the top is flat to the third order


def test_the_guard_notices_an_ascent_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: an M-step that goes down is given back to the old values, whatever the method returns."""
    built = laid_out("irt-normal-ogive")
    found, new = climbed(built)
    downhill: Any = lambda hill, vector, value, slope, climb: (vector - 3 * slope.sign(), value - 1, slope)  # noqa: E731
    monkeypatch.setattr(ascend, "_maximum", downhill)
    _, kept = climbed(built)
    assert farthest(kept, {name: built.here[name] for name in kept}) == 0
    assert farthest(new, kept) > 0


@pytest.mark.parametrize("far", [1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_quadratic_hill_is_climbed_at_once_from_afar(far: float, dtype: torch.dtype) -> None:
    """A start drawn from a wide prior is many units away: the step is not cut where `Q` is as Newton foresees it."""
    covariance = tensor([[2.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 1.5]], dtype=dtype)
    mean = tensor([1.0, -2.0, 0.5], dtype=dtype)

    def model() -> None:
        a = pyro.sample("a", dist.Normal(tensor(0.0, dtype=dtype), 1000.0).expand([2]).to_event(1))
        b = pyro.sample("b", dist.Normal(tensor(0.0, dtype=dtype), 1000.0))
        pyro.sample("x", dist.MultivariateNormal(mean, covariance), obs=torch.cat([a, b.reshape(1)]))

    start = {"a": tensor([far, -far], dtype=dtype), "b": tensor(far / 3, dtype=dtype)}
    fit = EM(model, starts=start, acceleration=None).fit()
    assert fit.converged
    assert len(fit.path) <= 5
    precision = covariance.inverse()
    maximum = torch.linalg.solve(precision + 1e-6 * torch.eye(3, dtype=dtype), precision @ mean)
    reached = torch.cat([fit.params["a"], fit.params["b"].reshape(1)])
    assert distance(reached, maximum) < (SOLVERS if dtype == torch.float64 else 1e-4)


def test_a_step_is_not_lengthened_where_the_hill_bends() -> None:
    """Under an exponential link Newton's whole step from far out would leave the numbers."""
    y = tensor([3.0, 5.0, 2.0, 8.0])

    def model() -> None:
        level = pyro.sample("level", dist.Normal(0.0, 1000.0))
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Poisson((level + 1e-3 * level.square()).exp()), obs=y)

    fit = EM(model, starts={"level": tensor(-300.0)}).fit()
    assert fit.converged
    level = float(fit.params["level"])
    assert level + 1e-3 * level**2 == pytest.approx(float(y.mean().log()), rel=1e-3)
