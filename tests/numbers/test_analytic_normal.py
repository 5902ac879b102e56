"""Hand-derived EM for normal mixtures against published iterations and independently computed optima."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from em_pyro.models.data import load
from oracles.agreement import Array, close, column, expected, prints_as, redrawn_gaussians
from oracles.tolerances import SOLVERS, printed

from em_pyro import analytic
from em_pyro.analytic import gaussian, normal

COLUMNS = ("red_mean", "red_std", "blue_mean", "blue_std")
NOTEBOOK: tuple[Any, Any, Any] = ([1.1, 9.0], [2.0, 1.7], [0.5, 0.5])


def notebook_table(path: analytic.ParameterPath) -> Array:
    """Return means and standard deviations in the columns of the second notebook's tables."""
    return np.stack([path.params["means"], path.params["sds"]], axis=2).reshape(-1, 4)


def check_notebook_gaussians() -> None:
    """The second notebook's data under exact EM, forty iterations; two groups of known equal weight."""
    case, x = expected("notebook_gaussians"), redrawn_gaussians()
    path = analytic.normal_mixture(x, *NOTEBOOK, steps=40, estimate_weights=False)
    table = case["exact_em"]
    close(notebook_table(path), column(table, *COLUMNS))
    close(path.log_likelihood, column(table, "loglik"))
    free, optimum = analytic.normal_mixture(x, *NOTEBOOK, steps=400), case["free_weights"]
    close(notebook_table(free)[-1], [optimum[name] for name in COLUMNS], SOLVERS)
    close(free.params["weights"][-1, 0], optimum["pi_red"], SOLVERS)
    close(free.log_likelihood[-1], optimum["loglik"])


KINDS: dict[str, gaussian.Covariance] = {"full": "full", "tied": "tied", "diag": "diagonal"}


def check_faithful(model: str) -> None:
    """Old Faithful (Azzalini & Bowman 1990): Newton-polished optima, confirmed with mclust at a tight tolerance.

    Of the values that mclust prints (Scrucca et al. 2016, R Journal 8:289) VVV,2 is the maximum, -1130.264; its EEE,3,
    -1126.326, stopped 0.0099 short of it.
    """
    answer, x = expected("faithful")["golden"][model], np.stack(list(load("faithful").values()), axis=1)
    means: Array = np.array(answer["means"])
    kind = KINDS[answer["covariance"]]
    covariances = np.array(answer["covariances"])[0] if kind == "tied" else np.array(answer["covariances"])
    components = len(means)
    # A start well away from the optimum: every mean moved by about half a standard deviation in each direction, equal
    # weights, a quarter of the covariance of all the data.
    away = means + np.array([[0.15, -2.5], [-0.15, 2.5], [0.15, 2.5]])[:components]
    spread = np.cov(x.T) / 4
    start = np.diagonal(spread) if kind == "diagonal" else spread
    start = start if kind == "tied" else np.stack([start] * components)
    path = analytic.gaussian_mixture(x, away, start, np.full(components, 1 / components), steps=600, covariance=kind)
    assert path.log_likelihood[0] < answer["loglik"] - 50
    if model == "VVV2":
        prints_as(path.log_likelihood[-1], "-1130.264")
    close(path.log_likelihood[-1], answer["loglik"])
    close(path.params["means"][-1], means, SOLVERS)
    close(path.params["covariances"][-1], covariances, SOLVERS)
    close(path.params["weights"][-1], answer["weights"], SOLVERS)


MODELS = [f"{variance}{components}" for variance in "EV" for components in range(1, 7)]


def check_galaxies(model: str) -> None:
    """Roeder (1990) JASA 85:617: every interior maximum that Newton's method found is a fixed point of EM."""
    answer, x = expected("galaxies")["golden"][model], load("galaxies")["x"]
    tied = answer["equal_variance"]
    for maximum in answer["maxima"]:
        sds = maximum["sds"][0] if tied else maximum["sds"]
        path = analytic.normal_mixture(x, maximum["means"], sds, maximum["weights"], steps=5, tied=tied)
        close(path.log_likelihood, np.full(6, maximum["loglik"]))
        for name, want in {"means": maximum["means"], "sds": sds, "weights": maximum["weights"]}.items():
            close(path.params[name][-1], want, SOLVERS)


GALAXY_STARTS = {"E2": [10, 22], "E3": [10, 21, 33], "V2": [10, 22], "V3": [10, 21, 33], "V4": [10, 20, 22, 33]}


def check_galaxies_from_afar(model: str) -> None:
    """The highest interior maximum of each, from round means and one standard deviation for all."""
    answer, x = expected("galaxies")["golden"][model], load("galaxies")["x"]
    means, best = np.array(GALAXY_STARTS[model], dtype=float), answer["maxima"][0]
    tied = answer["equal_variance"]
    sds: npt.ArrayLike = 2.0 if tied else np.full(len(means), 2.0)
    path = analytic.normal_mixture(x, means, sds, np.full(len(means), 1 / len(means)), steps=1000, tied=tied)
    assert path.log_likelihood[0] < best["loglik"] - 5
    close(path.log_likelihood[-1], best["loglik"])
    close(path.params["means"][-1], best["means"], SOLVERS)
    close(np.atleast_1d(path.params["sds"][-1]), best["sds"], SOLVERS)
    close(path.params["weights"][-1], best["weights"], SOLVERS)


CHECKS: dict[str, Callable[[], None]] = {
    "notebook": check_notebook_gaussians,
    **{f"faithful {model}": partial(check_faithful, model) for model in ("VVV2", "EEE3", "EEE2", "VVV3", "VVI2")},
    **{f"galaxies {model}": partial(check_galaxies, model) for model in MODELS},
    **{f"galaxies {model} from afar": partial(check_galaxies_from_afar, model) for model in GALAXY_STARTS},
}


@pytest.mark.parametrize("name", CHECKS)
def test_agrees(name: str) -> None:
    """The derivation agrees with the literature."""
    CHECKS[name]()


class AboutTheOldMean:
    """Deviations from the mean of the step before, as in the notebook: a faulty `normal.squared_deviations`."""

    def __init__(self) -> None:
        """Begin each run at the notebook's start."""
        self.old = np.array(NOTEBOOK[0])

    def __call__(self, x: Array, gamma: Array, means: Array) -> Array:
        """Return the deviations from the old means, and remember the new ones."""
        old, self.old = self.old, means
        return np.asarray((gamma * (x - old[:, None]) ** 2).sum(axis=1))


def test_notebook_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second notebook's own loop takes each deviation from the old mean: other iterates, and its printed ones."""
    case, x = expected("notebook_gaussians"), redrawn_gaussians()
    monkeypatch.setattr(normal, "squared_deviations", AboutTheOldMean())
    path = analytic.normal_mixture(x, *NOTEBOOK, steps=40, estimate_weights=False)
    close(notebook_table(path), column(case["as_written"], *COLUMNS))
    close(path.log_likelihood, column(case["as_written"], "loglik"))
    for value, name in zip(notebook_table(path)[20], COLUMNS, strict=True):
        assert abs(value - case["published"][name]) <= printed("0.00001")


def average_of_covariances(scatter: Array, mass: Array, _: str) -> Array:
    """Average the components' covariances, each counting the same whatever its weight."""
    return np.asarray((scatter / mass[:, None, None]).mean(axis=0))


def unbiased(scatter: Array, mass: Array, _: str) -> Array:
    """Divide by one degree of freedom less for each component."""
    return np.asarray(scatter / (mass - 1)[:, None, None])


def unbiased_pooled(scatter: Array, mass: Array, _: str) -> Array:
    """Divide the pooled scatter by one degree of freedom less for each component."""
    return np.asarray(scatter.sum(axis=0) / (mass.sum() - len(mass)))


def a_thousandth_more(squares: Array, mass: Array, *, tied: bool) -> Array:
    """Return standard deviations 0.1 % too large."""
    return 1.001 * np.sqrt(squares.sum() / mass.sum() if tied else squares / mass)


FAULTS: dict[str, tuple[Any, str, Callable[..., Array], str]] = {
    "deviation from the old mean": (normal, "squared_deviations", AboutTheOldMean(), "notebook"),
    "scale 0.1 % too large": (normal, "standard_deviations", a_thousandth_more, "galaxies V3"),
    "tied scale 0.1 % too large": (normal, "standard_deviations", a_thousandth_more, "galaxies E2 from afar"),
    "tied: average of covariances": (gaussian, "from_scatters", average_of_covariances, "faithful EEE3"),
    "tied: unbiased": (gaussian, "from_scatters", unbiased_pooled, "faithful EEE2"),
    "full: unbiased": (gaussian, "from_scatters", unbiased, "faithful VVV2"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in one formula fails its check."""
    module, formula, fault, check = FAULTS[name]
    CHECKS[check]()
    monkeypatch.setattr(module, formula, fault)
    with pytest.raises(AssertionError):
        CHECKS[check]()
