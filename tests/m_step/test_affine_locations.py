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


DIAGONAL: dict[str, Callable[[Tensor, Tensor], dist.Distribution]] = {
    "scale_tril": lambda loc, s: dist.MultivariateNormal(loc, scale_tril=torch.diag_embed(s)),
    "covariance_matrix": lambda loc, s: dist.MultivariateNormal(loc, torch.diag_embed(s**2)),
    "precision_matrix": lambda loc, s: dist.MultivariateNormal(loc, precision_matrix=torch.diag_embed(s**-2)),
    "a multiple of one": lambda loc, s: dist.MultivariateNormal(loc, s[..., :1, None] ** 2 * torch.eye(3).to(s)),
}


def planes(law: Callable[[Tensor, Tensor], dist.Distribution]) -> Model:
    """A mixture of regressions of three numbers, some rows of which are not seen."""

    def model(x: Tensor, y: Tensor, seen: Tensor) -> None:
        b = pyro.param("b", torch.linspace(-1.0, 1.0, 12).reshape(2, 3, 2).to(x))
        s = pyro.param("s", tensor([[0.5, 1.0, 1.5], [1.0, 0.7, 1.2]]).to(x), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4]).to(x)))
            loc = (b[z] @ x[..., None])[..., 0]
            pyro.sample("y", law(loc, s[z]).mask(seen), obs=y)

    return model


def chain(law: Callable[[Tensor, Tensor], dist.Distribution]) -> Model:
    """States that matrices move, and known inputs push."""

    def model(x: Tensor, y: Tensor, seen: Tensor) -> None:
        moves, push = pyro.param("moves", 0.5 * torch.eye(3).to(x)), pyro.param("push", torch.zeros(3, 2).to(x))
        s = pyro.param("s", tensor([0.5, 1.0, 0.7]).to(x), constraint=constraints.positive)
        state = torch.zeros(3).to(x)
        for t in range(6):
            state = pyro.sample(f"state_{t}", law(moves @ state + push @ x[t], s))
            pyro.sample(f"y_{t}", dist.Normal(state, 0.5).mask(seen[t]).to_event(1), obs=y[t])

    return model


@pytest.mark.parametrize(("of", "dtype"), [(planes, torch.float64), (planes, torch.float32), (chain, torch.float64)])
@pytest.mark.parametrize("name", DIAGONAL)
def test_a_diagonal_law_of_vectors_is_a_row_of_normals(of: Callable[..., Model], name: str, dtype: torch.dtype) -> None:
    """Also around a location that is affine: closed forms, and the steps of the same program with Normals."""
    args = real(N, 2).to(dtype), real(N, 3, seed=1).to(dtype), torch.arange(N) % 5 != 2
    one = name == "a multiple of one"
    numbers = of(lambda loc, s: dist.Normal(loc, s[..., :1].expand_as(loc) if one else s).to_event(1))
    assert "torch" not in how(of(DIAGONAL[name]), *args).values()
    found = []
    for model in (of(DIAGONAL[name]), numbers):
        pyro.clear_param_store()
        found.append(EM(model, max_steps=3, acceleration=None).fit(*args).path)
    assert found[0] == pytest.approx(found[1], rel=SOLVERS if dtype == torch.float64 else 1e-4)
