"""What users pass as weights of rows: kinds that are taken, and those that are refused by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.refusals import refuse
from oracles.tolerances import IDENTITY
from pyro import poutine
from torch import Tensor, tensor

from em_pyro import EM, DataError

X = [0.0, 0.5, 0.25, 3.0, 3.5, 2.75, 0.125]


def weighted(x: Tensor, w: Any = 1.0, law: Callable[[Tensor], Any] = lambda m: dist.Normal(m, 1.0)) -> None:
    """Two components on a line, rows with weights."""
    loc = pyro.param("loc", tensor([0.5, 2.0], dtype=torch.float64))
    with poutine.scale(scale=w), pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", law(loc[z]), obs=x)


WEIGHTS: dict[str, tuple[Any, str]] = {
    "negative": (tensor([1.0, 1.0, -0.5, 1.0]), r"got -0\.5 at index \(2,\)"),
    "not a number": (tensor([1.0, torch.nan, 1.0, 1.0]), r"got nan at index \(1,\)"),
    "infinite": (tensor([torch.inf, 1.0, 1.0, 1.0]), r"got inf at index \(0,\)"),
    "too few": (torch.ones(3), r"got \(3,\) within plates \"rows\" \(4\)"),
    "too many": (torch.ones(8), r"got \(8,\)"),
    "a column": (torch.ones(4, 1), r"got \(4, 1\)"),
    "one for each state": (tensor([[0.5], [2.0]]), r"got \(2, 1\)"),
    "a 0-d nan": (tensor(torch.nan), r"got nan\."),
    "beyond all measure": (torch.full((4,), 1e30), r"up to 1e\+20, got 1e\+30\. Divide"),
    "complex": (torch.ones(4, dtype=torch.complex64), "got .*j"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_none(name: str) -> None:
    """The error speaks of weights, and names the first bad index."""
    w, got = WEIGHTS[name]
    with pyro.validation_enabled(is_validate=False):
        refuse("data", rf'^Site "(z|x)": expected row weights \(poutine\.scale\).*{got}', weighted, tensor(X[:4]), w)


def test_no_weights() -> None:
    """The model stumbles over None, and the argument is named."""
    refuse("data", r'^Argument "w": .* got None', weighted, tensor(X), None)


@pytest.mark.parametrize("method", ["fit", "step"])
def test_rows_of_which_none_counts(method: str) -> None:
    """All weights zero, or all masked: there is nothing to fit to. Of one row there is."""
    x, none = tensor(X), torch.zeros(len(X))
    with pytest.raises(DataError, match=r'^Site "x": expected a row that counts, got none: '):
        getattr(EM(weighted), method)(x, none)
    with pytest.raises(DataError, match="or all is masked"):
        getattr(EM(weighted), method)(x, 1.0, lambda m: dist.Normal(m, 1.0).mask(none.bool()))
    assert EM(weighted, max_steps=2).fit(x, torch.eye(len(x))[3]).num_steps == 2


@pytest.mark.parametrize("w", [-1, -1.0, 0.0, torch.nan, np.float64(-2.0)])
def test_a_weight_that_is_a_number(w: float) -> None:
    """Pyro refuses it before any site, in words of its own; ours say after which."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            with poutine.scale(scale=w):
                pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    refuse("data", rf'^The model: expected row weights.*got {w}.*after site "z"', model, tensor(X[:4]))
    refuse("data", f"^The model: expected row weights.*got {w}", lambda x: poutine.scale(model, w)(x), tensor(X))


@pytest.mark.parametrize("kind", ["integers", "array", "0-d", "bool"])
def test_weights_of_other_kinds(kind: str) -> None:
    """Whole numbers, arrays and one weight for all."""
    w = {"integers": tensor([1, 2, 1, 0]), "array": np.array([1.0, 2, 1, 0]), "0-d": tensor(2.0)}
    w["bool"] = tensor([True, True, True, False])
    plain = {"0-d": 2 * torch.ones(4), "bool": tensor([1.0, 1, 1, 0])}.get(kind, tensor([1.0, 2, 1, 0]))
    with pyro.validation_enabled(is_validate=False):
        want = EM(weighted, max_steps=3).fit(tensor(X[:4]), plain).log_likelihood
        pyro.clear_param_store()
        close(EM(weighted, max_steps=3).fit(tensor(X[:4]), w[kind]).log_likelihood, want, IDENTITY)
