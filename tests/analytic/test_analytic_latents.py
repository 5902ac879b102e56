"""Hand-derived EM with normal latents: against a dense multivariate normal, and by what every step of EM must do.

The check of a step knows the model and no algebra of it: prior and likelihood together are one normal law, and `Q` is
the mean of the log-joint over points with the mean and the covariance of the latents given the data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from oracles.agreement import close
from oracles.dense import conditioned, detached, sigma_points
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor

from em_pyro import analytic
from em_pyro.analytic import factors, intercept, level

Params = dict[str, Tensor]

RNG = np.random.default_rng(3)
X = RNG.standard_normal((9, 2)) @ RNG.standard_normal((2, 4)) + 0.6 * RNG.standard_normal((9, 4)) + [3, 0, -1, 5]
GROUP = np.array([0, 0, 1, 2, 2, 2, 1, 0, 3])
Y = RNG.standard_normal(4)[GROUP] * 2 + RNG.standard_normal(9) + 5
WALK = RNG.standard_normal(12).cumsum() + RNG.standard_normal(12)
WALK[[4, 5, 9]] = np.nan
LOADINGS = [[0.8, 0.1], [0.3, -0.5], [-0.2, 0.9], [0.4, 0.4]]
FIRST = (0.5, 2.0)


@dataclass(frozen=True)
class Model:
    """A model of one vector of latents and one of observations.

    Attributes:
        run: the hand-derived EM, by the number of steps.
        locate: from parameters and latents to locations and scales of latents and of observations, which are
            independent given what stands before them.
        y: the observations.
        size: how many latents.
    """

    run: Callable[[int], analytic.LatentPath]
    locate: Callable[[Params, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
    y: Tensor
    size: int

    def log_joint(self, params: Params, z: Tensor) -> Tensor:
        """Log-density of latents and observations together."""
        latent, scale, location, noise = self.locate(params, z)
        law = torch.distributions.Normal
        return (
            law(latent, scale.expand(latent.shape)).log_prob(z).sum()
            + law(location, noise.expand(location.shape)).log_prob(self.y).sum()
        )


def _factors(p: Params, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    location = z.reshape(9, 2) @ p["loadings"].mT + p["mean"]
    return torch.zeros(18), torch.ones(()), location.reshape(-1), p["scale"].expand(9, 4).reshape(-1)


def _intercepts(p: Params, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.zeros(4), p["spread"], p["mean"] + z[torch.tensor(GROUP)], p["scale"]


def _levels(p: Params, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    before = torch.cat([tensor([FIRST[0]]), z[:-1]])
    scale = torch.cat([tensor([FIRST[1]]), p["step"].expand(len(z) - 1)])
    return before, scale, z[~torch.tensor(np.isnan(WALK))], p["scale"]


def factor_analysis(steps: int, **changes: Any) -> analytic.LatentPath:
    """Two factors of four columns."""
    start: dict[str, Any] = {"mean": np.ones(4), "loadings": LOADINGS, "scale": np.full(4, 0.9)}
    return analytic.factor_analysis(X, **{**start, **changes}, steps=steps)


MODELS = {
    "factors": Model(factor_analysis, _factors, torch.tensor(X).reshape(-1), 18),
    "one scale": Model(
        lambda s: factor_analysis(s, scale=0.9, tied=True), _factors, torch.tensor(X).reshape(-1), 18
    ),
    "intercepts": Model(
        lambda s: analytic.random_intercept(Y, GROUP, 1.0, 0.7, 1.5, steps=s), _intercepts, torch.tensor(Y), 4
    ),
    "levels": Model(
        lambda s: analytic.local_level(WALK, 0.7, 1.4, first=FIRST, steps=s),
        _levels,
        torch.tensor(WALK[~np.isnan(WALK)]),
        12,
    ),
}  # fmt: skip


def check_e_step(name: str) -> None:
    """Log-likelihood and posterior are those of a dense multivariate normal."""
    model = MODELS[name]
    path = model.run(0)
    params = {key: torch.tensor(value[0]) for key, value in path.params.items()}
    law = detached(conditioned(lambda z: model.log_joint(params, z), model.size))
    close(path.log_likelihood[0], law.log_evidence.numpy())
    means, covariances = path.latents
    close(means.reshape(-1), law.mean.numpy())
    every = law.covariance.numpy()
    if "factors" in name or name == "one scale":  # one covariance for all rows
        every = every.reshape(9, 2, 9, 2)[np.arange(9), :, np.arange(9)]
        close(np.broadcast_to(covariances, (9, 2, 2)), every)
    else:
        close(covariances, every.diagonal())


def check_m_step(name: str) -> None:
    """No direction climbs: the gradient of `Q` is zero at the new parameters, and was not at the old ones."""
    model = MODELS[name]
    path = model.run(1)
    old, new = (
        {key: torch.tensor(value[step]).requires_grad_() for key, value in path.params.items()} for step in (0, 1)
    )
    law = detached(conditioned(lambda z: model.log_joint(old, z), model.size))
    points = sigma_points(law.mean, law.covariance)

    def steepest(params: Params) -> float:
        q = torch.stack([model.log_joint(params, z) for z in points]).mean()
        return max(float(g.abs().max()) for g in torch.autograd.grad(q, list(params.values())))

    assert steepest(new) < 1e-9
    assert steepest(old) > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_e_step(name: str) -> None:
    """By the dense law of latents and observations."""
    check_e_step(name)


@pytest.mark.parametrize("name", MODELS)
def test_m_step(name: str) -> None:
    """By the gradient of `Q`."""
    check_m_step(name)


@pytest.mark.parametrize("name", MODELS)
def test_path(name: str) -> None:
    """The path begins at the start, has one entry a step, never falls, and climbs."""
    path = MODELS[name].run(25)
    assert all(len(values) == 26 for values in path.params.values())
    assert np.all(np.diff(path.log_likelihood) >= -1e-12 * np.abs(path.log_likelihood[1:]))
    assert path.log_likelihood[-1] > path.log_likelihood[0] + 0.01
    for key, value in MODELS[name].run(7).at(-1).items():
        close(value, path.at(7)[key])


def faulty(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant the textbook's slips: a moment without its covariance, a residual around the old mean, and so on."""
    right: Any
    if name in ("factors", "one scale"):
        right = factors.regression_on_factors

        def regression(x: Any, posterior: Any, *, tied: bool) -> Any:
            return right(x, factors.Moments(posterior.means, 0 * posterior.covariances), tied=tied)

        monkeypatch.setattr(factors, "regression_on_factors", regression)
    elif name == "intercepts":
        right = intercept.variance_components

        def components(y: Any, group: Any, posterior: Any) -> Any:
            left = y - posterior.means[group]
            old = ((left - 1.0) ** 2 + posterior.covariances[group]).mean()
            return {**right(y, group, posterior), "scale": np.sqrt(old)}

        monkeypatch.setattr(intercept, "variance_components", components)
    else:
        right = level.step_and_noise
        monkeypatch.setattr(level, "step_and_noise", lambda y, p: right(y, (p[0], p[1], 0 * p[2])))


@pytest.mark.parametrize("name", MODELS)
def test_m_step_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slip is seen."""
    faulty(name, monkeypatch)
    with pytest.raises(AssertionError):
        check_m_step(name)


@pytest.mark.parametrize("name", MODELS)
def test_e_step_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A likelihood of other data is seen."""
    model = MODELS[name]
    monkeypatch.setitem(MODELS, name, Model(model.run, model.locate, model.y + 1e-6, model.size))
    with pytest.raises(AssertionError):
        check_e_step(name)


def test_centred_data_keep_their_mean() -> None:
    """From the mean of the data the mean stays; from elsewhere it comes, and loadings and scales are the same."""
    path, other = factor_analysis(5, mean=X.mean(0)), factor_analysis(5)
    close(path.params["mean"], np.tile(X.mean(0), (6, 1)))
    assert np.abs(other.params["mean"][5] - X.mean(0)).max() > SOLVERS
    for name in ("loadings", "scale"):
        close(other.params[name], path.params[name])


def test_balanced_groups_have_a_closed_form() -> None:
    """Groups of equal size: the within and between mean squares, as in every table of variances."""
    y = np.array([[9.0, 8.0, 7.5], [4.0, 5.0, 6.5], [1.0, 2.0, 2.5], [6.0, 6.5, 5.0]])
    path = analytic.random_intercept(y.reshape(-1), np.repeat(np.arange(4), 3), 0.0, 1.0, 1.0, steps=400)
    within = ((y - y.mean(1, keepdims=True)) ** 2).sum() / 8
    between = (3 * ((y.mean(1) - y.mean()) ** 2).sum() / 4 - within) / 3
    close([v[-1] ** 2 for v in path.params.values()], [y.mean() ** 2, between, within], SOLVERS)


def test_without_moves_a_level_is_a_mean() -> None:
    """A level that hardly moves has the posterior of a normal mean."""
    path = analytic.local_level(WALK, 1e-9, 1.4, first=FIRST, steps=0)
    seen = WALK[~np.isnan(WALK)]
    variance = 1 / (1 / FIRST[1] ** 2 + len(seen) / 1.4**2)
    mean = variance * (FIRST[0] / FIRST[1] ** 2 + seen.sum() / 1.4**2)
    close(path.latents.means, np.full(12, mean), SOLVERS)
    assert abs(path.latents.covariances[0] - variance) < IDENTITY


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "loadings": (lambda: factor_analysis(1, loadings=[[1.0]]), r"loadings: .* shape \(4, any\), got \(1, 1\)"),
    "scale": (lambda: factor_analysis(1, scale=[1.0, 1.0, 0.0, 1.0]), r"scale: .* got 0 at index \[2\]"),
    "tied": (lambda: factor_analysis(1, tied=True), r"scale: expected an array of shape \(\), got \(4,\)"),
    "no noise": (
        lambda: analytic.factor_analysis([[1.0], [1.0]], [1.0], [[1e-200]], [1.0], steps=2),
        "The variance of column 0 has fallen to zero",
    ),
    "a group": (
        lambda: analytic.random_intercept([1.0, 2.0], [0, 2], 0.0, 1.0, 1.0, steps=1),
        "group: expected rows of each group, got none of 1",
    ),
    "half a group": (
        lambda: analytic.random_intercept([1.0, 2.0], [0, 0.5], 0.0, 1.0, 1.0, steps=1),
        r"group: expected counts .* got 0.5 at index \[1\]",
    ),
    "spread": (
        lambda: analytic.random_intercept([1.0, 2.0], [0, 1], 0.0, 0.0, 1.0, steps=1),
        "spread: expected positive numbers, got 0",
    ),
    "short": (lambda: analytic.local_level([1.0], 1.0, 1.0, first=FIRST, steps=1), "y: expected two observations"),
    "unseen": (
        lambda: analytic.local_level([np.nan] * 3, 1.0, 1.0, first=FIRST, steps=1),
        "y: expected an observation",
    ),
    "first": (
        lambda: analytic.local_level([1.0, 2.0], 1.0, 1.0, first=(0.0, 0.0), steps=1),
        "first: expected positive numbers, got 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    """A bad argument is named with what was expected and what was found."""
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
