"""Published cases with normal latents, as programs that say so: the latents are sampled, and EM integrates them.

Log-likelihoods to 1e-8, not relative: of factors, levels, batches and missing values. Published numbers are quoted to
the digits printed. Starts are away from the answers.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close, column, expected, prints_as
from oracles.tolerances import SOLVERS
from test_golden import path_of
from test_golden_fits import correlated
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit

ABSOLUTE = 1e-8
"""Of a log-likelihood."""


def reached(fit: Fit, want: float) -> None:
    """Assert that a fit has converged to a log-likelihood, and did not start there."""
    assert fit.converged, str(fit)
    assert fit.path[0] < want - 1e-2
    assert abs(fit.log_likelihood - want) < ABSOLUTE, f"{fit.log_likelihood - want:.3g} off"


# ---- factors ---------------------------------------------------------------------------------------------------------


def factors(x: Tensor, k: int) -> None:
    """Explain six abilities by `k` factors of each person."""
    D = x.shape[1]
    mean = pyro.param("mean", torch.full((D,), 0.5))
    loading = pyro.param("loading", 0.6 - 0.5 * torch.linspace(-1, 1, D)[:, None] * torch.arange(k))
    sigma = pyro.param("sigma", 0.7 * torch.ones(D), constraint=constraints.positive)
    with pyro.plate("person", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(k), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ loading.T + mean, sigma).to_event(1), obs=x)


@pytest.mark.parametrize("k", [1, 2])
def test_abilities(k: int) -> None:
    """R's `ability.cov`, Smith & Stanley (1983): rows with exactly its correlations; `factanal` prints uniquenesses."""
    best = expected("ability")["golden"][str(k)]
    x = correlated(expected("ability")["covariance"], 112)
    fit = EM(factors, tol=1e-14, max_steps=5000).fit(x, k)
    reached(fit, best["loglik_on_correlation"])
    variance = fit.params["sigma"] ** 2
    close(variance, best["uniquenesses"], SOLVERS)
    product = fit.params["loading"] @ fit.params["loading"].mT + torch.diag(variance)
    close(product, best["model_correlation"], SOLVERS)
    if k == 2:
        prints_as(variance, "0.455 0.589 0.218 0.769 0.052 0.334")


# ---- the level of the Nile -------------------------------------------------------------------------------------------


def levels(flow: Tensor, mean: float, sd: float) -> None:
    """A level that walks, observed with noise."""
    noise = pyro.param("noise", tensor(100.0), constraint=constraints.positive)
    move = pyro.param("move", tensor(5000.0**0.5), constraint=constraints.positive)
    level = tensor(0.0)
    for t in pyro.markov(range(len(flow))):
        level = pyro.sample(f"level_{t}", dist.Normal(level, move) if t else dist.Normal(mean, sd))
        pyro.sample(f"flow_{t}", dist.Normal(level, noise), obs=flow[t])


def levels_from_the_first(flow: Tensor) -> None:
    """The same given the first flow, around which the first level then is: the exact diffuse likelihood."""
    noise = pyro.param("noise", tensor(100.0), constraint=constraints.positive)
    move = pyro.param("move", tensor(5000.0**0.5), constraint=constraints.positive)
    level = pyro.sample("level_0", dist.Normal(flow[0], noise))
    for t in pyro.markov(range(1, len(flow))):
        level = pyro.sample(f"level_{t}", dist.Normal(level, move))
        pyro.sample(f"flow_{t}", dist.Normal(level, noise), obs=flow[t])


PRIORS: dict[str, tuple[float, float] | None] = {
    "diffuse": None, "prior_N_0_1e7": (0.0, 1e7**0.5), "prior_N_1120_1e4": (1120.0, 100.0)
}  # fmt: skip


@pytest.mark.parametrize("name", PRIORS)
def test_nile(name: str) -> None:
    """Durbin & Koopman (2012), section 2.10: variances 15099 and 1469.1, under three treatments of the first level."""
    best, prior = expected("nile")["golden"][name], PRIORS[name]
    flow = tensor(expected("nile")["flow"], dtype=torch.float64)
    em = EM(levels_from_the_first if prior is None else levels, tol=1e-14, max_steps=5000)
    fit = em.fit(flow) if prior is None else em.fit(flow, *prior)
    reached(fit, best["loglik"])
    variances = torch.stack([fit.params["noise"], fit.params["move"]]) ** 2
    close(variances, [best["var_observation"], best["var_level"]], SOLVERS)
    if prior is None:
        prints_as(variances[0], "15099")


def test_nile_iterate_by_iterate() -> None:
    """The first hundred steps of EM from variances of 10,000 and 5,000."""
    flow = tensor(expected("nile")["flow"], dtype=torch.float64)
    rows = [row for row in expected("nile_iterations")["iterations"] if row["iter"] <= 100]
    start = {"noise": 100.0, "move": 5000.0**0.5}
    path = path_of(levels, flow, 0.0, 1e7**0.5, names=("noise", "move"), start=start, steps=100)
    steps = [row["iter"] for row in rows]
    close(path["noise"][steps] ** 2, column(rows, "var_observation"))
    close(path["move"][steps] ** 2, column(rows, "var_level"))
    close(path["objective"][steps], column(rows, "loglik"))


def test_nile_later_on() -> None:
    """Plain EM, begun at the hundredth iterate, is where the table is two hundred steps later."""
    flow = tensor(expected("nile")["flow"], dtype=torch.float64)
    early, late = (row for row in expected("nile_iterations")["iterations"] if row["iter"] in (100, 300))
    start = {"noise": early["var_observation"] ** 0.5, "move": early["var_level"] ** 0.5}
    path = path_of(levels, flow, 0.0, 1e7**0.5, names=("noise", "move"), start=start, steps=200)
    close(path["noise"][-1] ** 2, late["var_observation"])
    close(path["move"][-1] ** 2, late["var_level"])
    close(path["objective"][-1], late["loglik"])


# ---- missing values --------------------------------------------------------------------------------------------------


def seen_in_part(x: Tensor, seen: Tensor) -> None:
    """Rows are latent, and seen where they were seen."""
    mean = pyro.param("mean", torch.zeros(2))
    tril = pyro.param("tril", torch.eye(2), constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(x)):
        row = pyro.sample("row", dist.MultivariateNormal(mean, scale_tril=tril))
        pyro.sample("x", dist.Delta(row).mask(seen).to_event(1), obs=x)


def filled_in(x: Tensor, seen: Tensor) -> None:
    """What is missing is latent, without a density of its own, and the filled rows are observed."""
    mean = pyro.param("mean", torch.zeros(2))
    tril = pyro.param("tril", torch.eye(2), constraint=constraints.lower_cholesky)
    i, j = (~seen).nonzero(as_tuple=True)
    with pyro.plate("missing", len(i)):
        v = pyro.sample("v", dist.Normal(0.0, 1.0).mask(False))  # noqa: FBT003
    full = x.clone()
    full[i, j] = v
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.MultivariateNormal(mean, scale_tril=tril), obs=full)


def murray() -> tuple[Tensor, Tensor]:
    """Return twelve rows, zero where nothing was seen; and where something was."""
    rows = [[float("nan") if value is None else value for value in row] for row in expected("murray")["rows"]]
    x = tensor(rows, dtype=torch.float64)
    return x.nan_to_num(), ~x.isnan()


@pytest.mark.parametrize("model", [seen_in_part, filled_in])
@pytest.mark.parametrize(("where", "slope"), [("plus", 0.2), ("minus", -0.3)])
def test_murray(model: Any, where: str, slope: float) -> None:
    """Murray (1977): variance 8/3 and correlation one half, of either sign, by where EM begins."""
    best = expected("murray")["golden"][where]
    start = {"mean": tensor([0.3, -0.2]), "tril": tensor([[1.2, 0.0], [slope, 1.5]])}
    fit = EM(model, starts=start, tol=1e-14, max_steps=5000).fit(*murray())
    reached(fit, best["loglik"])
    close(fit.params["mean"], best["mean"], SOLVERS)
    close(fit.params["tril"] @ fit.params["tril"].mT, best["covariance"], SOLVERS)


@pytest.mark.parametrize("model", [seen_in_part, filled_in])
def test_murray_between_the_maxima(model: Any) -> None:
    """Begun without a correlation EM would stay on the saddle; a fit leaves it for one of the maxima."""
    golden = expected("murray")["golden"]
    start = {"mean": torch.zeros(2), "tril": 1.7 * torch.eye(2)}
    fit = EM(model, starts=start, tol=1e-14, max_steps=5000).fit(*murray())
    reached(fit, golden["plus"]["loglik"])
    pyro.clear_param_store()
    held = EM(model, starts={**start, "tril": 2.5**0.5 * torch.eye(2)}, tol=0, max_steps=5, check=False)
    still = held.fit(*murray())
    close(still.path, [golden["saddle"]["loglik"]] * 6)
    close(still.params["tril"] @ still.params["tril"].mT, golden["saddle"]["covariance"])
    close(still.params["mean"], golden["saddle"]["mean"])


# ---- batches ---------------------------------------------------------------------------------------------------------


def batches(y: Tensor) -> None:
    """A level of each batch, and samples around it."""
    mean = pyro.param("mean", tensor(1500.0))
    between = pyro.param("between", tensor(30.0), constraint=constraints.positive)
    within = pyro.param("within", tensor(60.0), constraint=constraints.positive)
    with pyro.plate("batch", len(y), dim=-2):
        b = pyro.sample("b", dist.Normal(0.0, between))
        with pyro.plate("sample", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(mean + b, within), obs=y)


def batches_by_row(y: Tensor) -> None:
    """The same with a row for each sample, which knows its batch."""
    mean = pyro.param("mean", tensor(1500.0))
    between = pyro.param("between", tensor(30.0), constraint=constraints.positive)
    within = pyro.param("within", tensor(60.0), constraint=constraints.positive)
    batch = torch.arange(y.numel()) // y.shape[1]
    with pyro.plate("batch", len(y)):
        b = pyro.sample("b", dist.Normal(0.0, between))
    with pyro.plate("sample", y.numel()):
        pyro.sample("y", dist.Normal(mean + b[batch], within), obs=y.reshape(-1))


@pytest.mark.parametrize("model", [batches, batches_by_row])
def test_dyestuff(model: Any) -> None:
    """Bates, lme4: ML estimates 1388.3 and 2451.3, deviance 327.3271."""
    best = expected("dyestuff")["golden"]
    fit = EM(model, tol=1e-14, max_steps=5000).fit(tensor(expected("dyestuff")["yields"], dtype=torch.float64))
    reached(fit, best["loglik"])
    got = [fit.params["mean"], fit.params["between"] ** 2, fit.params["within"] ** 2]
    close(got, [best["mean"], best["var_batch"], best["var_residual"]], SOLVERS)
    prints_as([*got[1:], -2 * fit.log_likelihood], "1388.3 2451.3 327.3271", units=1.01)  # 2451.25 is rounded up


# ---- the checks are checked ------------------------------------------------------------------------------------------


def test_another_likelihood_is_noticed() -> None:
    """One yield a gram more is another likelihood."""
    y = tensor(expected("dyestuff")["yields"], dtype=torch.float64)
    y[0, 0] += 1.0
    with pytest.raises(AssertionError):
        reached(EM(batches, tol=1e-14, max_steps=5000).fit(y), expected("dyestuff")["golden"]["loglik"])
