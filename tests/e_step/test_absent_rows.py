"""Rows of weight zero are absent, be they impossible: zero times minus infinity is zero."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.contraction.schedule import Product

X = tensor([1.0, 0.2, 1.5, 3.0], dtype=torch.float64)
COUNT = tensor([1.0, 2.0, 1.0, 0.0], dtype=torch.float64)
HALVES = torch.full((2,), 0.5, dtype=torch.float64)
START = tensor([0.3, 0.6], dtype=torch.float64)


def density(x: Tensor, rate: Tensor) -> Tensor:
    """An exponential law cut off, with no density beyond 2.5."""
    return torch.where(x < 2.5, rate.log() - rate * x, -torch.inf)


def factor(x: Tensor, w: Tensor) -> None:
    """A term of the user's own for each row."""
    rate = pyro.param("rate", START, constraint=constraints.positive)
    with poutine.scale(scale=w), pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(HALVES))
        pyro.factor("x", density(x, rate[z]))


def nested(x: Tensor, w: Tensor) -> None:
    """Two terms in every row."""
    rate = pyro.param("rate", START, constraint=constraints.positive)
    with poutine.scale(scale=w), pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(HALVES))
        with pyro.plate("each", 2):
            pyro.factor("x", density(x, rate[z]).expand(*z.shape[:-2], 2, len(x)))


def chain(x: Tensor, w: Tensor) -> None:
    """A sequence in every row."""
    rate = pyro.param("rate", START, constraint=constraints.positive)
    with poutine.scale(scale=w), pyro.plate("rows", len(x)):
        z = 0
        for t in pyro.markov(range(3)):
            z = pyro.sample(f"z_{t}", dist.Categorical(tensor([[0.7, 0.3], [0.4, 0.6]], dtype=torch.float64)[z]))
            pyro.factor(f"x_{t}", density(x, rate[z]))


MODELS = {one.__name__: one for one in (factor, nested, chain)}


@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_an_impossible_row_without_weight_is_left_out(name: str, collapse: bool) -> None:  # noqa: FBT001
    """The fit is that of the others, and so is what is said of every row."""
    fits = []
    for some in (slice(None), slice(3)):
        pyro.clear_param_store()
        fits.append(EM(MODELS[name], collapse=collapse).fit(X[some], COUNT[some]))
    whole, others = fits
    assert [fit.outcome for fit in fits] == ["converged"] * 2
    assert whole.objective == pytest.approx(others.objective, rel=IDENTITY)
    assert torch.allclose(whole.params["rate"], others.params["rate"], rtol=1e-6)
    rows = [fit.posterior.log_evidence_by("rows") for fit in fits]
    assert torch.allclose(rows[0][:3], rows[1], rtol=1e-6)
    assert float(rows[0][3]) == 0.0


@pytest.mark.parametrize("call", [factor, chain])
def test_without_the_look_nothing_is_a_number(call: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero times minus infinity."""
    monkeypatch.setattr(Product, "absent", False)
    pyro.clear_param_store()
    assert torch.tensor(EM(call).posterior(X[:3], COUNT[:3]).log_evidence).isfinite()
    pyro.clear_param_store()
    with pytest.raises(Exception, match="got nan"):
        EM(call).posterior(X, COUNT)
