"""Derivatives of fitted values by the data, against refits and against what symmetry says of them."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import discrete_hmm, factor_analysis, gaussian_mixture, hidden_markov
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor

from em_pyro import EM, Fit, ParameterError, PlanError
from em_pyro.after import sensitivity

FAR = 1e-3
STEP = 2e-4
"""Of differences between refits: to second order, which is its square."""


def mixture() -> tuple[Callable[..., None], Tensor]:
    """Two clouds that overlap."""
    generator = torch.Generator().manual_seed(2)
    return gaussian_mixture.full, torch.randn((80, 2), generator=generator) + 2.2 * (torch.arange(80) % 2)[:, None]


def chain() -> tuple[Callable[..., None], Tensor]:
    """A few series, each of two levels."""
    noise = torch.randn((6, 6), generator=torch.Generator().manual_seed(1))
    y = tensor([0.0, 4.0, 4.0, 0.0, 0.0, 4.0]).repeat(6, 1) + 1.2 * noise
    return hidden_markov.gaussian, y


def prior() -> tuple[Callable[..., None], Tensor]:
    """Means with a prior, a scale that is known."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=dist.constraints.simplex)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    return model, torch.cat([torch.linspace(-2, 1, 9), torch.linspace(3, 5, 7)])


def hidden() -> tuple[Callable[..., None], Tensor]:
    """The same series, the states inside the site."""
    return discrete_hmm.gaussian, chain()[1]


def kinds() -> tuple[Callable[..., None], Tensor]:
    """Each series of one of two kinds, with a pair of levels each."""

    def model(y: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=dist.constraints.simplex)
        loc = pyro.param("loc", tensor([[0.0, 4.0], [-1.0, 2.0]]))
        move = tensor([[0.7, 0.3], [0.4, 0.6]]).log()
        with pyro.plate("series", len(y)):
            kind = pyro.sample("kind", dist.Categorical(weights))
            emission = dist.Normal(loc[kind].unsqueeze(-2), 1.2)
            pyro.sample("y", dist.DiscreteHMM(tensor([0.5, 0.5]).log(), move, emission, duration=6), obs=y)

    y = chain()[1]
    return model, torch.cat([y, 0.7 * y.flip(1) - 1])


def onwards() -> tuple[Callable[..., None], Tensor]:
    """A second level that is never left: transitions of probability zero, inside a site."""

    def model(y: Tensor) -> None:
        loc = pyro.param("loc", tensor([0.0, 4.0]))
        move = tensor([[0.5, 0.5], [0.0, 1.0]]).log()
        with pyro.plate("series", len(y)):
            chain = dist.DiscreteHMM(tensor([1.0, 0.0]).log(), move, dist.Normal(loc, 1.0), duration=4)
            pyro.sample("y", chain, obs=y)

    return model, tensor([[0.1, 0.3, 2.5, 4.2], [-0.4, 2.6, 4.1, 4.4]])


Fits = dict[int, Fit]
CASES = {
    "loc": (mixture, "loc", (3, 1)),
    "weights": (mixture, "weights", (3, 1)),
    "scale_tril": (mixture, "scale_tril", (3, 1)),
    "transition": (chain, "transition", (0, 2)),
    "prior": (prior, "loc", (2,)),
    "chain": (chain, "loc", (1, 3)),
    "inside a site": (hidden, "loc", (1, 3)),
    "transition inside": (hidden, "transition", (0, 2)),
    "never back": (onwards, "loc", (1, 1)),
    "around a site": (kinds, "weights", (2, 1)),
}


@cache
def refitted(make: Callable[[], tuple[Callable[..., None], Tensor]], at: tuple[int, ...]) -> tuple[Fit, Tensor, Fits]:
    """Return a fit, its data, and the fits where one entry of them has moved by so many steps."""
    model, x = make()
    fit, others = EM(model).fit(x), {}
    assert fit.converged
    for k in (1, -1):
        y = x.clone()
        y[at] += k * STEP
        again = EM(model, starts=fit.params, tol=0, max_steps=15, acceleration="quasi-newton", check=False)
        others[k] = again.fit(y)
    return fit, x, others


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_difference_of_refits(name: str) -> None:
    """Of one entry of the data, to second order."""
    make, of, at = CASES[name]
    fit, x, others = refitted(make, at)
    refits = [k * other.params[of] / (2 * STEP) for k, other in others.items()]
    found = fit.sensitivity(of=of, to=x)
    assert found.shape == (*fit.params[of].shape, *x.shape)
    assert distance(found[(..., *at)], sum(refits)) < SOLVERS
    assert float(found[(..., *at)].abs().max()) > FAR / 10


def test_means_move_with_the_data() -> None:
    """If all rows move by one, so do means, and nothing else moves; of a normal a row has one part in the number."""
    model, x = mixture()
    fit = EM(model, tol=1e-15, max_steps=5000).fit(x)
    together = fit.sensitivity(of="loc", to=x).sum(2)
    assert distance(together, torch.eye(2).expand(2, 2, 2)) < SOLVERS
    assert distance(fit.sensitivity(of="weights", to=x).sum(1), torch.zeros(2, 2)) < SOLVERS
    larger = torch.einsum("kijnd,nd->kij", fit.sensitivity(of="scale_tril", to=x), x)
    assert distance(larger, fit.params["scale_tril"]) < SOLVERS, "as the data are stretched, so is the scale"


def test_one_normal_is_known() -> None:
    """Its mean has the derivative `1 / n` by every row; by keyword too; a fixed parameter has none."""

    def model(*, x: Tensor) -> None:
        loc = pyro.param("loc", tensor(0.0))
        scale = pyro.param("scale", tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    x = tensor([0.0, 1.0, 5.0, 2.0])
    fit = EM(model, m_step={}).fit(x=x)
    assert distance(fit.sensitivity(of="loc", to=x), torch.full((4,), 0.25)) < IDENTITY
    want = (x - x.mean()) / (4 * fit.params["scale"])
    assert distance(fit.sensitivity(of="scale", to=x), want) < IDENTITY
    pyro.clear_param_store()
    fixed = EM(model, m_step={"scale": "fixed"}).fit(x=x)
    assert torch.equal(fixed.sensitivity(of="scale", to=x), torch.zeros(4))


def test_refused() -> None:
    """What is no argument, no parameter, not converged, of whole numbers, flat, or integrated."""
    model, x = mixture()
    fit = EM(model).fit(x)
    with pytest.raises(ParameterError, match="itself and not a copy"):
        fit.sensitivity(of="loc", to=x.clone())
    with pytest.raises(ParameterError, match='got "lok"'):
        fit.sensitivity(of="lok", to=x)
    pyro.clear_param_store()
    with pytest.raises(ParameterError, match="step limit"):
        EM(model, max_steps=2).fit(x).sensitivity(of="loc", to=x)
    pyro.clear_param_store()
    y = torch.randn(9, 3)
    with pytest.raises(PlanError, match="integrated"):
        EM(factor_analysis.factor_analysis).fit(y).sensitivity(of="loc", to=y)

    def sum_of_two(x: Tensor) -> None:
        a, b = pyro.param("a", tensor(0.0)), pyro.param("b", tensor(0.5))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    pyro.clear_param_store()
    row = tensor([1.0, 2.0])
    with pytest.raises(PlanError, match="flat along some"):
        EM(sum_of_two).fit(row).sensitivity(of="a", to=row)


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the latents hide (complete information in place of observed) slopes no longer add up to one."""
    model, x = mixture()
    fit = EM(model).fit(x)
    real: Any = sensitivity._information

    def complete(ground: Any) -> tuple[Tensor, Tensor]:
        basis, inverse = real(ground)
        return basis, torch.eye(len(inverse))

    monkeypatch.setattr(sensitivity, "_information", complete)
    assert distance(fit.sensitivity(of="loc", to=x).sum(2), torch.eye(2).expand(2, 2, 2)) > FAR


@pytest.mark.parametrize("latent", [False, True], ids=["alone", "mixture"])
def test_weights_of_rows_are_refused(latent: bool) -> None:  # noqa: FBT001
    """Their derivative was zero; by the data beside them it is that of refits."""

    def weighed(x: Tensor, w: Tensor) -> None:
        loc = pyro.param("loc", tensor([0.0, 4.0][: 1 + latent]))
        with pyro.poutine.scale(scale=w), pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5]))) if latent else torch.zeros(len(x)).long()
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    x, w = torch.linspace(-1, 5, 20), torch.linspace(0.5, 1.5, 20)
    fit = EM(weighed, tol=1e-13).fit(x, w)
    with pytest.raises(PlanError, match='poutine.scale of site "[xz]" is'):
        fit.sensitivity(of="loc", to=w)
    if latent:
        assert fit.sensitivity(of="loc", to=x).sum(-1).min() > 0.5
