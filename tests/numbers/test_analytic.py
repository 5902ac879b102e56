"""Hand-derived EM for discrete data against published iterations and independently computed optima.

Every check is a function, so that it can be run a second time with a fault planted in the derivation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from oracles.agreement import Array, close, column, expected, outside, prints_as
from oracles.tolerances import SOLVERS, printed

from em_pyro import analytic
from em_pyro.analytic import counts, hmm, linkage

# Do & Batzoglou (2008) Nature Biotechnology 26:897-899, figure 1b: five sequences of ten tosses.
COINS = [5, 9, 8, 4, 7]
FREE: dict[str, Any] = {"steps": 200, "estimate_weights": True}
KNOWN: dict[str, Any] = {"steps": 20, "estimate_weights": False}


def check_coins() -> None:
    """Figure 1b: the posterior weights of coin A, the biases after one iteration and after ten; then the optimum."""
    path = analytic.coin_mixture(COINS, 10, [0.6, 0.5], [0.5, 0.5], **KNOWN)
    first = analytic.coin_mixture(COINS, 10, [0.6, 0.5], [0.5, 0.5], steps=0, estimate_weights=False)
    prints_as(first.responsibilities[0], "0.45 0.80 0.73 0.35 0.65")
    prints_as(path.params["bias"][1], "0.71 0.58")
    prints_as(path.params["bias"][10], "0.80 0.52")
    close(path.params["weights"], np.full((21, 2), 0.5))
    # Newton on the observed log-likelihood, 40 digits; without and with the binomial coefficients.
    close(path.params["bias"][-1], [0.796789066922647, 0.5195831201451351], SOLVERS)
    close(path.log_likelihood[-1] - path.log_constant, -31.570200235996904)
    close(path.log_likelihood[-1], -9.7969242922216)
    # The same with the mixing weight free, from its own Newton optimum.
    free = analytic.coin_mixture(COINS, 10, [0.6, 0.5], [0.5, 0.5], **FREE)
    close(free.params["bias"][-1], [0.7933676496127503, 0.5139165912136519], SOLVERS)
    close(free.params["weights"][-1, 0], 0.5227513168968528, SOLVERS)
    close(free.log_likelihood[-1] - free.log_constant, -31.568694899973345)


def check_coins_table() -> None:
    """Twenty iterations in 40-digit arithmetic."""
    case = expected("coins")
    table = case["iteration_table"]
    path = analytic.coin_mixture(COINS, 10, [0.6, 0.5], [0.5, 0.5], **KNOWN)
    close(path.params["bias"], column(table, "theta_A", "theta_B"))
    close(path.log_likelihood - path.log_constant, column(table, "loglik_sequences"))
    close(path.responsibilities[0], case["weight_A_at_the_last"])


def check_notebook_coins() -> None:
    """A. Riley's first notebook (2018, ajcr/em-explanation): sequences of unequal length, eleven printed rows."""
    case, tosses = expected("notebook_coins"), outside("notebook_coins")
    heads, flips = tosses["heads"], tosses["n"]
    path = analytic.coin_mixture(heads, flips, [0.51, 0.001], [0.5, 0.5], **KNOWN)
    for row, bias in zip(case["published"]["iterates"], path.params["bias"][:11], strict=True):
        assert np.all(np.abs(bias - row) <= printed("0.00001"))
    close(path.params["bias"], column(case["iteration_table"], "theta_A", "theta_B"))
    close(path.log_likelihood - path.log_constant, column(case["iteration_table"], "loglik_sequences"))
    tenth = analytic.coin_mixture(heads, flips, [0.51, 0.001], [0.5, 0.5], steps=10, estimate_weights=False)
    close(tenth.responsibilities[0], case["published"]["weight_A_at_iteration_10"])


def check_linkage() -> None:
    """Dempster, Laird & Rubin (1977), table 1, and the root of `197 p^2 - 15 p - 68`."""
    path = analytic.genetic_linkage([125, 18, 20, 34], 0.5, steps=30)
    iterates = "0.608247423 0.624321051 0.626488879 0.626777323 0.626815632 0.626820719 0.626821395 0.626821484"
    # One unit in the last digit, not half: the second and seventh printed iterates are wrongly rounded there.
    prints_as(path.params["p"][1:9], iterates, units=2)
    p = (15 + np.sqrt(53809)) / 394
    errors = path.params["p"][:8] - p
    prints_as(errors[1:] / errors[:-1], "0.1465 0.1346 0.1330 0.1328 0.1328 0.1328 0.1328")
    close(path.params["p"][-1], p)
    close(path.log_likelihood[-1] - path.log_constant, -205.71588704589828)
    close(path.log_likelihood[-1], -7.548657516332017)
    close(path.responsibilities[:, 0], [2 / (2 + p), p / (2 + p)])


def check_linkage_table() -> None:
    """Twenty-four iterations in 30-digit arithmetic."""
    table = expected("linkage")["iteration_table"]
    path = analytic.genetic_linkage([125, 18, 20, 34], 0.5, steps=24)
    close(path.params["p"], column(table, "p"))
    close(path.log_likelihood - path.log_constant, column(table, "loglik_without_constant"))


# Hasselblad (1969) JASA 64:1459-1471: days with 0, 1, ... 9 deaths of women over eighty in the London Times, 1910-1912.
DEATHS = np.repeat(np.arange(10), [162, 267, 271, 185, 111, 61, 27, 8, 3, 1])


def check_deaths() -> None:
    """The optimum printed by Hasselblad and by the tests of SQUAREM (Varadhan), and a 25-digit root of the score."""
    path = analytic.poisson_mixture(DEATHS, [1.0, 2.5], [0.3, 0.7], steps=4000)
    answer = np.array([path.params["weights"][-1, 0], *path.params["rates"][-1], path.log_likelihood[-1]])
    prints_as(answer, "0.3599 1.256 2.663 -1989.946")
    close(answer[:3], [1 - 0.640114602991, 1.2560951012662, 2.6634043566619], SOLVERS)
    close(answer[:3], [0.3598853969849348, 1.2560951012243379, 2.6634043566324726], SOLVERS)
    close(answer[3], -1989.9458598829642)


def check_deaths_table() -> None:
    """A slow path (rate 0.99567), to its 4000th iteration."""
    table = expected("london_deaths")["iteration_table"]
    path = analytic.poisson_mixture(DEATHS, [1.0, 2.5], [0.3, 0.7], steps=4000)
    steps = [row["iter"] for row in table]
    close(path.params["rates"][steps], column(table, "mu1", "mu2"))
    close(path.params["weights"][steps, 0], column(table, "p"))
    close(path.log_likelihood[steps], column(table, "loglik"))


# Earthquakes of magnitude 7 or more in the world, 1900-2006: Zucchini & MacDonald (2009), table 1.1.
EARTHQUAKES = """
13 14 8 10 16 26 32 27 18 32 36 24 22 23 22 18 25 21 21 14 8 11 14 23 18 17 19 20 22 19 13 26 13 14 22 24 21 22 26 21
23 24 27 41 31 27 35 26 28 36 39 21 17 22 17 19 15 34 10 15 22 18 15 20 15 22 19 16 30 27 29 23 20 16 21 21 25 16 18 15
18 14 10 15 8 15 6 11 8 7 18 16 13 12 13 20 15 16 12 18 15 16 13 15 16 11 11""".split()

TABLE_4_1 = {
    0: "0.1 0.1 10.0 30.0 0.5 413.27542",
    1: "0.138816 0.11622 13.742 24.169 0.99963 343.76023",
    2: "0.11551 0.10079 14.09 24.061 1.0 343.13618",
    30: "0.071653 0.11895 15.419 26.014 1.0 341.87871",
    50: "0.071626 0.11903 15.421 26.018 1.0 341.8787",
}
TABLE_4_2 = {
    0: "10.0 20.0 30.0 0.33333 0.33333 342.90781",
    1: "11.699 19.03 29.741 0.92471 0.07487 332.12143",
    2: "12.265 19.078 29.581 0.99588 0.00412 330.63689",
    30: "13.134 19.713 29.71 1.0 0.0 328.52748",
}


def earthquakes(states: int, steps: int) -> analytic.ParameterPath:
    """Run Baum-Welch from the start of the book's tables: 0.1 off the diagonal, any first state equally likely."""
    transition = np.full((states, states), 0.1) + np.eye(states) * (1 - 0.1 * states)
    rates = [10.0, 30.0] if states == 2 else [10.0, 20.0, 30.0]
    y = np.array(EARTHQUAKES, dtype=float)
    return analytic.poisson_hmm(y, rates, transition, np.full(states, 1 / states), steps=steps)


def check_earthquakes() -> None:
    """Zucchini & MacDonald (2009), tables 4.1 and 4.2, row by row; then the optimum at the vertex of `initial`."""
    two, three = earthquakes(2, steps=200), earthquakes(3, steps=200)
    for step, row in TABLE_4_1.items():
        here = two.at(step)
        jumps = [here["transition"][0, 1], here["transition"][1, 0]]
        prints_as([*jumps, *here["rates"], here["initial"][0], -two.log_likelihood[step]], row)
    for step, row in TABLE_4_2.items():
        here = three.at(step)
        prints_as([*here["rates"], *here["initial"][:2], -three.log_likelihood[step]], row)
    prints_as(three.params["transition"][-1], "0.9393 0.0321 0.0286 0.0404 0.9064 0.0532 0.0000 0.1903 0.8097")
    close(two.log_likelihood[-1], -341.87870101171933)
    close(two.params["rates"][-1], [15.42076190299801, 26.018235666684262], SOLVERS)
    close(three.log_likelihood[-1], -328.5274833802026)
    close(three.params["rates"][-1], [13.133761686594875, 19.71316407899786, 29.70972332546639], SOLVERS)


def check_earthquakes_table(states: int) -> None:
    """A hundred iterations of an independent Baum-Welch."""
    table = expected("earthquakes_iterations")[{2: "two_states", 3: "three_states"}[states]]
    path, steps = earthquakes(states, steps=100), [row["iter"] for row in table]
    for name, theirs in {"rates": "lam", "transition": "transition", "initial": "initial"}.items():
        close(path.params[name][steps], column(table, theirs))
    close(path.log_likelihood[steps], column(table, "loglik"))


def check_carcinoma(classes: int) -> None:
    """Agresti (2002), table 13.1, in latent classes: as in Linzer & Lewis (2011), and an independent EM with KKT."""
    answer, verdicts = expected("carcinoma")["golden"][str(classes)], outside("carcinoma")
    x = np.stack([verdicts[item] for item in "ABCDEFG"], axis=1) - 1.0
    probs = np.array([[row[1] for row in answer["item_probs"][item]] for item in "ABCDEFG"]).T
    path = analytic.bernoulli_mixture(x, 0.8 * probs + 0.15, np.full(classes, 1 / classes), steps=1500)
    published = {2: "-317.2568", 3: "-293.705"}
    if classes in published:
        prints_as(path.log_likelihood[-1], published[classes])
    assert path.log_likelihood[0] < answer["loglik"] - 1
    close(path.log_likelihood[-1], answer["loglik"], SOLVERS)
    if classes < 4:  # Four classes creep to their boundary: the likelihood is there long before the probabilities.
        close(path.params["probs"][-1], probs, SOLVERS)
        close(path.params["weights"][-1], answer["class_shares"], SOLVERS)


CHECKS: dict[str, Callable[[], None]] = {
    "coins": check_coins,
    "coins table": check_coins_table,
    "notebook coins": check_notebook_coins,
    "linkage": check_linkage,
    "linkage table": check_linkage_table,
    "deaths": check_deaths,
    "deaths table": check_deaths_table,
    "earthquakes": check_earthquakes,
    "earthquakes table 2": partial(check_earthquakes_table, 2),
    "earthquakes table 3": partial(check_earthquakes_table, 3),
    **{f"carcinoma {classes}": partial(check_carcinoma, classes) for classes in (1, 2, 3, 4)},
}


@pytest.mark.parametrize("name", CHECKS)
def test_agrees(name: str) -> None:
    """The derivation agrees with the literature."""
    CHECKS[name]()


def mean_of_ratios(gamma: Array, heads: Array, flips: Array) -> Array:
    """Average the fractions of heads: right for sequences of equal length only."""
    return np.asarray(gamma @ (heads / flips) / gamma.sum(axis=1))


def no_constant(values: Array) -> Array:
    """Forget `log n!`."""
    return np.zeros_like(values)


def columns_for_rows(transitions: Array) -> Array:
    """Normalise the expected transitions over the state left, not the state entered."""
    return np.asarray(transitions / transitions.sum(axis=0))


def smoothed(transitions: Array) -> Array:
    """Add a thousandth of a transition to every cell."""
    more = transitions + 1e-3
    return np.asarray(more / more.sum(axis=1)[:, None])


def one_quarter(p: Array) -> Array:
    """Give the first cell the probability `1/2 + p/2`."""
    return np.array([0.5 + p / 2, (1 - p) / 4, (1 - p) / 4, p / 4])


def shrunk(gamma: Array, yes: Array, answered: Array) -> Array:
    """Add a thousandth of a yes to every cell."""
    return (gamma @ yes + 1e-3) / (gamma @ answered + 2e-3)


FAULTS: dict[str, tuple[Any, str, Callable[..., Array], str]] = {
    "mean of ratios": (counts, "pooled_bias", mean_of_ratios, "notebook coins"),
    "no binomial coefficient": (counts, "log_factorial", no_constant, "coins"),
    "no factorial": (counts, "log_factorial", no_constant, "deaths table"),
    "transitions by column": (hmm, "transition_rows", columns_for_rows, "earthquakes"),
    "transitions smoothed": (hmm, "transition_rows", smoothed, "earthquakes table 3"),
    "wrong cell": (linkage, "cell_probabilities", one_quarter, "linkage"),
    "shrunken items": (counts, "item_probabilities", shrunk, "carcinoma 2"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in one formula fails its check."""
    module, formula, fault, check = FAULTS[name]
    CHECKS[check]()
    monkeypatch.setattr(module, formula, fault)
    with pytest.raises(AssertionError):
        CHECKS[check]()


def test_equal_lengths_hide_a_mean_of_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten tosses each the wrong pooling is no fault, which is why a case of unequal lengths is needed."""
    monkeypatch.setattr(counts, "pooled_bias", mean_of_ratios)
    check_coins()
