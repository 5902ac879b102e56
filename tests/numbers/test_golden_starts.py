"""Likelihoods with several maxima: restarts find the best interior one that is known, from a stated number of starts.

The maxima of the galaxies, with how often random EM starts reached them, are in `numbers/golden/galaxies.json`.
"""

from functools import partial

import pytest
from em_pyro.models import gaussian_mixture, latent_classes
from em_pyro.models.data import load
from oracles.agreement import close, expected
from oracles.answers import table
from oracles.tolerances import SOLVERS
from torch import tensor

from em_pyro import EM
from em_pyro.fit.starting import starts

STARTS = 20
"""Of the galaxies; each takes some hundredths of a second."""


def galaxies(key: str) -> float:
    """Fit the galaxies from random starts: how much lower the best of them is than the best known maximum."""
    best = expected("galaxies")["golden"][key]
    model = partial(gaussian_mixture.univariate, tied=best["equal_variance"])
    fit = EM(model, starts=STARTS, max_steps=3000).fit(tensor(load("galaxies")["x"]), best["k"])
    assert fit.converged
    lower: float = best["maxima"][0]["loglik"] - fit.log_likelihood
    return lower


@pytest.mark.parametrize("key", [f"{kind}{k}" for kind in "EV" for k in range(1, 7)])
def test_galaxies(key: str) -> None:
    """One to six components of equal (E) or unequal (V) variance; with V the likelihood is unbounded elsewhere."""
    assert galaxies(key) < SOLVERS * 200


def test_a_small_group_would_be_swamped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared by all states equally, the rest of a drawn weight hides seven galaxies of 82 from every start."""
    even = starts._share
    monkeypatch.setattr(starts, "_share", lambda engine, name, index, rows: even(engine, name, index, rows**0))
    assert galaxies("V2") > 0.1


def test_carcinoma() -> None:
    """Four classes: 4 of 12 random starts of the reference reached the best of five maxima."""
    verdicts = table("carcinoma", *"ABCDEFG").long() - 1
    want = expected("carcinoma")["golden"]["4"]["loglik"]
    fit = EM(latent_classes.latent_classes, starts=12, acceleration="squarem", tol=1e-9).fit(verdicts, 4)
    assert fit.converged
    close(fit.log_likelihood, want, SOLVERS)
