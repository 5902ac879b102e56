"""The table: what is fitted, by whom, and for how many iterations."""

from __future__ import annotations

from collections.abc import Mapping

from . import by_hand, floor, ours, partial, peers, problem
from .case import Case, missing
from .ours import Contender
from .problem import Problem

FLOOR = "hand-written torch"
SKLEARN, STEPMIX, HMMLEARN, MIXLE = "scikit-learn", "StepMix", "hmmlearn", "mixle"
STATSMODELS, IN_TORCH = "statsmodels", "em_pyro, without numba"
FULL: Mapping[str, Contender] = {
    "em_pyro": ours.full,
    SKLEARN: peers.sklearn_full,
    "pomegranate": peers.pomegranate,
    MIXLE: peers.mixle_full,
    FLOOR: floor.full,
}
DIAGONAL: Mapping[str, Contender] = {
    "em_pyro": ours.diagonal,
    SKLEARN: peers.sklearn_diagonal,
    MIXLE: peers.mixle_diagonal,
    FLOOR: floor.diagonal,
}
ANSWERS: Mapping[str, Contender] = {STEPMIX: peers.stepmix, MIXLE: peers.mixle_answers, FLOOR: floor.answers}
SVI = "Adam on TraceEnum_ELBO"
BY_HAND = "NumPy by hand"
NUMPY, TUNED = "NumPy and SciPy by hand", "NumPy by hand, tuned"
COINS: Mapping[str, Contender] = {NUMPY: floor.numpy_coins, TUNED: floor.numpy_coins_tuned, FLOOR: floor.coins}


def _classes() -> Problem:
    return problem.answers(100_000, 20, 5)


CASES: Mapping[str, Case] = {
    "gmm_10k": Case(
        "full GMM, 10k x 2, K=3",
        lambda: problem.gaussian(10_000, 2, 3),
        20,
        220,
        FULL | {"mclust": missing("mclust")},
        (SKLEARN, 4.5),
        quick=True,
    ),
    "gmm_100k": Case(
        "full GMM, 100k x 10, K=10",
        lambda: problem.gaussian(100_000, 10, 10),
        5,
        25,
        FULL,
        (SKLEARN, 5.0),
        quick=True,
    ),
    "gmm_1m": Case("full GMM, 1M x 10, K=10", lambda: problem.gaussian(1_000_000, 10, 10), 2, 6, FULL, (SKLEARN, 7.0)),
    "gmm_wide": Case(
        "full GMM, 100k x 50, K=20", lambda: problem.gaussian(100_000, 50, 20), 2, 6, FULL, (SKLEARN, 2.3)
    ),
    "gmm_few": Case("full GMM, 5k x 50, K=3", lambda: problem.gaussian(5_000, 50, 3), 5, 55, FULL, (SKLEARN, 1.5)),
    "gmm_200": Case("full GMM, 5k x 200, K=3", lambda: problem.gaussian(5_000, 200, 3), 2, 7, FULL, (SKLEARN, 1.5)),
    "diag_100k": Case(
        "diagonal GMM, 100k x 20, K=20",
        lambda: problem.gaussian(100_000, 20, 20, diagonal=True),
        5,
        25,
        DIAGONAL,
        (SKLEARN, 2.3),
    ),
    "diag_1m": Case(
        "diagonal GMM, 1M x 20, K=20",
        lambda: problem.gaussian(1_000_000, 20, 20, diagonal=True),
        2,
        6,
        DIAGONAL,
        (SKLEARN, 5.0),
    ),
    "apart_full": Case(
        "full GMM, 50k x 10, K=10, clusters 60 standard deviations apart",
        lambda: problem.gaussian(50_000, 10, 10, gap=60.0),
        3,
        23,
        {"em_pyro": ours.full, "scikit-learn": peers.sklearn_full},
        (SKLEARN, 2.0),
    ),
    "apart_diag": Case(
        "diagonal GMM, 20k x 5, K=5, clusters 60 standard deviations apart",
        lambda: problem.gaussian(20_000, 5, 5, diagonal=True, gap=60.0),
        3,
        53,
        {"em_pyro": ours.diagonal, "scikit-learn": peers.sklearn_diagonal},
        (SKLEARN, 2.0),
    ),
    "tiny": Case(
        "five sequences of coins, K=2: the overhead of an iteration",
        lambda: problem.coins(5, 2),
        50,
        550,
        {"em_pyro": ours.coins, TUNED: floor.numpy_coins_tuned},
        quick=True,
    ),
    "coins": Case(
        "coins, 100k sequences, K=5",
        lambda: problem.coins(100_000, 5),
        10,
        160,
        {"em_pyro": ours.coins, **COINS},
        (NUMPY, 100.0),
        quick=True,
    ),
    "coins_rows": Case(
        "coins, equal rows kept apart",
        lambda: problem.coins(100_000, 5),
        10,
        60,
        {"em_pyro": ours.coins_row_by_row, **COINS},
        (NUMPY, 9.0),
    ),
    "classes": Case(
        "latent classes, 100k x 20 binary, K=5, .to_event(1)",
        _classes,
        5,
        35,
        {"em_pyro": ours.answers, **ANSWERS},
        (STEPMIX, 4.0),
        quick=True,
    ),
    "classes_loop": Case(
        "latent classes, a Python loop over items",
        _classes,
        5,
        35,
        {"em_pyro": ours.answers_loop, **ANSWERS},
        (STEPMIX, 4.0),
    ),
    "classes_zoo": Case(
        "latent classes, a loop of Categorical items",
        _classes,
        5,
        35,
        {"em_pyro": ours.answers_zoo, **ANSWERS},
        (STEPMIX, 4.0),
    ),
    "words": Case(
        "two columns of 500 categories, 20k rows, K=5",
        lambda: problem.words(20_000, 500, 5),
        5,
        105,
        {"em_pyro": ours.words, BY_HAND: floor.numpy_words},
        (BY_HAND, 1 / 3),
        quick=True,
    ),
    "topics": Case(
        "topics (pLSA): 20k words out of 800 in 200 documents, K=6",
        lambda: problem.topics(20_000, 200, 800, 6),
        5,
        105,
        {"em_pyro": ours.topics, BY_HAND: floor.numpy_topics},
        (BY_HAND, 1 / 3),
        quick=True,
    ),
    "factors": Case(
        "factor analysis, 100k x 50, k=5",
        lambda: problem.factors(100_000, 50, 5),
        5,
        25,
        {"em_pyro": ours.factors, SKLEARN: peers.sklearn_factors},
        (SKLEARN, 100.0),
        tolerance=None,
    ),
    "factors_holes": Case(
        "factor analysis, 100k x 50, k=5, 5 % missing",
        lambda: problem.factors(100_000, 50, 5, missing=0.05),
        2,
        7,
        {"em_pyro": ours.factors, BY_HAND: by_hand.factors_with_holes},
        (BY_HAND, 1.0),
    ),
    "system": Case(
        "linear dynamical system, T=10,000, state 4, observed 10",
        lambda: problem.system(10_000, 10, 4),
        2,
        12,
        {"em_pyro": ours.system, IN_TORCH: ours.system_in_torch, STATSMODELS: peers.statsmodels_system},
        (STATSMODELS, 5.0),
    ),
    "linear": Case(
        "linear regressions, 100k x 10, K=3",
        lambda: problem.regressions(100_000, 10, 3),
        5,
        35,
        {"em_pyro": ours.linear, FLOOR: by_hand.lines},
        (FLOOR, 1 / 1.4),
        quick=True,
    ),
    "poisson": Case(
        "Poisson regressions, 100k x 5, K=3",
        lambda: problem.regressions(100_000, 5, 3, link="log"),
        3,
        13,
        {"em_pyro": ours.poisson, BY_HAND: by_hand.numpy_poisson},
        (BY_HAND, 1 / 1.4),
        quick=True,
    ),
    "logistic": Case(
        "logistic regressions, 100k x 5, K=3",
        lambda: problem.regressions(100_000, 5, 3, link="logit"),
        3,
        13,
        {"em_pyro": ours.logistic, BY_HAND: by_hand.numpy_logistic},
        (BY_HAND, 1 / 1.4),
        quick=True,
    ),
    "hmm_many": Case(
        "HMM, 1000 sequences of 100 steps, S=10, D=5, pyro.markov loop",
        lambda: problem.chains(1000, 100, 10, 5),
        2,
        12,
        {"em_pyro": ours.hmm_loop, HMMLEARN: peers.hmmlearn, MIXLE: peers.mixle_chain},
        (HMMLEARN, 3.0),
    ),
    "hmm_site": Case(
        "HMM, 1000 sequences of 100 steps, S=10, D=5, dist.DiscreteHMM",
        lambda: problem.chains(1000, 100, 10, 5),
        2,
        12,
        {"em_pyro": ours.hmm_site, HMMLEARN: peers.hmmlearn},
        (HMMLEARN, 3.0),
        tolerance=None,
    ),
    "hmm_long": Case(
        "HMM, one series of 100,000 steps, S=5, D=2, dist.DiscreteHMM",
        lambda: problem.chains(1, 100_000, 5, 2),
        2,
        12,
        {"em_pyro": ours.hmm_site, HMMLEARN: peers.hmmlearn},
        (HMMLEARN, 1.0),
        tolerance=None,
    ),
    "hmm_symbols": Case(
        "HMM, one series of 100,000 steps, S=10, 50 symbols, dist.DiscreteHMM",
        lambda: problem.symbols(1, 100_000, 10, 50),
        2,
        12,
        {"em_pyro": ours.hmm_symbols, HMMLEARN: peers.hmmlearn_symbols},
        (HMMLEARN, 1.0),
        tolerance=None,
    ),
    "noisy_or": Case(
        "noisy-or, 300 x 4, three causes, links that go to 0; a step",
        lambda: partial.symptoms(300),
        10,
        40,
        {"em_pyro": partial.by_em(partial.noisy_or), SVI: partial.by_svi(partial.noisy_or)},
        (SVI, 0.2),
    ),
    "n_mixture": Case(
        "N-mixture, 60 animals at most; a step",
        lambda: partial.animals(12, 60),
        10,
        40,
        {"em_pyro": partial.by_em(partial.n_mixture), SVI: partial.by_svi(partial.n_mixture)},
        (SVI, 0.2),
    ),
    "items_on_a_grid": Case(
        "two-parameter item response on a grid, 5,000 x 20, 15 nodes; a step",
        lambda: partial.items(5_000, 20),
        10,
        40,
        {"em_pyro": partial.by_em(partial.on_a_grid), SVI: partial.by_svi(partial.on_a_grid)},
        (SVI, 0.2),
    ),
    "experts": Case(
        "experts, 500 x 2, K=3, gates linear in the covariates; a step",
        lambda: partial.two_lines(500),
        10,
        40,
        {"em_pyro": partial.by_em(partial.experts), SVI: partial.by_svi(partial.experts)},
        (SVI, 0.2),
    ),
    "experts_network": Case(
        "experts, 5,000 x 2, K=3, gates by a network of 8 hidden units; a step",
        lambda: partial.two_lines(5_000, hidden=8),
        10,
        40,
        {"em_pyro": partial.by_em(partial.experts), SVI: partial.by_svi(partial.experts)},
        (SVI, 0.2),
    ),
}


def find(name: str) -> Case:
    """Look a case up; `scale:N:D:K` is a full mixture of that size, fitted by us alone."""
    if not name.startswith("scale:"):
        return CASES[name]
    n, D, K = (int(part) for part in name.split(":")[1:])
    title = f"full GMM, {n} x {D}, K={K}"
    return Case(title, lambda: problem.gaussian(n, D, K), 2, 6, {"em_pyro": ours.full})
