"""Standard errors of real data against published and independently computed ones.

Those of the golden cases are by forty-digit or automatic second derivatives of log-likelihoods written by hand; poLCA's
are by the outer product of scores.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import discrete_hmm, gaussian_mixture, item_response
from em_pyro.models.data import load
from oracles.agreement import close, expected, prints_as
from oracles.answers import ANSWERS, people
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.errors import ParameterError

GOLDEN = expected("standard_errors")


def fitted(model: Any, *args: Any, **options: Any) -> Fit:
    """Fit from an empty store."""
    with pyro.get_param_store().scope():
        return EM(model, **options).fit(*args)


def answered(case: str, which: int = 0, model: Any = None, **options: Any) -> Fit:
    """Fit from one of the answers of a golden case: what is looked at is the maximum, not the way to it."""
    own, args, params, _ = list(ANSWERS[case](expected(case)))[which]
    starts = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in params.items()}
    return fitted(own if model is None else model, *args, starts=starts, **options)


def relative(got: Any, want: Any, tolerance: float = IDENTITY) -> None:
    """Assert that every number agrees, relative to itself."""
    got, want = (np.asarray(part, dtype=float) for part in (got, want))
    close(got / want, np.ones_like(want), tolerance)


# ---- published and golden ----


def test_linkage() -> None:
    """Dempster, Laird & Rubin (1977), and Louis (1982): observed 377.5 of 435.3, standard error 0.051, rate 0.1328."""
    fit = answered("linkage")
    found, golden = fit.information(), GOLDEN["linkage"]
    se = float(found.se["p"])
    prints_as(se, "0.051")
    prints_as(found.rate, "0.1328")
    relative(se, golden["se"])
    relative(1 / se**2, golden["observed_information"])
    relative(1 / float(fit.information("complete").se["p"]) ** 2, golden["complete_information"])
    relative(found.rate, golden["rate"])
    assert found.rank == found.dimension == 1


@pytest.mark.parametrize("kind", ["observed", "opg", "robust"])
def test_london_deaths(kind: str) -> None:
    """All three covariances, of rows and of their table with counts as weights."""
    days = tensor(load("london_deaths")["days"])

    def table(days: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.3, 0.7]), constraint=constraints.simplex)
        rate = pyro.param("rate", tensor([1.0, 2.5]), constraint=constraints.positive)
        with pyro.plate("row", len(days)), pyro.poutine.scale(scale=days):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("deaths", dist.Poisson(rate[z]), obs=torch.arange(len(days)).to(weights))

    for fit in (answered("london_deaths"), fitted(table, days)):
        found = fit.information(kind)
        relative([found.se["weights"][0], *found.se["rate"]], GOLDEN["london_deaths"][kind], 1e-9)
        relative(found.rate, GOLDEN["london_deaths"]["rate"], 1e-8)
        assert fit.certificate().decrement < 1e-3  # a slow fit ends below its maximum


def test_faithful() -> None:
    """Two full and three tied covariances."""
    golden = GOLDEN["faithful"]
    fit = answered("faithful", 1)
    assert "covariance" in fit.params
    found, want = fit.information(), golden["VVV2"]
    for name, key in (("weights", "weights"), ("loc", "means"), ("covariance", "covariances")):
        relative(found.se[name], want[key])
    prints_as(found.rate, "0.2407658975")
    tied = answered("faithful", 2).information()
    relative(tied.se["weights"], golden["EEE3"]["weights"])
    relative(tied.se["loc"], golden["EEE3"]["means"])
    prints_as(tied.rate, "0.8973465")


def test_an_entry_is_the_same_in_every_parametrisation() -> None:
    """The covariance matrix of a component through its root, by the delta method."""
    root = answered("faithful", 0).information()
    found = root.function(lambda p: p["scale_tril"] @ p["scale_tril"].mT)
    relative(found.se, GOLDEN["faithful"]["VVV2"]["covariances"])


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_carcinoma(classes: int) -> None:
    """Those of poLCA, by the outer product; entries at a boundary have none, and say so."""
    fit = answered("carcinoma", classes - 1)
    found, want = fit.information("opg"), GOLDEN["carcinoma"][str(classes)]
    if classes > 1:
        relative(found.se["weights"], want["class_share_se"], 1e-8)
    dimension = {1: 7, 2: 15, 3: 23}[classes]
    edges = 0
    for j, each in enumerate(want["prob_se"]):
        name = f"item_{j}"
        se, probs = found.se[name], found.params[name]
        edge = (probs == 0) | (probs == 1)
        assert torch.equal(se.isnan(), edge)
        close(se.nan_to_num(0.0), np.reshape(each, se.shape), 1e-8)
        assert all("boundary" in note for note in found.notes_of(name).values())
        assert len(found.notes_of(name)) == int(edge.sum())
        edges += int((probs == 0).sum())
    assert (found.dimension, found.rank) == (dimension, dimension - edges)
    if classes == 2:
        relative(fit.information().se["weights"][0], GOLDEN["carcinoma"]["second_derivative"], 1e-8)


@pytest.mark.parametrize(
    ("case", "which", "key"), [("npreg", 0, "gaussian_yn"), ("npreg", 1, "poisson_yp"), ("ethanol", 0, "k2")]
)
def test_regressions(case: str, which: int, key: str) -> None:
    """Mixtures of regressions: flexmix's examples NPreg and NO."""
    found, want = answered(case, which).information(), GOLDEN[case][key]
    relative(found.se["weights"], want["weights"])
    relative(found.se["coef"], want["coef"])
    if want["sigma"]:
        relative(found.se["scale"], want["sigma"])


def test_coins_and_blood_groups() -> None:
    """Two coins; and frequencies of three alleles, a simplex."""
    relative(answered("coins").information().se["bias"], GOLDEN["coins"], 1e-9)
    relative(answered("abo").information().se["frequency"], GOLDEN["abo"])


@pytest.mark.parametrize("key", ["E1", "E2", "E3", "V1", "V2", "V3", "V4"])
def test_galaxies(key: str) -> None:
    """One to four normals, of one scale or several."""
    best = expected("galaxies")["golden"][key]
    top, tied = best["maxima"][0], key.startswith("E")
    scale = top["sds"][0] if tied else top["sds"]
    starts = {"weights": tensor(top["weights"]), "loc": tensor(top["means"]), "scale": tensor(scale)}
    model = partial(gaussian_mixture.univariate, tied=tied)
    info = fitted(model, tensor(load("galaxies")["x"]), best["k"], starts=starts).information()
    relative(info.se["loc"], GOLDEN["galaxies"][key]["means"], SOLVERS)
    relative(info.se["scale"].reshape(-1), GOLDEN["galaxies"][key]["sds"], SOLVERS)
    if best["k"] > 1:
        relative(info.se["weights"], GOLDEN["galaxies"][key]["weights"], SOLVERS)


@pytest.mark.parametrize(
    ("form", "key"), [("rasch", "logit_rasch"), ("two_parameters", "logit_2pl"), ("normal_ogive", "probit_2pl")]
)
def test_item_response(form: str, key: str) -> None:
    """LSAT 6 on 21 nodes; ltm's discriminations, as printed."""
    want = GOLDEN["lsat6"][key]
    starts = {"intercept": tensor(want["intercepts"]), "slope": tensor(want["slopes"])}
    if form == "rasch":
        starts["slope"] = tensor(want["slopes"])
    found = fitted(getattr(item_response, form), people(), 21, starts=starts, acceleration="squarem").information()
    relative(found.se["intercept"], want["se_intercepts"])
    relative(found.se["slope"].reshape(-1), want["se_slopes"])
    if key == "logit_2pl":
        prints_as(found.se["slope"], "0.2581 0.1867 0.2326 0.1852 0.21", units=5)  # ltm's own optimum, by its own nodes


def test_speed() -> None:
    """One series as a hidden Markov model that starts at the vertex; a single one has no outer product."""
    starts = {
        name: torch.as_tensor(value) for name, value in next(iter(ANSWERS["speed"](expected("speed"))))[2].items()
    }
    args = next(iter(ANSWERS["speed"](expected("speed"))))[1]
    fit = fitted(discrete_hmm.gaussian, *args, starts=starts)
    found = fit.information()
    step = found.se["transition"]
    relative(
        [step[0, 1], step[1, 0], *found.se["loc"], *found.se["scale"]],
        GOLDEN["speed"]["se"],
        1e-8,
    )
    prints_as(found.rate, "0.5777574")
    assert set(found.notes_of("initial").values()) == {"on the boundary: no standard error"}
    assert bool(found.se["initial"].isnan().all())
    for kind in ("opg", "robust"):
        with pytest.raises(ParameterError, match="one sequence has one score"):
            fit.information(kind)


# ---- closed forms, and one component ----


def test_map() -> None:
    """A Beta prior on a probability: the curvature of the log posterior density at its mode."""
    y = (torch.arange(40) % 3 == 0).double()

    def model(y: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(3.0, 4.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    found = fitted(model, y).information()
    mode = (2 + float(y.sum())) / (5 + len(y))
    relative(found.se["p"], math.sqrt(mode * (1 - mode) / (5 + len(y))))


@pytest.mark.parametrize("kind", ["normal", "logit", "poisson"])
def test_one_component_is_statsmodels(kind: str) -> None:
    """Ordinary and robust (HC0) standard errors of one regression, on rows that are no draws of it."""
    k = torch.arange(200, dtype=torch.float64)
    x, noise = -2 + 4 * (k * 0.7548776662466927 % 1), (k * 0.5698402909980532 + 0.25) % 1
    mean = 0.2 + 0.5 * x
    y = {
        "normal": mean + (0.5 + x.abs()) * torch.special.ndtri(noise),
        "logit": (noise < torch.sigmoid(mean * (1 + 0.5 * x))).double(),
        "poisson": (mean.exp() * 2 * noise + noise).floor(),
    }[kind]

    def model(design: Tensor, y: Tensor) -> None:
        line = design @ pyro.param("coef", torch.zeros(2, dtype=torch.float64))
        laws = {
            "normal": lambda: dist.Normal(line, pyro.param("scale", tensor(1.0), constraint=constraints.positive)),
            "logit": lambda: dist.Bernoulli(logits=line),
            "poisson": lambda: dist.Poisson(line.exp()),
        }
        law = laws[kind]()
        with pyro.plate("rows", len(y)):
            pyro.sample("y", law, obs=y)

    fit = fitted(model, torch.stack([torch.ones_like(x), x], -1), y)
    relative(fit.information().se["coef"], GOLDEN["regression"][kind]["ordinary"])
    relative(fit.information("robust").se["coef"], GOLDEN["regression"][kind]["robust"])


def test_a_missing_covariate_of_a_logit() -> None:
    """A binary covariate that some rows lack: the Hessian of the log-likelihood written out."""
    generator = torch.Generator().manual_seed(1)
    covariate = (torch.rand(300, generator=generator) < 0.4).double()
    y = (torch.rand(300, generator=generator) < torch.sigmoid(-0.5 + 1.5 * covariate)).double()
    seen = torch.rand(300, generator=generator) < 0.7

    def model(y: Tensor) -> None:
        coef = pyro.param("coef", torch.zeros(2, dtype=torch.float64))
        share = pyro.param("share", tensor(0.5, dtype=torch.float64), constraint=constraints.unit_interval)
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Bernoulli(share), obs=covariate, obs_mask=seen)
            pyro.sample("y", dist.Bernoulli(logits=coef[0] + coef[1] * z), obs=y)

    def objective(v: Tensor) -> Tensor:
        joint = torch.stack(
            [
                torch.where(k > 0, v[2], 1 - v[2]).log() - torch.nn.functional.softplus((1 - 2 * y) * (v[0] + v[1] * k))
                for k in (tensor(0.0), tensor(1.0))
            ],
            -1,
        )
        known = joint.gather(-1, covariate.long().unsqueeze(-1)).squeeze(-1)
        return torch.where(seen, known, joint.logsumexp(-1)).sum()

    found = fitted(model, y, tol=1e-12).information()
    point = torch.cat([found.params["coef"], found.params["share"].reshape(1)])
    cov = torch.linalg.inv(-torch.autograd.functional.hessian(objective, point))
    relative(torch.cat([found.se["coef"], found.se["share"].reshape(1)]), cov.diagonal().sqrt())
    close(found.covariance(("coef", "share")), cov)
