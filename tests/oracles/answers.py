"""Models of the zoo at the optima of the golden cases: arguments, parameters, log-likelihood."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from em_pyro.models import (
    abo,
    coins,
    gaussian_mixture,
    genetic_linkage,
    hidden_markov,
    item_response,
    latent_classes,
    poisson_mixture,
    regressions,
)
from em_pyro.models.data import load
from torch import Tensor

from oracles.agreement import outside, redrawn_gaussians
from oracles.evidence import Model, Params

Answer = tuple[Model, tuple[Any, ...], Params, float]
"""A model, its arguments, the parameters of its optimum and its log-likelihood there."""


def table(case: str, *columns: str) -> Tensor:
    """Read columns of numbers of a data set outside the repository, shape `(N, columns)`; skip where it is absent."""
    data = outside(case)
    return torch.tensor(np.stack([data[name].astype(float) for name in columns], -1))


def expand(counts: Tensor) -> Tensor:
    """Repeat 0, 1, 2, ... as often as counted."""
    return torch.repeat_interleave(torch.arange(len(counts)), counts.long())


def people() -> Tensor:
    """Return the answers of 1,000 people to the five items of LSAT 6, which are 30 patterns."""
    patterns = table("lsat6", *(f"Item_{j}" for j in range(1, 6)), "Freq")
    return patterns[expand(patterns[:, 5])][:, :5]


def padded(values: Tensor, lengths: list[int]) -> Tensor:
    """Cut one series after another into the rows of a table, shape `(N, T)`."""
    return torch.nn.utils.rnn.pad_sequence(list(values.split(lengths)), batch_first=True)


def do_batzoglou_coins(answers: dict[str, Any]) -> Iterator[Answer]:
    """Without the binomial coefficients -31.5702, with them -9.7969."""
    data = load("coins")
    args = (torch.tensor(data["heads"]), torch.tensor(data["n"]))
    golden, free = answers["golden"], answers["free_weights"]
    yield coins.equal_coins, args, {"bias": [golden["theta_A"], golden["theta_B"]]}, golden["loglik_binomial_counts"]
    weights = {"bias": [free["theta_A"], free["theta_B"]], "weights": [free["pi_A"], 1 - free["pi_A"]]}
    yield coins.coins, args, weights, free["loglik_sequences"] + golden["log_binomial_constant"]


def notebook_coins(answers: dict[str, Any]) -> Iterator[Answer]:
    """Sequences of unequal length; the golden likelihood is of sequences, not of numbers of heads."""
    heads, n = table("notebook_coins", "heads", "n").T
    constant = float((torch.lgamma(n + 1) - torch.lgamma(heads + 1) - torch.lgamma(n - heads + 1)).sum())
    golden = answers["golden"]
    bias = {"bias": [golden["theta_A"], golden["theta_B"]]}
    yield coins.equal_coins, (heads, n), bias, golden["loglik_sequences"] + constant


def notebook_gaussians(answers: dict[str, Any]) -> Iterator[Answer]:
    """Known equal weights; then free ones."""
    x = torch.tensor(redrawn_gaussians())
    for model, key in ((gaussian_mixture.two_groups, "golden"), (gaussian_mixture.univariate, "free_weights")):
        best = answers[key]
        params = {"loc": [best["red_mean"], best["blue_mean"]], "scale": [best["red_std"], best["blue_std"]]}
        if key == "free_weights":
            params["weights"] = [best["pi_red"], 1 - best["pi_red"]]
        yield model, (x,), params, best["loglik"]


def linkage(answers: dict[str, Any]) -> Iterator[Answer]:
    """Both ways to complete the data."""
    observed = expand(torch.tensor(load("linkage")["count"]))
    golden = answers["golden"]
    for model in (genetic_linkage.five_cells, genetic_linkage.two_coins):
        yield model, (observed,), {"p": golden["p"]}, golden["loglik_without_constant"]


def london_deaths(answers: dict[str, Any]) -> Iterator[Answer]:
    """Deaths on 1096 days."""
    golden = answers["golden"]
    params = {"weights": [golden["p"], 1 - golden["p"]], "rate": [golden["mu1"], golden["mu2"]]}
    deaths = expand(torch.tensor(load("london_deaths")["days"]))
    yield poisson_mixture.poisson_mixture, (deaths,), params, golden["loglik"]


def faithful(answers: dict[str, Any]) -> Iterator[Answer]:
    """Full, tied and diagonal covariances."""
    data = load("faithful")
    x = torch.stack([torch.tensor(data["eruptions"]), torch.tensor(data["waiting"]).double()], -1)
    for name, best in answers["golden"].items():
        K, covariance = best["k"], torch.tensor(best["covariances"])  # VVI: the variances only
        params: dict[str, Any] = {"weights": best["weights"], "loc": best["means"]}
        if name.startswith("VVI"):
            yield gaussian_mixture.diagonal, (x, K), {**params, "scale": covariance.sqrt()}, best["loglik"]
        elif name.startswith("EEE"):
            root = torch.linalg.cholesky(covariance[0])
            yield gaussian_mixture.tied, (x, K), {**params, "scale_tril": root}, best["loglik"]
        else:
            root = torch.linalg.cholesky(covariance)
            yield gaussian_mixture.full, (x, K), {**params, "scale_tril": root}, best["loglik"]
            yield gaussian_mixture.full_covariance, (x, K), {**params, "covariance": covariance}, best["loglik"]


def galaxies(answers: dict[str, Any]) -> Iterator[Answer]:
    """One to six components, equal or unequal variances, every maximum known."""
    x = torch.tensor(load("galaxies")["x"])
    for best in answers["golden"].values():
        for top in best["maxima"]:
            tied = best["equal_variance"]
            scale = top["sds"][0] if tied else top["sds"]
            params = {"weights": top["weights"], "loc": top["means"], "scale": scale}
            yield partial(gaussian_mixture.univariate, tied=tied), (x, best["k"]), params, top["loglik"]


def earthquakes(answers: dict[str, Any]) -> Iterator[Answer]:
    """Poisson chains with a stationary and with a free start, and independent mixtures."""
    counts = torch.tensor(load("earthquakes")["count"])
    for name, best in answers["golden"].items():
        params = {"rate": best["lam"]}
        if name.startswith("independent"):
            params["weights"] = best["weights"]
            yield poisson_mixture.poisson_mixture, (counts, len(best["lam"])), params, best["loglik"]
        elif "transition" in best:
            params["transition"], stationary = best["transition"], name.startswith("stationary")
            if not stationary:
                params["initial"] = best["initial"]
            model = partial(hidden_markov.poisson, stationary=stationary)
            yield model, (counts[None], None, best["states"]), params, best["loglik"]


def speed(answers: dict[str, Any]) -> Iterator[Answer]:
    """One series, three series, reaction times with accuracy, three states."""
    data = outside("speed")
    time, correct = torch.tensor(data["rt"]), torch.tensor((data["corr"] == "cor").astype(float))
    lengths = torch.tensor(np.unique(data["series"], return_counts=True)[1])
    times, corrects = (padded(values, lengths.tolist()) for values in (time, correct))
    for name, best in answers["golden"].items():
        params = {"loc": best["means"], "scale": best["sds"], "transition": best["transition"]}
        params["initial"] = best["initial"]
        if "p_correct" in best:
            params["accuracy"] = best["p_correct"]
            yield hidden_markov.time_and_accuracy, (times, corrects, lengths), params, best["loglik"]
        elif name == "one_series":
            yield hidden_markov.gaussian, (time[None],), params, best["loglik"]
        else:
            yield hidden_markov.gaussian, (times, lengths, best["states"]), params, best["loglik"]


def speed_with_payoff(peer: dict[str, Any]) -> tuple[Model, tuple[Any, ...], Params]:
    """Three series, the standardised pay-off for accuracy as covariate of the transitions, at a peer's parameters."""
    data = outside("speed")
    lengths = np.unique(data["series"], return_counts=True)[1].tolist()
    time, payoff = torch.tensor(data["rt"]), torch.tensor(data["Pacc"])
    payoff = (payoff - payoff.mean()) / payoff.std()
    times, payoffs = (padded(values, lengths) for values in (time, payoff))
    _, _, _, a1, _, b1, _, a2, _, b2, m1, s1, m2, s2 = peer["par"]
    params = {"initial": [0.0, 1.0], "intercept": [[a1], [a2]], "slope": [[b1], [b2]], "loc": [m1, m2]}
    params["scale"] = [s1, s2]
    return hidden_markov.with_covariate, (times, payoffs, torch.tensor(lengths)), params


def carcinoma(answers: dict[str, Any]) -> Iterator[Answer]:
    """One to four classes."""
    verdicts = table("carcinoma", *"ABCDEFG").long() - 1
    for best in answers["golden"].values():
        items = {f"item_{j}": probs for j, probs in enumerate(best["item_probs"].values())}
        params = {"weights": best["class_shares"], **items}
        yield latent_classes.latent_classes, (verdicts, best["classes"]), params, best["loglik"]


def lsat(answers: dict[str, Any]) -> Iterator[Answer]:
    """Rasch, 2PL and normal ogive, on 201, 21 and 10 nodes."""
    answered = people()
    models = {
        "logit_rasch": item_response.rasch,
        "logit_2pl": item_response.two_parameters,
        "probit_2pl": item_response.normal_ogive,
    }
    for name, best in answers["golden"].items():
        form, _, rule = name.partition("_gauss_hermite_")
        if rule and form in models:
            params = {"intercept": best["intercepts"], "slope": best["slopes"]}
            yield models[form], (answered, int(rule)), params, best["loglik"]


def ethanol(answers: dict[str, Any]) -> Iterator[Answer]:
    """Two lines."""
    data = load("ethanol")
    nitrogen, richness = torch.tensor(data["NO"]), torch.tensor(data["Equivalence"])
    best = answers["golden"]["k2"]
    params = {"weights": best["weights"], "coef": best["coef"], "scale": best["sigma"]}
    yield regressions.linear, (torch.stack([torch.ones_like(nitrogen), nitrogen], -1), richness), params, best["loglik"]


def npreg(answers: dict[str, Any]) -> Iterator[Answer]:
    """A line and a parabola; two Poisson regressions."""
    data = load("npreg")
    x, yn, yp = (torch.tensor(data[name]) for name in ("x", "yn", "yp"))
    powers = torch.stack([torch.ones_like(x), x, x**2], -1)
    best = answers["golden"]["gaussian_yn"]
    params = {"weights": best["weights"], "coef": best["coef"], "scale": best["sigma"]}
    yield regressions.linear, (powers, yn), params, best["loglik"]
    best = answers["golden"]["poisson_yp"]
    params = {"weights": best["weights"], "coef": best["coef"]}
    yield regressions.poisson, (powers[:, :2], yp), params, best["loglik"]


def blood_groups(answers: dict[str, Any]) -> Iterator[Answer]:
    """The phenotypes of 521 people, without the multinomial coefficient."""
    phenotype = expand(torch.tensor(load("abo")["count"]))
    golden = answers["golden"]
    yield abo.abo, (phenotype,), {"frequency": [golden[k] for k in "pqr"]}, golden["loglik_without_constant"]


ANSWERS: dict[str, Callable[[dict[str, Any]], Iterator[Answer]]] = {
    "coins": do_batzoglou_coins,
    "linkage": linkage,
    "london_deaths": london_deaths,
    "faithful": faithful,
    "earthquakes": earthquakes,
    "lsat6": lsat,
    "carcinoma": carcinoma,
    "ethanol": ethanol,
    "npreg": npreg,
    "abo": blood_groups,
    "galaxies": galaxies,
    "speed": speed,
    "notebook_coins": notebook_coins,
    "notebook_gaussians": notebook_gaussians,
}
