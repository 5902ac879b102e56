"""Wide values of few cells are multiplied with themselves: the same answers as by features of their products."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import same
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step import chunks
from em_pyro.e_step.contraction.mixture import Mixture
from em_pyro.e_step.engine import Engine
from em_pyro.e_step.sites import forms, site_data
from em_pyro.e_step.sites.forms import Quadratic, pays

N, D, K = 300, 20, 3


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make features in every step although there are few rows."""
    monkeypatch.setattr(site_data, "CACHE", 0)


def normal(narrow: float = 1.0) -> tuple[Tensor, Tensor]:
    """Locations and factors of the cells, the first of them narrow."""
    loc = pyro.param("loc", torch.arange(1.0 * K * D).reshape(K, D).sin())
    width = torch.tensor([narrow, *[1.0] * (K - 1)])[:, None, None]
    tril = pyro.param(
        "tril",
        width * (torch.eye(D) + 0.1 * torch.ones(D, D).tril(-1)),
        constraint=constraints.lower_cholesky,
    )
    return loc, tril


def weights() -> Tensor:
    """Mixing weights."""
    return pyro.param("weights", torch.tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)


def mixture(x: Tensor, mask: Tensor | None = None, narrow: float = 1.0) -> None:
    """Normal vectors, some of them missing."""
    loc, tril = normal(narrow)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights()))
        with pyro.poutine.mask(mask=True if mask is None else mask):
            pyro.sample("x", dist.MultivariateNormal(loc[z], scale_tril=tril[z]), obs=x)


def beside(x: Tensor, y: Tensor) -> None:
    """A number of each state beside the vector."""
    loc, tril = normal()
    rate = pyro.param("rate", torch.tensor([1.0, 2.0, 4.0]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights()))
        pyro.sample("y", dist.Poisson(rate[z]), obs=y)
        pyro.sample("x", dist.MultivariateNormal(loc[z], scale_tril=tril[z]), obs=x)


def chain(x: Tensor) -> None:
    """A hidden Markov chain that emits vectors."""
    (loc, tril), move = normal(), pyro.param("move", torch.eye(K) * 0.4 + 0.2, constraint=constraints.simplex)
    with pyro.plate("row", len(x)):
        z: Any = 0
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(move[z]))
            pyro.sample(f"x_{t}", dist.MultivariateNormal(loc[z], scale_tril=tril[z]), obs=x[:, t])


def draw(*shape: int) -> Tensor:
    """Vectors."""
    return 3 + torch.randn(*shape, D, generator=torch.Generator().manual_seed(0))


def gaps(*shape: int) -> Tensor:
    """Some rows that are not seen."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) > 0.2


CASES: dict[str, tuple[Any, Any]] = {
    "mixture": (mixture, lambda: (draw(N),)),
    "mixture-with-gaps": (mixture, lambda: (draw(N), gaps(N))),
    "mixture-with-a-narrow-state": (mixture, lambda: (draw(N), None, 0.01)),
    "beside-a-count": (beside, lambda: (draw(N), torch.arange(N).remainder(5).double())),
    "chain": (chain, lambda: (draw(N // 4, 4),)),
}


def engine_of(model: Any, args: tuple[Any, ...], starts: int) -> tuple[Engine, dict[str, Tensor]]:
    """The engine of all rows, and some starts at once."""
    pyro.clear_param_store()
    em = EM(model, collapse=False)
    em.plan(*args)
    assert em._prepared is not None
    values = {n: v.double() for n, v in em.params.items()}
    moved = {n: [v * 1.01**s if n in ("loc", "tril") else v for s in range(starts)] for n, v in values.items()}
    return em._prepared.engine, {n: torch.stack(each) for n, each in moved.items()}


def quadratic(engine: Engine) -> bool:
    """Whether some site is computed so."""
    return any(isinstance(f.form, Quadratic) for unit in engine.units for f in unit.every)


@pytest.mark.parametrize("starts", [1, 4], ids=["one start", "many share the features"])
@pytest.mark.parametrize("size", ["whole", "chunks"])
@pytest.mark.parametrize("case", CASES)
def test_as_by_features(case: str, size: str, starts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence and statistics are those by features, in chunks as well; of many starts features are made."""
    model, args = CASES[case]
    if size == "chunks":
        monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    engine, batch = engine_of(model, args(), starts)
    assert quadratic(engine)
    assert pays(D, K)
    assert not pays(D, 4 * K)
    monkeypatch.setattr(forms, "FORMS", forms.FORMS[:-1])
    other, _ = engine_of(model, args(), starts)
    assert not quadratic(other)
    same(engine, other, batch)


def test_a_mixture_stays_one() -> None:
    """Such sites join the products of a mixture; nothing falls back to the general contraction."""
    engine, _ = engine_of(mixture, (draw(N),), 1)
    assert [type(part) for part in engine.parts] == [Mixture]


def test_a_wrong_triangle_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of these tests sees the lower triangle in the place of the upper one."""
    engine, batch = engine_of(mixture, (draw(N),), 1)
    with monkeypatch.context() as without:
        without.setattr(forms, "FORMS", forms.FORMS[:-1])
        other, _ = engine_of(mixture, (draw(N),), 1)
    same(engine, other, batch)
    i, j = torch.triu_indices(D, D)
    monkeypatch.setattr(forms, "_upper", lambda dim, device: (j * dim + i).sort().values)
    with pytest.raises(AssertionError):
        same(engine, other, batch)


def test_few_features_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that are made once for all steps are multiplied, as are those of many cells and of narrow values."""
    monkeypatch.setattr(site_data, "CACHE", 10**6)
    engine, _ = engine_of(mixture, (draw(N),), 1)
    assert not quadratic(engine)
    assert not pays(2, 3)
    assert not pays(50, 20)
    assert pays(50, 3)
    assert pays(200, 3)
