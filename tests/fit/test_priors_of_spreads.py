"""A prior on the spread of Gaussian latents: eight schools, whose spread is zero at the maximum under most priors.

EM alone creeps there for ever, and what the schools have in common creeps with it. The oracle is the marginal law.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor

import em_pyro.fit.loop
from em_pyro import EM, Fit
from em_pyro.e_step.gaussian.unit import Gaussian
from em_pyro.fit.acceleration import quasi_newton

EFFECTS = tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
ERRORS = tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)
ZERO = tensor(0.0, dtype=torch.float64)


def number(x: float) -> Tensor:
    """A number in double precision."""
    return tensor(x, dtype=torch.float64)


AT_ZERO = {
    "half Cauchy": dist.HalfCauchy(number(25.0)),
    "half normal": dist.HalfNormal(number(5.0)),
    "exponential": dist.Exponential(number(1.0)),
    "uniform": dist.Uniform(ZERO, number(50.0)),
}
INSIDE = {"gamma": dist.Gamma(number(2.0), number(0.1)), "inverse gamma": dist.InverseGamma(number(2.0), number(3.0))}


def schools(prior: dist.TorchDistribution, errors: Tensor, effects: Tensor) -> None:
    """Rubin's (1981) model: what coaching brings differs between schools by a normal spread."""
    mean = pyro.param("mean", ZERO)
    spread = pyro.sample("spread", prior)
    with pyro.plate("schools", len(effects)):
        effect = pyro.sample("effect", dist.Normal(mean, spread))
        pyro.sample("seen", dist.Normal(effect, errors), obs=effects)


def objective(prior: dist.TorchDistribution, spread: Tensor) -> tuple[Tensor, Tensor]:
    """The height over the mean at spreads `(n,)`, and the mean there."""
    scale = (ERRORS.square() + spread.unsqueeze(-1).square()).sqrt()
    mean = (EFFECTS / scale.square()).sum(-1) / scale.square().reciprocal().sum(-1)
    seen = dist.Normal(mean.unsqueeze(-1), scale).log_prob(EFFECTS).sum(-1)
    return seen + prior.log_prob(spread), mean


def fitted(prior: dist.TorchDistribution) -> Fit:
    """Fit by default, from a start drawn from the prior."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    return EM(schools).fit(prior, ERRORS, EFFECTS)


@pytest.mark.parametrize("name", AT_ZERO)
def test_a_spread_of_zero_is_reached_and_named(name: str) -> None:
    """In tens of steps, and the mean of all schools with it."""
    fit = fitted(AT_ZERO[name])
    assert fit.converged
    assert len(fit.path) < 100
    assert any(note == 'at the boundary: "spread"' for note in fit.notes)
    highest, mean = objective(AT_ZERO[name], number(1e-9).reshape(1))
    assert fit.objective == pytest.approx(float(highest), abs=1e-5)
    assert float(fit.params["mean"]) == pytest.approx(float(mean), abs=5e-3)


@pytest.mark.parametrize("name", INSIDE)
def test_a_spread_inside_is_the_mode(name: str) -> None:
    """Where the prior keeps it from zero; one of them is a law whose transform holds its inverse, and that it."""
    fit = fitted(INSIDE[name])
    assert fit.converged
    heights, means = objective(INSIDE[name], torch.logspace(-2, 2, 200_001, dtype=torch.float64))
    best = int(heights.argmax())
    assert fit.objective == pytest.approx(float(heights[best]), abs=1e-7)
    assert float(fit.params["mean"]) == pytest.approx(float(means[best]), abs=1e-3)


def test_a_bounded_prior_is_not_called_unbounded() -> None:
    """However near to zero the spread has come: from far away it converges, above."""
    pyro.clear_param_store()
    fit = EM(schools, starts={"spread": number(0.01)}).fit(AT_ZERO["exponential"], ERRORS, EFFECTS)
    assert fit.outcome != "prior unbounded"


def test_an_unbounded_prior_is_still_named() -> None:
    """A Gamma with a shape below one rises without a bound towards zero: the remedy that helps is named."""
    prior = dist.Gamma(number(0.2), number(1.0))
    fit = fitted(prior)
    assert fit.outcome == "degenerate"
    assert any('"spread" collapsed: the density of the prior' in note for note in fit.notes)
    assert any('EM(prior_density="unconstrained")' in note for note in fit.notes)
    pyro.clear_param_store()
    assert EM(schools, prior_density="unconstrained").fit(prior, ERRORS, EFFECTS).converged


def steps_of(model: Callable[..., None], acceleration: str | None) -> int:
    """How many steps a fit takes."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    fit = EM(model, acceleration=acceleration, max_steps=300).fit(INSIDE["gamma"], ERRORS, EFFECTS)
    return len(fit.path)


def test_steps_of_newton_are_accelerated() -> None:
    """By default, as closed forms are: near the end they keep the rate of EM."""
    assert steps_of(schools, "auto") < steps_of(schools, None) / 2


# ---- seen to fail ----------------------------------------------------------------------------------------------------


def test_a_part_of_the_way_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every disturbance goes but a part of the way to zero, and there is always another."""
    monkeypatch.setattr(em_pyro.fit.loop, "further", lambda problem, here, higher: higher)
    monkeypatch.setattr(em_pyro.fit.loop, "gone_to_zero", lambda *_: None)
    assert fitted(AT_ZERO["exponential"]).outcome == "unconfirmed"


def test_a_spread_that_shrinks_at_once_holds_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to zero the steps of what the schools have in common are next to none, where they are not expanded."""
    monkeypatch.setattr(quasi_newton, "SHRINKS", float("inf"))
    monkeypatch.setattr(Gaussian, "expanded", lambda _, sums, bound: (sums, {}))
    monkeypatch.setattr(em_pyro.fit.loop, "top_of_face", lambda *_: None)  # it would find the mean all the same
    fit = fitted(AT_ZERO["exponential"])
    highest, _ = objective(AT_ZERO["exponential"], number(1e-9).reshape(1))
    assert fit.objective < float(highest) - 1e-3
