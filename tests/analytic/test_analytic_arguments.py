"""Bad arguments of the hand-derived EM: each is named, with what was expected and what was found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from em_pyro import analytic

WEIGHTS = [0.4, 0.6]
CHAIN = {"transition": [[0.7, 0.3], [0.2, 0.8]], "initial": [0.6, 0.4]}


def coin(**changes: Any) -> None:
    """Run the coins with some arguments changed."""
    arguments = {"heads": [5, 9], "flips": 10, "bias": [0.6, 0.5], "weights": [0.5, 0.5], "steps": 1}
    analytic.coin_mixture(**{**arguments, **changes}, estimate_weights=False)


def chain(**changes: Any) -> None:
    """Run the chain with some arguments changed."""
    analytic.poisson_hmm(**{"counts": [3, 1, 4], "rates": [1.0, 5.0], "steps": 1, **CHAIN, **changes})


def normals(**changes: Any) -> None:
    """Run a univariate mixture with some arguments changed."""
    arguments = {"x": [0.0, 1.0, 3.0], "means": [0.0, 3.0], "sds": [1.0, 1.0], "weights": WEIGHTS, "steps": 1}
    analytic.normal_mixture(**{**arguments, **changes})


def gaussians(**changes: Any) -> None:
    """Run a bivariate mixture with some arguments changed."""
    x, means = [[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]], [[0.0, 0.0], [2.0, 2.0]]
    arguments = {"x": x, "means": means, "covariances": [np.eye(2)] * 2, "weights": WEIGHTS, "steps": 1}
    analytic.gaussian_mixture(**{**arguments, **changes})


def items(answers: list[list[float]]) -> None:
    """Run one latent class on some answers."""
    analytic.bernoulli_mixture(answers, [[0.5] * len(answers[0])], [1.0], steps=1)


def linkage(counts: list[float], p: float) -> None:
    """Run the linkage model once."""
    analytic.genetic_linkage(counts, p, steps=1)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "ragged weights": (lambda: coin(weights=[1.0]), r"weights: expected an array of shape \(2,\), got \(1,\)"),
    "no data": (lambda: coin(heads=[]), r"heads: expected an array of shape \(any,\), got \(0,\)"),
    "too many heads": (lambda: coin(flips=[10, 8]), r"heads: expected no more heads than flips, got 9 at index \[1\]"),
    "half a head": (lambda: coin(heads=[5, 2.5]), r"heads: expected counts .* got 2.5 at index \[1\]"),
    "no tosses": (lambda: coin(heads=[0, 0], flips=0), "flips: expected at least one toss"),
    "bias": (lambda: coin(bias=[0.6, 1.5]), r"bias: expected probabilities in \[0, 1\], got 1.5 at index \[1\]"),
    "weights": (lambda: coin(weights=[0.5, 0.4]), "weights: expected probabilities that sum to one, got 0.9"),
    "zero weight": (
        lambda: coin(weights=[1.0, 0.0]),
        r"weights: expected positive probabilities, got 0 at index \[1\]",
    ),
    "impossible": (lambda: coin(bias=[0.0, 0.0]), "Observation 0 has probability zero under every component"),
    "steps": (lambda: coin(steps=-1), "steps: expected zero or more, got -1"),
    "fractional steps": (lambda: coin(steps=1.5), "steps: expected a whole number, got 1.5"),
    "not a number": (lambda: normals(x=[0.0, np.nan]), r"x: expected finite numbers, got nan at index \[1\]"),
    "scale": (lambda: normals(sds=[1.0, 0.0]), r"sds: expected positive numbers, got 0 at index \[1\]"),
    "tied scale": (lambda: normals(tied=True), r"sds: expected an array of shape \(\), got \(2,\)"),
    "a point": (lambda: normals(x=[0.0, 900.0], means=[0.0, 900.0]), "Component 0 has shrunk to a point"),
    "emptied": (lambda: normals(means=[0.0, 1e4]), "The weight of component 1 has fallen to zero"),
    "kind": (lambda: gaussians(covariance="round"), "covariance: expected one of .* got 'round'"),
    "singular": (
        lambda: gaussians(covariances=np.zeros((2, 2, 2))),
        "The covariance of component 0 is not positive definite",
    ),
    "asymmetric": (
        lambda: gaussians(covariances=[[[1.0, 0.5], [0.0, 1.0]]] * 2),
        "covariances: expected symmetric matrices",
    ),
    "item": (
        lambda: analytic.bernoulli_mixture([[2.0]], [[0.5]], [1.0], steps=1),
        "items: expected 0, 1 or NaN, got 2",
    ),
    "unanswered": (
        lambda: items([[1.0, np.nan]]),
        "items: item 1 has no answers",
    ),
    "rows": (lambda: chain(transition=[[0.7, 0.2], [0.5, 0.5]]), r"transition: .* sum to one, got 0.9 at index \[0\]"),
    "short": (lambda: chain(counts=[3]), "counts: expected two observations or more"),
    "states": (lambda: chain(initial=[1.0]), r"initial: expected an array of shape \(2,\), got \(1,\)"),
    "cells": (
        lambda: linkage([1, 2, 3], 0.5),
        r"counts: expected .* shape \(4,\), got \(3,\)",
    ),
    "p": (lambda: linkage([1, 2, 3, 4], 0.0), "p: expected a number above 0"),
    "p of one": (lambda: linkage([1, 2, 3, 4], 1.0), "counts: .* cannot occur where p is 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    """A bad argument is named with what was expected and what was found."""
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
