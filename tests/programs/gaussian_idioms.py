"""Ways in which factor analyses and crossed effects are written, each with the normal law of what is observed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, eye, ones, tensor, zeros
from torch.distributions import MultivariateNormal, constraints
from torch.nn.functional import one_hot

FACTOR = tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
"""To which of three factors each of nine measurements belongs, as in the tests of Holzinger & Swineford (1939)."""
MARKED = tensor([True, False, False] * 3)
"""Those with a loading of one, if factors have units of their own."""


class Idiom(NamedTuple):
    """A model, its arguments, and its log evidence by dense matrices at any parameters."""

    model: Callable[..., None]
    args: tuple[Any, ...]
    evidence: Callable[[dict[str, Tensor]], Tensor]


IDIOMS: dict[str, Idiom] = {}


def _positive(name: str, value: Tensor) -> Tensor:
    return pyro.param(name, value, constraint=constraints.positive)


# ---- rows of nine measurements ---------------------------------------------------------------------------------------


def _rows() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    root = torch.linalg.cholesky(tensor([[1.0, 0.5, 0.3], [0.5, 1.0, 0.4], [0.3, 0.4, 1.0]]).double())
    factors = torch.randn((60, 3), generator=generator, dtype=torch.float64) @ root.T
    noise = torch.randn((60, 9), generator=generator, dtype=torch.float64)
    return factors[:, FACTOR] * tensor([1.0, 0.6, 0.8, 1.0, 1.1, 0.9, 1.0, 1.2, 1.0]).double() + 0.7 * noise + 3.0


ROWS = _rows()
GROUP = torch.arange(60) % 2


def by_measurement(loadings: Tensor, groups: Tensor = FACTOR) -> Tensor:
    """A loading of every measurement on its own factor, as a matrix."""
    return loadings.unsqueeze(-1) * one_hot(groups).double()


def marked(loadings: Tensor) -> Tensor:
    """All nine loadings from those that are free."""
    return ones(9).double().masked_scatter(~MARKED, loadings)


def _measured(name: str, covariance: Callable[[dict[str, Tensor]], Tensor]) -> Callable[[Callable[..., None]], Any]:
    """Register a model of `ROWS` with mean `loc` and a common part of the covariance, beside `scale`."""

    def register(model: Callable[..., None]) -> Callable[..., None]:
        def evidence(p: dict[str, Tensor]) -> Tensor:
            total = covariance(p) + (torch.diag(p["scale"] ** 2) if "scale" in p else 0.0)
            return MultivariateNormal(p["loc"], total).log_prob(ROWS).sum()

        IDIOMS[name] = Idiom(model, (ROWS,), evidence)
        return model

    return register


def _noise(x: Tensor) -> tuple[Tensor, Tensor]:
    return pyro.param("loc", x.mean(0)), _positive("scale", ones(9).double())


def _marker_law(p: dict[str, Tensor]) -> Tensor:
    W = by_measurement(marked(p["loadings"])) @ p["root"]
    return W @ W.T


@_measured("units of factors by markers", _marker_law)
def _(x: Tensor) -> None:
    root = pyro.param("root", eye(3).double(), constraint=constraints.lower_cholesky)
    loadings, (loc, scale) = marked(pyro.param("loadings", ones(6).double())), _noise(x)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.MultivariateNormal(zeros(3).double(), scale_tril=root))
        pyro.sample("x", dist.Normal(z[..., FACTOR] * loadings + loc, scale).to_event(1), obs=x)


def _covariance_law(p: dict[str, Tensor]) -> Tensor:
    W = by_measurement(marked(p["loadings"]))
    return W @ p["between"] @ W.T


@_measured("a matrix of loadings that is written into", _covariance_law)
def _(x: Tensor) -> None:
    between = pyro.param("between", eye(3).double(), constraint=constraints.positive_definite)
    loadings, (loc, scale) = marked(pyro.param("loadings", ones(6).double())), _noise(x)
    W = zeros(9, 3).double()
    W[torch.arange(9), FACTOR] = loadings
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.MultivariateNormal(zeros(3).double(), covariance_matrix=between))
        pyro.sample("x", dist.Normal(z @ W.T + loc, scale).to_event(1), obs=x)


def _correlation_law(p: dict[str, Tensor]) -> Tensor:
    W = by_measurement(p["loadings"]) @ p["root"]
    return W @ W.T


@_measured("units of factors by a correlation", _correlation_law)
def _(x: Tensor) -> None:
    root = pyro.param("root", eye(3).double(), constraint=constraints.corr_cholesky)
    loadings, (loc, scale) = pyro.param("loadings", ones(9).double()), _noise(x)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.MultivariateNormal(zeros(3).double(), scale_tril=root))
        pyro.sample("x", dist.Normal(z[..., FACTOR] * loadings + loc, scale).to_event(1), obs=x)


def _common_and_own(p: dict[str, Tensor]) -> Tensor:
    W = torch.cat([p["general"].unsqueeze(-1), by_measurement(p["loadings"])], -1)
    return W @ W.T


@_measured("one factor of all beside those of some", _common_and_own)
def _(x: Tensor) -> None:
    general, loadings = pyro.param("general", ones(9).double()), pyro.param("loadings", 0.5 * ones(9).double())
    loc, scale = _noise(x)
    with pyro.plate("rows", len(x)):
        g = pyro.sample("g", dist.Normal(tensor(0.0).double(), 1.0))
        z = pyro.sample("z", dist.Normal(zeros(3).double(), 1.0).to_event(1))
        both = g.unsqueeze(-1) * general + z[..., FACTOR] * loadings
        pyro.sample("x", dist.Normal(both + loc, scale).to_event(1), obs=x)


def _second_order(p: dict[str, Tensor]) -> Tensor:
    W = by_measurement(p["loadings"])
    return W @ (torch.outer(p["above"], p["above"]) + eye(3)) @ W.T


@_measured("a factor of factors", _second_order)
def _(x: Tensor) -> None:
    above, loadings = pyro.param("above", 0.5 * ones(3).double()), pyro.param("loadings", ones(9).double())
    loc, scale = _noise(x)
    with pyro.plate("rows", len(x)):
        g = pyro.sample("g", dist.Normal(tensor(0.0).double(), 1.0))
        z = pyro.sample("z", dist.Normal(g.unsqueeze(-1) * above, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., FACTOR] * loadings + loc, scale).to_event(1), obs=x)


@_measured("errors that go together", lambda p: torch.outer(p["loadings"], p["loadings"]) + p["root"] @ p["root"].T)
def _(x: Tensor) -> None:
    loc, loadings = pyro.param("loc", x.mean(0)), pyro.param("loadings", ones(9).double())
    root = pyro.param("root", eye(9).double(), constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(tensor(0.0).double(), 1.0))
        pyro.sample("x", dist.MultivariateNormal(z.unsqueeze(-1) * loadings + loc, scale_tril=root), obs=x)


def _two_groups(x: Tensor) -> None:
    loadings, loc = pyro.param("loadings", ones(9).double()), pyro.param("loc", x.mean(0).expand(2, 9).clone())
    scale, spread = _positive("scale", ones(2, 9).double()), _positive("spread", ones(2).double())
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(tensor(0.0).double(), spread[GROUP]))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1) * loadings + loc[GROUP], scale[GROUP]).to_event(1), obs=x)


def _of_two_groups(p: dict[str, Tensor]) -> Tensor:
    common = torch.outer(p["loadings"], p["loadings"])
    laws = [
        MultivariateNormal(p["loc"][g], p["spread"][g] ** 2 * common + p["scale"][g].square().diag()) for g in (0, 1)
    ]
    return sum((law.log_prob(ROWS[GROUP == g]).sum() for g, law in enumerate(laws)), tensor(0.0))


IDIOMS["two groups with loadings in common"] = Idiom(_two_groups, (ROWS,), _of_two_groups)


# ---- crossed effects -------------------------------------------------------------------------------------------------


def _crossed() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.randint(n, (50,), generator=generator) for n in (6, 5))
    y, x, a, b = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (50, 50, 6, 5))
    return 1 + a[first] + 0.5 * b[second] + 0.4 * y, first, second, x


Y, FIRST, SECOND, X = _crossed()
A, B = one_hot(FIRST, 6).double(), one_hot(SECOND, 5).double()
MEMBERS = torch.softmax(torch.randn((50, 6), generator=torch.Generator().manual_seed(3), dtype=torch.float64), -1)


def _effect(name: str, size: int, scale: Tensor, dim: int = -1) -> Tensor:
    """Independent effects in a plate of their own."""
    with pyro.plate(f"levels of {name}", size, dim=dim):
        return pyro.sample(name, dist.Normal(zeros(()).double(), scale))


def _scales(*names: str) -> list[Tensor]:
    return [_positive(name, tensor(1.0).double()) for name in names]


def _observed(mean: Tensor, scale: Tensor, y: Tensor) -> None:
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def _with(name: str, covariance: Callable[[dict[str, Tensor]], Tensor]) -> Callable[[Callable[..., None]], Any]:
    """Register a model of `Y` with a mean `mean` and a covariance beside that of independent errors `within`."""

    def register(model: Callable[..., None]) -> Callable[..., None]:
        def evidence(p: dict[str, Tensor]) -> Tensor:
            mean = p["mean"] if p["mean"].dim() == 0 else p["mean"][0] + p["mean"][1] * X
            return MultivariateNormal(mean.expand(50), covariance(p) + p["within"] ** 2 * eye(50)).log_prob(Y)

        IDIOMS[name] = Idiom(model, (Y,), evidence)
        return model

    return register


def _sides(p: dict[str, Tensor]) -> Tensor:
    return p["one"] ** 2 * A @ A.T + p["other"] ** 2 * B @ B.T


@_with("crossed", _sides)
def _(y: Tensor) -> None:
    mean, (one, other, within) = pyro.param("mean", y.mean()), _scales("one", "other", "within")
    _observed(mean + _effect("a", 6, one)[FIRST] + _effect("b", 5, other)[SECOND], within, y)


@_with("crossed, with an effect of both", lambda p: _sides(p) + p["both"] ** 2 * (A @ A.T) * (B @ B.T))
def _(y: Tensor) -> None:
    mean, (one, other, both, within) = pyro.param("mean", y.mean()), _scales("one", "other", "both", "within")
    a, b = _effect("a", 6, one, -2), _effect("b", 5, other)
    with pyro.plate("rows of a table", 6, dim=-2), pyro.plate("its columns", 5, dim=-1):
        cell = pyro.sample("cell", dist.Normal(zeros(()).double(), both))
    _observed(mean + a[FIRST, 0] + b[SECOND] + cell[FIRST, SECOND], within, y)


def _sloped(p: dict[str, Tensor]) -> Tensor:
    Z = torch.stack([ones(50).double(), X], -1) @ p["root"]
    return (Z @ Z.T) * (A @ A.T) + p["other"] ** 2 * B @ B.T


@_with("crossed, one of them with slopes", _sloped)
def _(y: Tensor) -> None:
    root = pyro.param("root", eye(2).double(), constraint=constraints.lower_cholesky)
    mean, (other, within) = pyro.param("mean", zeros(2).double()), _scales("other", "within")
    with pyro.plate("levels", 6):
        a = pyro.sample("a", dist.MultivariateNormal(zeros(2).double(), scale_tril=root))
    of_row = mean[0] + a[FIRST, 0] + (mean[1] + a[FIRST, 1]) * X
    _observed(of_row + _effect("b", 5, other)[SECOND], within, y)


@_with("members of several groups", lambda p: p["one"] ** 2 * MEMBERS @ MEMBERS.T)
def _(y: Tensor) -> None:
    mean, (one, within) = pyro.param("mean", y.mean()), _scales("one", "within")
    _observed(mean + MEMBERS @ _effect("a", 6, one), within, y)


@_with("effects times a loading of each level", lambda p: torch.outer(*(2 * [A @ p["loadings"]])) * (B @ B.T))
def _(y: Tensor) -> None:
    mean, (within,) = pyro.param("mean", y.mean()), _scales("within")
    loadings = pyro.param("loadings", torch.linspace(0.5, 1.5, 6).double())
    _observed(mean + loadings[FIRST] * _effect("b", 5, tensor(1.0).double())[SECOND], within, y)


TABLE = Y[:28].reshape(7, 4)


def _table(y: Tensor) -> None:
    mean, (one, other, within) = pyro.param("mean", y.mean()), _scales("one", "other", "within")
    rows, columns = pyro.plate("rows", 7, dim=-2), pyro.plate("columns", 4, dim=-1)
    with rows:
        a = pyro.sample("a", dist.Normal(zeros(()).double(), one))
    with columns:
        b = pyro.sample("b", dist.Normal(zeros(()).double(), other))
    with rows, columns:
        pyro.sample("y", dist.Normal(mean + a + b, within), obs=y)


def _of_table(p: dict[str, Tensor]) -> Tensor:
    rows, columns = (
        torch.kron(one.double(), other.double()) for one, other in ((eye(7), ones(4, 4)), (ones(7, 7), eye(4)))
    )
    covariance = p["one"] ** 2 * rows + p["other"] ** 2 * columns + p["within"] ** 2 * eye(28)
    return MultivariateNormal(p["mean"].expand(28), covariance).log_prob(TABLE.reshape(-1))


IDIOMS["a table with both margins"] = Idiom(_table, (TABLE,), _of_table)
