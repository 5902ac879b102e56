"""The zoo on poor data: an error that speaks of the data, or a named ending."""

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from em_pyro.models import (
    gaussian_mixture,
    hidden_markov,
    latent_classes,
    poisson_mixture,
    positive,
    regressions,
    zero_inflated,
)
from oracles.agreement import close
from oracles.refusals import refuse
from oracles.tolerances import IDENTITY

from em_pyro import EM

G = torch.linspace(-1.0, 1.0, 30, dtype=torch.float64)
TABLE = torch.stack([G, G.square(), torch.ones_like(G)], 1)
ANSWERS = (torch.arange(90).reshape(30, 3) * 7 % 5) % 3
HOLE = torch.where(torch.arange(30) == 4, torch.nan, G)
ENDLESS = torch.where(torch.arange(30) == 4, torch.inf, G)

REFUSED: dict[str, tuple[str, str, Any, tuple[Any, ...]]] = {
    "nan": ("data", r'Site "x": .*nan at index \(4,\)', gaussian_mixture.univariate, (HOLE,)),
    "inf": ("data", r'Site "x": .*inf at index \(4,\)', gaussian_mixture.univariate, (ENDLESS,)),
    "nan in a table": (
        "data", r'Site "x": .*nan at index \(4, 0\)', gaussian_mixture.full, (torch.stack([HOLE, G], 1),),
    ),
    "nan among responses": (
        "data", r'Site "y": .*nan at index \(4,\)', regressions.linear, (TABLE[:, [0, 2]], HOLE),
    ),
    "nan along a chain": ("data", r'Site "y_4": .*nan', hidden_markov.gaussian, (HOLE.reshape(1, -1),)),
    "nan among counts": ("data", r'Site "count": .*nan at index \(4,\)', zero_inflated.hurdle_poisson, (HOLE + 0,)),
    "no component": ("parameter", "components, one or more, got 0", gaussian_mixture.univariate, (G, 0)),
    "a fraction of a component": ("parameter", r"components.*got 1\.5", poisson_mixture.poisson_mixture, (G, 1.5)),
    "categories from -1": (
        "data", r'Site "answer_0": .*got -1 at index \(0,\)', latent_classes.latent_classes, (ANSWERS - 1,),
    ),
    "negative counts": ("data", r'Site "count": .*got -1\.0', poisson_mixture.poisson_mixture, (G.round(),)),
    "zeros": ("data", r'Site "x": .*got 0\.0 at index', positive.gamma, ((5 * G).abs().floor(),)),
    "complex": ("data", "expected real data, got torch.complex128", gaussian_mixture.univariate, (G + 1j,)),
    "no rows": ("data", "expected at least one row", gaussian_mixture.univariate, (G[:0],)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_cannot_be_used(name: str) -> None:
    """The error is about the data or the number of components, never about a start that was made of them."""
    kind, pattern, model, args = REFUSED[name]
    refuse(kind, pattern, model, *args, methods="fit")


@pytest.mark.parametrize("model", [gaussian_mixture.full, gaussian_mixture.diagonal, gaussian_mixture.full_covariance])
@pytest.mark.parametrize("x", [TABLE, torch.full((30, 2), 2.5, dtype=torch.float64)], ids=["constant", "identical"])
def test_data_without_spread(model: Any, x: torch.Tensor) -> None:
    """A scale collapses, and the ending says so."""
    fit = EM(model, max_steps=100).fit(x, 2)
    assert not fit.converged
    assert all(bool(torch.isfinite(value).all()) for value in fit.params.values())


@pytest.mark.parametrize("kind", ["array", "half", "whole numbers"])
def test_data_of_other_kinds(kind: str) -> None:
    """The start is made of them as of a tensor of real numbers."""
    x = 4 * torch.cat([G, G + 3])
    x = {"array": x, "half": x.half().float(), "whole numbers": x.round()}[kind]
    given = {"array": x.numpy(), "half": x.half(), "whole numbers": x.long()}[kind]
    want = EM(gaussian_mixture.univariate, max_steps=5).fit(x, 2).log_likelihood
    pyro.clear_param_store()
    close(EM(gaussian_mixture.univariate, max_steps=5).fit(given, 2).log_likelihood, want, IDENTITY)


def test_tables_of_bytes_and_lists() -> None:
    """Answers as bytes, as an array of them, and beside a list of categories and a mask."""
    want = EM(latent_classes.latent_classes, max_steps=3).fit(ANSWERS, 2).log_likelihood
    for given in (ANSWERS.to(torch.uint8), ANSWERS.numpy().astype(np.int16), ANSWERS.tolist()):
        pyro.clear_param_store()
        close(EM(latent_classes.latent_classes, max_steps=3).fit(given, 2).log_likelihood, want, IDENTITY)
    pyro.clear_param_store()
    seen = np.ones((30, 3), dtype=bool)
    fit = EM(latent_classes.latent_classes, max_steps=3).fit(ANSWERS.numpy(), 2, [3, 3, 3], seen)
    close(fit.log_likelihood, want, IDENTITY)
