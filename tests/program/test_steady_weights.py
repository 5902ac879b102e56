"""What counts, and how often, is data: no parameter, no random number moves a mask or a row weight."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError

X = tensor([0.0, 1.0, 5.0, 6.0, 7.0], dtype=torch.float64)

Chosen = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of a positive parameter, one of a simplex and the data: a mask or weights."""


def one_for_all(a: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """The weight of all rows."""
    return a


def by_row(a: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """Weights of rows."""
    return a * torch.ones_like(x)


def cut_off(a: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """A weight without a gradient."""
    return w[0].detach()


def mixture(chosen: Chosen, x: Tensor) -> None:
    """Two normals, whose rows count as often as a parameter says."""
    w = pyro.param("w", tensor([0.4, 0.6], dtype=x.dtype), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([0.0, 5.0], dtype=x.dtype))
    a = pyro.param("a", tensor(0.7, dtype=x.dtype), constraint=constraints.positive)
    with poutine.scale(scale=chosen(a, w, x)), pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def two_terms(chosen: Chosen, x: Tensor) -> None:
    """No latents: shares of two terms."""
    loc = pyro.param("loc", tensor([0.0, 5.0], dtype=x.dtype))
    a = pyro.param("a", tensor(0.7, dtype=x.dtype), constraint=constraints.unit_interval)
    w = pyro.param("w", tensor([0.4, 0.6], dtype=x.dtype), constraint=constraints.simplex)
    for k, share in enumerate((chosen(a, w, x), 1 - chosen(a, w, x))):
        with poutine.scale(scale=share), pyro.plate(f"rows_{k}", len(x)):
            pyro.sample(f"x_{k}", dist.Normal(loc[k], 1.0), obs=x)


def chain(chosen: Chosen, x: Tensor) -> None:
    """Weights inside a loop, of a family that has no formulas."""
    a = pyro.sample("a", dist.Gamma(2.0, 2.0))
    w = pyro.param("w", tensor([[0.4, 0.6], [0.6, 0.4]], dtype=x.dtype), constraint=constraints.simplex)
    z = tensor(0)
    for t in pyro.markov(range(2)):
        z = pyro.sample(f"z_{t}", dist.Categorical(w[z]))
        with pyro.plate(f"rows_{t}", len(x)), poutine.scale(scale=chosen(a.to(x.dtype), w[0], x)):
            pyro.sample(f"x_{t}", dist.Gumbel(z.to(x.dtype), 1.0), obs=x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("chosen", [one_for_all, by_row, cut_off])
@pytest.mark.parametrize("model", [mixture, two_terms, chain])
def test_a_weight_that_a_parameter_moves_is_refused(
    model: Callable[[Chosen, Tensor], None], chosen: Chosen, dtype: torch.dtype
) -> None:
    """It would be read at one value and held there; the error names the parameter."""
    named = "w" if chosen is cut_off else "a"
    with pytest.raises(
        ModelError, match=rf'a row weight .*that is data, got one that depends on the parameter "{named}"'
    ):
        EM(model).fit(chosen, X.to(dtype))


@pytest.mark.parametrize("inner", [True, False])
def test_a_mask_that_a_parameter_moves_is_refused(inner: bool) -> None:  # noqa: FBT001
    """That of the site, and that of its distribution."""

    def model(x: Tensor) -> None:
        w = pyro.param("w", tensor([0.4, 0.6], dtype=x.dtype), constraint=constraints.simplex)
        loc = pyro.param("loc", tensor([0.0, 5.0], dtype=x.dtype))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            low = x < loc.max()
            with poutine.mask(mask=torch.ones_like(low) if inner else low):
                law = dist.Normal(loc[z], 1.0)
                pyro.sample("x", law.mask(low) if inner else law, obs=x)

    with pytest.raises(ModelError, match=r'Site "x": expected a mask that is data, .* the parameter "loc"'):
        EM(model).fit(X)


def test_what_parameters_leave_alone_stays() -> None:
    """Weights and masks computed from data in every run; and the whole term as a factor, as the error advises."""

    def of_data(x: Tensor) -> None:
        loc = pyro.param("loc", tensor(0.0, dtype=x.dtype))
        with pyro.plate("rows", len(x)), poutine.scale(scale=x / x.mean()), poutine.mask(mask=x < x.max()):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    kept = X[:-1]
    assert EM(of_data).fit(X).params["loc"] == pytest.approx(float((kept * kept).sum() / kept.sum()), rel=1e-12)

    def factor(x: Tensor) -> None:
        loc = pyro.param("loc", tensor(0.0, dtype=x.dtype))
        a = pyro.param("a", tensor(0.5, dtype=x.dtype), constraint=constraints.unit_interval)
        pyro.factor("term", a * dist.Normal(loc, 1.0).log_prob(x).sum() + 9.0 * a.log())

    assert EM(factor).fit(X).params["loc"] == pytest.approx(float(X.mean()), abs=1e-4)


@pytest.mark.parametrize("family", [dist.Normal, dist.Gumbel])
@pytest.mark.parametrize("which", ["row weight", "mask"])
def test_what_is_drawn_is_found_out(family: Callable[..., dist.TorchDistribution], which: str) -> None:
    """Weights or a mask of random numbers, of a family that is known and of one that is not."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor(0.0, dtype=x.dtype))
        drawn = torch.rand(len(x), dtype=x.dtype)
        scale, mask = (drawn, True) if which == "row weight" else (1.0, drawn < 0.5)
        with pyro.plate("rows", len(x)), poutine.scale(scale=scale), poutine.mask(mask=mask):
            pyro.sample("x", family(loc, 1.0), obs=x)

    with pytest.raises(ModelError, match=rf'Site "x": expected {which} to be the same in every run'):
        EM(model).fit(X)
