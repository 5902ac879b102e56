"""Slips of the model itself: the error names the site or the parameter, and the remedy."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor

from em_pyro import EM, ModelError
from em_pyro.program.data import passed

X = tensor([0.1, -0.4, 2.9, 3.3], dtype=torch.float64)
FRAME = pd.DataFrame({"x": X.numpy(), "dose": [1.0, 2.0, 1.0, 2.0], "kind": ["a", "b", "b", "a"]})
WEIGHT = torch.nn.Parameter(tensor([0.5, 1.0], dtype=torch.float64))


def one_latent(x: Tensor) -> None:
    """Index by a Bernoulli latent."""
    loc = pyro.param("loc", tensor([0.0, 3.0]))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def one_of_two(x: Tensor) -> None:
    """Index by two latents, of which one is whole."""
    loc = pyro.param("loc", tensor([[0.0, 3.0], [1.0, 2.0]]))
    with pyro.plate("rows", len(x)):
        u = pyro.sample("u", dist.Bernoulli(0.5))
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(loc[u.long(), z], 1.0), obs=x)


def both(x: Tensor) -> None:
    """Index by two latents, and neither is whole; a normal latent is no index."""
    loc = pyro.param("loc", tensor([[0.0, 3.0], [1.0, 2.0]]))
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        u = pyro.sample("u", dist.Binomial(1, tensor(0.5)))
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(level + loc[u, z], 1.0), obs=x)


def in_place(x: Tensor) -> None:
    """Set an entry of a parameter, which is not the only one."""
    scale = pyro.param("scale", tensor(1.0), constraint=torch.distributions.constraints.positive)
    loc = pyro.param("loc", tensor([0.0, 3.0]))
    loc[0] = 0.0
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


def in_place_outside(x: Tensor) -> None:
    """Set an entry of what torch fits."""
    WEIGHT[0] = 0.0
    pyro.param("loc", tensor(0.0))


def column(x: Any) -> None:
    """Multiply a tensor by a column of a frame."""
    slope = pyro.param("slope", tensor([0.0, 1.0]))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Normal(slope[z] * x["dose"], 1.0), obs=x["x"])


def words(x: Any) -> None:
    """Index by a column of words."""
    loc = pyro.param("loc", tensor([0.0, 1.0]))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc[x["kind"]], 1.0), obs=x["x"])


CASES: dict[str, tuple[Callable[..., None], Any, str]] = {
    "one latent": (one_latent, X, r'Site "z": expected whole numbers.* Index by z\.long\(\)'),
    "one of two": (one_of_two, X, r'Site "z": expected whole numbers.* Index by z\.long\(\)'),
    "both": (both, X, r'Site "u", "z": expected whole numbers'),
    "in place": (in_place, X, r'Parameter "loc": expected .* loc = loc\.clone\(\)'),
    "in place, outside the store": (in_place_outside, X, r"The model: expected parameters to stay as they are"),
    "a column": (column, FRAME, r'expected tensors .*\("DataFrame"\)\. Make a tensor .*frame\[name\]'),
    "words": (words, FRAME, r'got words, if it indexes by "kind"\. Number them: pd\.factorize'),
}


@pytest.mark.parametrize("name", CASES)
def test_a_slip_is_named(name: str) -> None:
    """With its site or parameter, and the remedy; the error of the model is its cause."""
    model, data, said = CASES[name]
    with pytest.raises(ModelError, match=said) as caught:
        EM(model).fit(data)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", CASES)
def test_else_the_error_is_that_of_the_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of sites."""
    monkeypatch.setattr(passed, "slip", lambda *_: "")
    model, data, _ = CASES[name]
    with pytest.raises((IndexError, RuntimeError, TypeError, UserWarning)):
        EM(model).fit(data)


def test_other_errors_of_a_model_are_its_own() -> None:
    """They pass as they are."""

    def model(x: Tensor) -> None:
        pyro.param("loc", tensor(0.0))
        raise IndexError("of the user's")

    with pytest.raises(IndexError, match="of the user's"):
        EM(model).fit(X)


@pytest.mark.parametrize("shape", [(4, 2), (3,)], ids=["coordinates", "other rows"])
def test_a_mask_of_labels_that_does_not_fit(shape: tuple[int, ...]) -> None:
    """Pyro's own error does not say at which site."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([0.0, 3.0]))
        with pyro.plate("rows", len(x)):
            law = dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1)
            pyro.sample("x", law, obs=torch.stack([x, x], -1), obs_mask=torch.ones(shape, dtype=torch.bool))

    with pytest.raises(ModelError, match=r'Site "x": expected an obs_mask .* of shape \(4,\).*, got shape'):
        EM(model).fit(X)
