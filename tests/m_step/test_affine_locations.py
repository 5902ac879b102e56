"""Locations that are affine in their parameters are weighted least squares."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import Model, check_closed, how, same, why
from oracles.tolerances import SOLVERS
from programs.probed import N, positive, real
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM


def lines(scale: Callable[[], Tensor]) -> Model:
    """Two regression lines, `b[z, 0] + b[z, 1] t`."""

    def model(t: Tensor, y: Tensor) -> None:
        b, s = pyro.param("b", tensor([[1.0, 2.0], [-1.0, -0.5]])), scale()
        with pyro.plate("row", len(t)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("y", dist.Normal(b[z, 0] + b[z, 1] * t, s[z] if s.dim() else s), obs=y)

    return model


@pytest.mark.parametrize("tied", [True, False], ids=["one scale", "two scales"])
def test_lines_are_weighted_least_squares(tied: bool) -> None:  # noqa: FBT001
    """An affine location is no selection: it is solved as a regression, and the plan says so."""
    t, y = real(N), 2 * real(N, seed=1)
    model = lines(lambda: pyro.param("s", torch.ones(() if tied else 2), constraint=constraints.positive))
    assert "least squares" in why(model, "b", t, y)
    new = check_closed(model, t, y).params
    X, b = torch.stack([torch.ones(N), t], -1), tensor([[1.0, 2.0], [-1.0, -0.5]])
    log_odds = tensor([0.6, 0.4]).log() - 0.5 * (y[:, None] - X @ b.T) ** 2
    w = torch.softmax(log_odds, -1).T
    for k in range(2):
        same(new["b"][k], torch.linalg.solve(X.T @ (w[k, :, None] * X), X.T @ (w[k] * y)))
    square = w * (y - new["b"] @ X.T) ** 2
    same(new["s"], (square.sum() / N if tied else square.sum(1) / w.sum(1)).sqrt())


def test_affine_in_a_positive_parameter_is_torch() -> None:
    """A slope that must be positive is no least squares."""

    def model(t: Tensor, y: Tensor) -> None:
        a, slope = pyro.param("a", tensor([1.0, -1.0])), positive("slope", 0.5)
        with pyro.plate("row", len(t)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("y", dist.Normal(a[z] + slope * t, 1.0), obs=y)

    assert how(model, real(N), -real(N))["slope"] == "torch"
    fit = EM(model).fit(real(N), -real(N))
    assert float(fit.params["slope"]) >= 0


def summed(y: Tensor, law: Callable[[], dist.Distribution] | None, scale: float | None) -> None:
    """A location that is a sum of parameters, with no cell to tell them apart by; one may have a prior."""
    a = pyro.param("a", tensor(0.4))
    b = pyro.param("b", tensor(0.6)) if law is None else pyro.sample("b", law())
    s = positive("s", 0.5) if scale is None else scale
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + 0.5 * b, s), obs=y)


@pytest.mark.parametrize("scale", [None, 0.7])
def test_a_sum_of_parameters_without_cells(scale: float | None) -> None:
    """Its mean is that of the data."""
    y = real(N)
    fit = EM(summed).fit(y, None, scale)
    same(fit.params["a"] + 0.5 * fit.params["b"], y.mean())


@pytest.mark.parametrize("scale", [None, 0.7])
def test_beside_what_torch_maximises_a_location_is_swept(scale: float | None) -> None:
    """Parts of one location, one of them with a prior that is not conjugate, are alternated until `Q` is stationary."""
    y = 3 + real(N)
    args = (y, lambda: dist.StudentT(5.0, 0.0, 1.0), scale)
    plan = how(summed, *args)
    assert (plan["a"], plan["b"]) == ("swept", "torch")
    fit = EM(summed, tol=1e-13).fit(*args)
    same(fit.params["b"], tensor(0.0), SOLVERS)
    same(fit.params["a"], y.mean(), SOLVERS)
