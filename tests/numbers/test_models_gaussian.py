"""The zoo's models with Gaussian latents: their evidence by dense matrices, their maxima, published numbers."""

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from em_pyro.models import factor_analysis, missing_normal, random_effects, state_space
from em_pyro.models.data import load
from oracles.agreement import close, expected, prints_as
from oracles.dense_models import DENSE, Params, slopes
from oracles.evidence import start
from oracles.m_steps import same
from oracles.tolerances import IDENTITY, SOLVERS
from programs.zoo import GAUSSIAN, simulated
from torch import Tensor, eye

from em_pyro import EM

SIZES: dict[str, dict[str, int]] = {
    "effects-intercepts": {"n": 40, "G": 8},
    "effects-slopes": {"n": 40, "G": 8},
    "effects-nested": {"n": 60, "G": 12, "larger": 4},
    "effects-crossed": {"n": 60, "first": 6, "second": 5},
    "local-level": {"T": 15},
    "local-level-missing": {"T": 15},
    "local-trend": {"T": 15},
    "linear-system": {"T": 6},
}
"""Smaller than by default: a fit is a matter of a second."""


def small(name: str) -> tuple[Any, tuple[Any, ...]]:
    """Return a model and few data of its own."""
    return simulated(name, **SIZES.get(name, {"n": 60}))


@pytest.mark.parametrize("name", GAUSSIAN)
def test_evidence_is_that_of_a_dense_normal_law(name: str) -> None:
    """At its start and after two steps, which rise; the start is the same twice."""
    model, args = small(name)
    first = start(model, *args)
    again = start(model, *args)
    for key, value in first.items():
        same(again[key], value)  # memory that lies otherwise is summed in another order
    fit = EM(model, max_steps=2, acceleration=None).fit(*args)
    dense = DENSE[name]
    close(fit.path[0], float(dense(first, *args)))
    close(fit.log_likelihood, float(dense(fit.params, *args)))
    assert fit.path[0] < fit.path[1] < fit.log_likelihood + IDENTITY


@pytest.mark.parametrize("name", GAUSSIAN)
def test_every_m_step_is_a_closed_form(name: str) -> None:
    """What the first lines of each file say of its parameters."""
    model, args = small(name)
    plan = EM(model, check=False).plan(*args)
    assert {line.how for line in plan.lines.values()} <= {"closed form", "swept"}


FITTED = ("factors-missing", "factors-confirmatory", "effects-slopes", "missing-mixture", "local-level-missing")


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_ends_at_a_maximum(name: str) -> None:
    """The gradient of the dense log-density is zero there, by the parameters without their constraints."""
    model, args = small(name)
    fit = EM(model, tol=1e-11, max_steps=3000).fit(*args)
    assert fit.converged
    assert not any("withdrawn" in note for note in fit.notes)
    free = {n: v.log() if n in ("scale", "within", "noise", "weights") else v for n, v in fit.params.items()}
    free = {n: v.clone().requires_grad_() for n, v in free.items()}

    def density(free: Params) -> Tensor:
        p = {n: v.exp() if n in ("scale", "within", "noise") else v for n, v in free.items()}
        p |= {n: v.softmax(-1) for n, v in free.items() if n == "weights"}
        p |= {n: v.tril() for n, v in free.items() if n in ("root", "scale_tril")}
        return DENSE[name](p, *args)

    gradient = torch.autograd.grad(density(free), list(free.values()))
    size = max(float(g.abs().max()) for g in gradient)
    rows = max(len(arg) for arg in args if isinstance(arg, Tensor))
    assert size < 10 * SOLVERS * rows, dict(zip(free, gradient, strict=True))


# ---- what was simulated is found again -------------------------------------------------------------------------------


def test_effects_are_recovered() -> None:
    """Of 40 groups: scales 2 and 1 around 5, each within four of its standard errors; the start was further off."""
    y, group = random_effects.simulate(160, 40)
    first = start(random_effects.intercepts, y, group)
    params = EM(random_effects.intercepts, tol=1e-5).fit(y, group).params
    errors = {"mean": 2 / 40**0.5, "between": 2 / 80**0.5, "within": 1 / 240**0.5}
    truth = {"mean": 5.0, "between": 2.0, "within": 1.0}
    assert all(abs(float(params[n]) - truth[n]) < 4 * errors[n] for n in truth)
    assert any(abs(float(first[n]) - truth[n]) > 4 * errors[n] for n in truth)


def test_correlated_factors_are_recovered() -> None:
    """Of 2,000 rows: loadings 0.8 and 0.6, and a correlation of 0.6, which single items do not show."""
    x, factor = factor_analysis.simulate_confirmatory(2000)
    params = EM(factor_analysis.confirmatory).fit(x, factor).params
    covariance = params["root"] @ params["root"].T
    found = float(covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt())
    naive = float(torch.corrcoef(x[:, [0, 3]].T)[0, 1])
    close(params["loadings"], [0.8, 0.6, 0.8, 0.6], 0.06)
    assert abs(found - 0.6) < 0.05 < abs(naive - 0.6)


def test_a_linear_system_is_recovered() -> None:
    """Its states are known up to a linear map: the eigenvalues of the transition are 0.8 and 0.4 i on either side."""
    y, k, lengths = state_space.simulate_system(200, 5)
    params = EM(state_space.linear_dynamical_system, tol=1e-5).fit(y, k, lengths).params
    eigenvalue = torch.linalg.eigvals(params["transition"])[0]
    assert abs(float(eigenvalue.real) - 0.8) < 0.1
    assert abs(abs(float(eigenvalue.imag)) - 0.4) < 0.1


def test_a_normal_with_holes_is_recovered() -> None:
    """Of 2,000 rows with a third of the entries missing; filling holes with means shrinks the correlations."""
    x, seen = missing_normal.simulate(2000, missing=1 / 3)
    params = EM(missing_normal.missing_normal).fit(x, seen).params
    covariance = params["scale_tril"] @ params["scale_tril"].T
    naive = torch.cov(torch.where(seen, x, x.nanmean(0)).T)
    truth = 0.7 + 0.3 * eye(3)
    close(params["loc"], torch.arange(3.0), 0.1)
    assert float((covariance - truth).abs().max()) < 0.1 < float((naive - truth).abs().max())


# ---- published numbers -----------------------------------------------------------------------------------------------


def test_batches_of_dye() -> None:
    """Davies & Goldsmith's dyestuff: closed form, and the deviance of lme4's ML fit (Bates 2010, section 1.3)."""
    data = load("dyestuff")
    y = torch.tensor(data["grams"])
    group = torch.tensor(np.unique(data["batch"], return_inverse=True)[1])
    fit = EM(random_effects.intercepts, tol=1e-14).fit(y, group)
    batches = y.double().reshape(6, 5)
    within = ((batches - batches.mean(1, keepdim=True)) ** 2).sum() / 24
    between = ((batches.mean(1) - batches.mean()) ** 2).sum() / 6 - within / 5
    close(fit.params["mean"], float(batches.mean()), SOLVERS)
    close(fit.params["within"], float(within.sqrt()), SOLVERS)
    close(fit.params["between"], float(between.sqrt()), SOLVERS)
    prints_as([-2 * fit.log_likelihood], "327.3271")


def test_growth_of_children() -> None:
    """Potthoff & Roy's children by random slopes: the means of each age as printed, the fit at its dense maximum.

    All children were measured at the same ages, so that the lines in common are those of least squares.
    """
    data = load("growth")
    age, y = torch.tensor(data["age"]), torch.tensor(data["distance"])
    girls = torch.tensor(data["sex"] == "girl")
    prints_as([y[girls & (age == a)].mean() for a in (8, 10, 12, 14)], "21.18 22.23 23.09 24.09")
    prints_as([y[~girls & (age == a)].mean() for a in (8, 10, 12, 14)], "22.88 23.81 25.72 27.47", units=1.01)
    x = torch.stack([torch.ones_like(y), (age - 11).double()], -1)
    fit = EM(random_effects.slopes, tol=1e-12).fit(y, x, torch.tensor(data["child"]))
    close(fit.params["coef"], torch.linalg.lstsq(x, y).solution, SOLVERS)
    close(fit.log_likelihood, float(slopes(fit.params, y, x, torch.tensor(data["child"]))))


def test_the_nile() -> None:
    """Durbin & Koopman's variances, and their diffuse likelihood."""
    best = expected("nile")["golden"]["diffuse"]
    fit = EM(state_space.local_level, tol=1e-11).fit(torch.tensor(load("nile")["flow"]))
    close(fit.log_likelihood, best["loglik"], IDENTITY)
    close(fit.params["noise"], best["var_observation"] ** 0.5, 1e2 * SOLVERS)
    close(fit.params["level"], best["var_level"] ** 0.5, 1e2 * SOLVERS)


def test_two_maxima_and_a_saddle() -> None:
    """Murray (1977) in the discussion of Dempster, Laird & Rubin: a correlation of a half, of either sign, not zero."""
    nan = torch.nan
    both = [[1, 1], [1, -1], [-1, 1], [-1, -1]]
    x = torch.tensor(both + [[2, nan], [2, nan], [-2, nan], [-2, nan], [nan, 2], [nan, 2], [nan, -2], [nan, -2]])
    for sign in (1.0, -1.0):
        pyro.clear_param_store()
        tilted = {"scale_tril": torch.linalg.cholesky(torch.tensor([[2.5, 0.5 * sign], [0.5 * sign, 2.5]]))}
        fit = EM(missing_normal.missing_normal, starts=tilted, tol=1e-13).fit(x, ~x.isnan())
        covariance = fit.params["scale_tril"] @ fit.params["scale_tril"].T
        close(covariance, [[8 / 3, sign * 4 / 3], [sign * 4 / 3, 8 / 3]], SOLVERS)
        close(fit.log_likelihood, -29.974286410465012, IDENTITY)
    pyro.clear_param_store()
    flat = EM(missing_normal.missing_normal).fit(x, ~x.isnan())  # from a correlation of zero
    close(flat.log_likelihood, -29.974286410465012, SOLVERS)
