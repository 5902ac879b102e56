"""Hand-derived EM against brute force, and against itself where two models are one."""

import ast
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.agreement import Array, close
from oracles.tolerances import SOLVERS

from em_pyro import analytic
from em_pyro.analytic import counts, gaussian

GENERATOR = np.random.default_rng(0)
NUMBERS = GENERATOR.normal([[0.0, 1.0, 2.0]], [[1.0, 2.0, 0.5]], size=(12, 3))
NUMBERS[6:] += 2.0
TALLIES = np.array([3.0, 1, 4, 1, 5, 9, 2, 6, 5, 0])
ITEMS = np.array([[1, 0, 1], [0, 0, 1], [np.nan, 1, 1], [1, np.nan, np.nan], [0, 1, 0], [1, 1, np.nan], [0, 0, 0]])
PROBS = np.array([[0.3, 0.6, 0.2], [0.7, 0.5, 0.9]])
MEANS = np.array([[0.0, 1.0, 1.5], [2.0, 2.5, 4.0]])
ROOT = np.array([[1.0, 0.0, 0.0], [0.4, 1.2, 0.0], [-0.3, 0.2, 0.8]])
START: dict[gaussian.Covariance, Array] = {
    "full": np.stack([ROOT @ ROOT.T, 2 * np.eye(3)]),
    "tied": ROOT @ ROOT.T,
    "diagonal": np.array([[1.0, 2.0, 0.5], [2.0, 1.0, 1.5]]),
    "spherical": np.array([1.0, 2.0]),
}
WEIGHTS = [0.4, 0.6]
CHAIN: dict[str, Any] = {"transition": [[0.7, 0.3], [0.2, 0.8]], "initial": [0.6, 0.4]}


def full(steps: int, kind: gaussian.Covariance = "full", **options: Any) -> analytic.ParameterPath:
    """Run the small Gaussian mixture of one kind of covariance."""
    x = options.pop("x", NUMBERS)
    return analytic.gaussian_mixture(x, MEANS, START[kind], WEIGHTS, steps=steps, covariance=kind, **options)


RUNS: dict[str, Callable[[int], analytic.ParameterPath]] = {
    "coins": lambda s: analytic.coin_mixture([5, 9, 2], [9, 9, 7], [0.6, 0.5], WEIGHTS, steps=s, estimate_weights=True),
    "Poisson": lambda s: analytic.poisson_mixture(TALLIES, [1.0, 5.0], WEIGHTS, steps=s),
    "items": lambda s: analytic.bernoulli_mixture(ITEMS, PROBS, WEIGHTS, steps=s),
    "normal": lambda s: analytic.normal_mixture(NUMBERS[:, 0], [0.0, 2.0], [1.0, 1.5], WEIGHTS, steps=s),
    "normal tied": lambda s: analytic.normal_mixture(NUMBERS[:, 0], [0.0, 2.0], 1.5, WEIGHTS, steps=s, tied=True),
    "full": lambda s: full(s),
    "tied": lambda s: full(s, "tied"),
    "diagonal": lambda s: full(s, "diagonal"),
    "spherical": lambda s: full(s, "spherical"),
    "chain": lambda s: analytic.poisson_hmm(TALLIES, [1.0, 5.0], **CHAIN, steps=s),
    "linkage": lambda s: analytic.genetic_linkage([125, 18, 20, 34], 0.5, steps=s),
}


def naive_densities(kind: gaussian.Covariance) -> Array:
    """Return `N(x_n | mu_k, C_k)` by the inverse and the determinant, shape `(K, N)`."""
    matrices: Any = {
        "full": START["full"],
        "tied": [START["tied"]] * 2,
        "diagonal": [np.diag(row) for row in START["diagonal"]],
        "spherical": [c * np.eye(3) for c in START["spherical"]],
    }[kind]
    rows = []
    for mean, matrix in zip(MEANS, matrices, strict=True):
        squares = [(x - mean) @ np.linalg.inv(matrix) @ (x - mean) for x in NUMBERS]
        rows.append(np.exp(-0.5 * np.array(squares)) / math.sqrt(np.linalg.det(2 * np.pi * np.asarray(matrix))))
    return np.array(rows)


def naive_gamma(densities: Array) -> Array:
    """Return the responsibilities by Bayes' rule, without logarithms."""
    joint = np.array(WEIGHTS)[:, None] * densities
    return np.asarray(joint / joint.sum(axis=0))


def check_gaussian_step(kind: gaussian.Covariance) -> None:
    """One step is the textbook's sums, written as loops."""
    path, densities = full(1, kind), naive_densities(kind)
    gamma = naive_gamma(densities)
    close(path.log_likelihood[0], np.log(WEIGHTS @ densities).sum())
    total, means, covariances = np.zeros((3, 3)), [], []
    for row in gamma:
        mean = sum(g * x for g, x in zip(row, NUMBERS, strict=True)) / sum(row)
        scatter = sum(g * np.outer(x - mean, x - mean) for g, x in zip(row, NUMBERS, strict=True))
        total += scatter
        means.append(mean)
        covariances.append(scatter / sum(row))
    want: Any = {
        "full": covariances,
        "tied": total / len(NUMBERS),
        "diagonal": [np.diag(c) for c in covariances],
        "spherical": [np.trace(c) / 3 for c in covariances],
    }[kind]
    close(path.params["means"][1], means)
    close(path.params["covariances"][1], want)
    close(path.params["weights"][1], gamma.mean(axis=1))


@pytest.mark.parametrize("kind", START)
def test_gaussian_step(kind: gaussian.Covariance) -> None:
    """Each kind of covariance agrees with the loops."""
    check_gaussian_step(kind)


def test_gaussian_step_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spherical variance not divided by the dimension, and a scatter about the old mean, are seen."""
    right = gaussian.scatters
    with monkeypatch.context() as patch:
        patch.setattr(gaussian, "from_scatters", lambda s, mass, kind: np.trace(s, axis1=1, axis2=2) / mass)
        with pytest.raises(AssertionError):
            check_gaussian_step("spherical")
    monkeypatch.setattr(gaussian, "scatters", lambda x, gamma, means: right(x, gamma, MEANS))
    for kind in START:
        with pytest.raises(AssertionError):
            check_gaussian_step(kind)


def check_items() -> None:
    """Missing answers summed out: every row's likelihood adds up over all ways to fill its blanks; then the sums."""
    path = RUNS["items"](1)
    density = np.ones((2, len(ITEMS)))
    for k, n in itertools.product(range(2), range(len(ITEMS))):
        blanks = np.isnan(ITEMS[n]).sum()
        total = 0.0
        for filling in itertools.product([0.0, 1.0], repeat=int(blanks)):
            row = ITEMS[n].copy()
            row[np.isnan(row)] = filling
            total += np.prod(np.where(row == 1, PROBS[k], 1 - PROBS[k]))
        density[k, n] = total
    gamma = naive_gamma(density)
    close(path.log_likelihood[0], np.log(WEIGHTS @ density).sum())
    for k, d in itertools.product(range(2), range(3)):
        seen = [n for n in range(len(ITEMS)) if not np.isnan(ITEMS[n, d])]
        want = sum(gamma[k, n] * ITEMS[n, d] for n in seen) / sum(gamma[k, n] for n in seen)
        close(path.params["probs"][1, k, d], want)


def test_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing answers are summed out; counting them as "no" is seen."""
    check_items()
    wrong = {"item_probabilities": lambda gamma, yes, answered: gamma @ yes / gamma.sum(axis=1)[:, None]}
    monkeypatch.setattr(counts, *wrong.popitem())
    with pytest.raises(AssertionError):
        check_items()


def test_chain_is_the_sum_over_paths() -> None:
    """Likelihood, posterior and one step of Baum-Welch from all 1,024 paths of ten states."""
    path, rates = RUNS["chain"](1), np.array([1.0, 5.0])
    transition, initial = np.array(CHAIN["transition"]), np.array(CHAIN["initial"])
    evidence, states, jumps = 0.0, np.zeros((2, len(TALLIES))), np.zeros((2, 2))
    for z in itertools.product([0, 1], repeat=len(TALLIES)):
        p = initial[z[0]] * math.prod(transition[i, j] for i, j in itertools.pairwise(z))
        p *= math.prod(
            math.exp(-rates[i]) * rates[i] ** y / math.factorial(int(y)) for i, y in zip(z, TALLIES, strict=True)
        )
        evidence += p
        for t, i in enumerate(z):
            states[i, t] += p
        for i, j in itertools.pairwise(z):
            jumps[i, j] += p
    close(path.log_likelihood[0], math.log(evidence))
    close(analytic.poisson_hmm(TALLIES, rates, **CHAIN, steps=0).responsibilities, states / evidence)
    close(path.params["initial"][1], states[:, 0] / evidence)
    close(path.params["transition"][1], jumps / jumps.sum(axis=1)[:, None])
    close(path.params["rates"][1], states @ TALLIES / states.sum(axis=1))


@pytest.mark.parametrize("name", RUNS)
def test_path(name: str) -> None:
    """The path begins at the start, has one entry a step, never falls, and can be taken up again from any point."""
    run = RUNS[name]
    path = run(25)
    assert all(len(values) == 26 for values in path.params.values())
    assert path.log_likelihood.shape == (26,)
    assert np.all(np.diff(path.log_likelihood) >= -1e-12 * np.abs(path.log_likelihood[1:]))
    assert path.log_likelihood[-1] > path.log_likelihood[0] + 0.01
    close(path.responsibilities.sum(axis=0), np.ones(path.responsibilities.shape[1]))
    close(run(0).log_likelihood[0], path.log_likelihood[0])
    for key, value in run(7).at(-1).items():
        close(value, path.at(7)[key])


def test_one_dimension_is_the_normal_mixture() -> None:
    """A multivariate mixture of dimension one follows the univariate one, whatever the kind of covariance."""
    x = NUMBERS[:, :1]
    for kind in START:
        tied = kind == "tied"
        shape = {"full": (2, 1, 1), "tied": (1, 1), "diagonal": (2, 1), "spherical": (2,)}[kind]
        variances = np.full(shape, 1.5)
        many = analytic.gaussian_mixture(x, [[0.0], [2.0]], variances, WEIGHTS, steps=20, covariance=kind)
        sds = np.sqrt(1.5) if tied else np.sqrt([1.5, 1.5])
        one = analytic.normal_mixture(x[:, 0], [0.0, 2.0], sds, WEIGHTS, steps=20, tied=tied)
        close(many.params["means"][..., 0], one.params["means"])
        close(many.params["covariances"].reshape(one.params["sds"].shape), one.params["sds"] ** 2)
        close(many.log_likelihood, one.log_likelihood)


def test_one_item_is_one_toss() -> None:
    """A latent class model with one item follows a mixture of coins tossed once."""
    heads = np.array([1.0, 0, 0, 1, 1])
    items = analytic.bernoulli_mixture(heads[:, None], [[0.3], [0.6]], WEIGHTS, steps=10)
    coins = analytic.coin_mixture(heads, 1, [0.3, 0.6], WEIGHTS, steps=10, estimate_weights=True)
    close(items.params["probs"][..., 0], coins.params["bias"])
    close(items.log_likelihood, coins.log_likelihood)


def test_a_chain_without_memory_is_a_mixture() -> None:
    """Where every row of the transitions is the initial law, states are independent draws."""
    mixture = analytic.poisson_mixture(TALLIES, [1.0, 5.0], WEIGHTS, steps=1)
    chain = analytic.poisson_hmm(TALLIES, [1.0, 5.0], [WEIGHTS, WEIGHTS], WEIGHTS, steps=1)
    close(chain.log_likelihood[0], mixture.log_likelihood[0])
    close(chain.params["rates"][1], mixture.params["rates"][1])


def check_common_offset() -> None:
    """Data far from zero lose nothing but what their own rounding loses."""
    here = full(10)
    there = analytic.gaussian_mixture(NUMBERS + 1e6, MEANS + 1e6, START["full"], WEIGHTS, steps=10)
    close(there.params["covariances"], here.params["covariances"], SOLVERS)
    close(there.params["means"] - 1e6, here.params["means"], SOLVERS)


def test_common_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scatter is centred before it is squared; a difference of squares is seen."""
    check_common_offset()

    def in_one_pass(x: Array, gamma: Array, means: Array) -> Array:
        return np.stack([(g[:, None] * x).T @ x - g.sum() * np.outer(m, m) for g, m in zip(gamma, means, strict=True)])

    monkeypatch.setattr(gaussian, "scatters", in_one_pass)
    with pytest.raises((AssertionError, ValueError)):
        check_common_offset()


def test_far_outlier() -> None:
    """A row whose every density underflows still has responsibilities."""
    path = analytic.normal_mixture([0.0, 1.0, 1e4], [0.0, 1.0], [1.0, 1.0], WEIGHTS, steps=0)
    close(path.responsibilities[:, 2], [0.0, 1.0])
    assert np.isfinite(path.log_likelihood).all()


def test_boundaries() -> None:
    """Probabilities of exactly 0 and 1 are ordinary; a structural zero stays one."""
    path = analytic.coin_mixture([0, 5, 5], 5, [0.0, 1.0], [0.5, 0.5], steps=3, estimate_weights=True)
    close(path.params["bias"][-1], [0.0, 1.0])
    close(path.params["weights"][-1], [1 / 3, 2 / 3])
    chain = analytic.poisson_hmm(TALLIES, [1.0, 5.0], [[0.8, 0.2], [0.0, 1.0]], [1.0, 0.0], steps=20)
    assert np.all(chain.params["transition"][:, 1] == [0.0, 1.0])
    assert np.all(chain.params["initial"] == [1.0, 0.0])


def test_options_change_the_path() -> None:
    """Known weights stay as they are; a tied scale is one number."""
    known = analytic.normal_mixture(NUMBERS[:, 0], [0.0, 2.0], [1.0, 1.0], WEIGHTS, steps=5, estimate_weights=False)
    free = analytic.normal_mixture(NUMBERS[:, 0], [0.0, 2.0], [1.0, 1.0], WEIGHTS, steps=5)
    close(known.params["weights"], np.tile(WEIGHTS, (6, 1)))
    assert np.abs(known.params["means"][-1] - free.params["means"][-1]).max() > SOLVERS
    assert RUNS["normal tied"](3).params["sds"].shape == (4,)
    close(full(5, estimate_weights=False).params["weights"], np.tile(WEIGHTS, (6, 1)))
    fixed = analytic.bernoulli_mixture(ITEMS, PROBS, WEIGHTS, steps=5, estimate_weights=False)
    close(fixed.params["weights"], np.tile(WEIGHTS, (6, 1)))


def test_arguments_are_left_alone() -> None:
    """No input is written to."""
    x, means, covariances = NUMBERS.copy(), MEANS.copy(), START["full"].copy()
    analytic.gaussian_mixture(x, means, covariances, WEIGHTS, steps=3)
    assert np.array_equal(x, NUMBERS)
    assert np.array_equal(means, MEANS)
    assert np.array_equal(covariances, START["full"])


def test_independence() -> None:
    """An oracle that shares code with what it judges is none: NumPy, the standard library and its own files only."""
    for file in Path(analytic.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{file.name} imports from outside its folder"
                names = [node.module or ""] if node.level == 0 else []
            for name in names:
                assert name.partition(".")[0] in {"numpy", *sys.stdlib_module_names}, f"{file.name} imports {name}"
