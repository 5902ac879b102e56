"""Masks and weights that are none, or not as many as there are rows, and rows that events or priors take: named."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError

X = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64)
SEEN = torch.arange(6) % 3 > 0

Model = Callable[[Any], None]


def mixture(law: Callable[[Tensor], Any], **labels: Any) -> None:
    """Two locations."""
    weights = pyro.param("weights", tensor([0.4, 0.6], dtype=torch.float64), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-1.0, 1.0], dtype=torch.float64))
    z = pyro.sample("z", dist.Categorical(weights), **labels)
    pyro.sample("x", law(loc[z]), obs=X)


def labelled(mask: Any) -> None:
    """Rows with labels."""
    with pyro.plate("rows", 6):
        mixture(lambda loc: dist.Normal(loc, 1.0), obs=(X > 0).long(), obs_mask=mask)


def handled(mask: Any) -> None:
    """Rows that are left out."""
    with pyro.plate("rows", 6), poutine.mask(mask=mask):
        mixture(lambda loc: dist.Normal(loc, 1.0))


def masked(mask: Any) -> None:
    """Observations that are left out."""
    with pyro.plate("rows", 6):
        mixture(lambda loc: dist.Normal(loc, 1.0).mask(mask))


KINDS: dict[Model, str] = {
    labelled: 'Site "z": expected an obs_mask',
    handled: "poutine.mask: expected a mask",
    masked: "fn.mask: expected a mask",
}
NO_TENSORS = {"array": SEEN.numpy(), "list": SEEN.tolist(), "text": "yes", "number": 0.5}


@pytest.mark.parametrize("got", NO_TENSORS)
@pytest.mark.parametrize("model", KINDS, ids=lambda model: model.__name__)
def test_what_is_no_tensor(model: Model, got: str) -> None:
    """Where it is an argument of the model, arrays and lists are converted; in a closure they are not."""
    value = NO_TENSORS[got]
    with pytest.raises(ModelError, match=f"{KINDS[model]} that is a tensor of booleans, got {type(value).__name__}"):
        EM(lambda: model(value)).plan()


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8])
@pytest.mark.parametrize("model", [labelled, handled], ids=lambda model: model.__name__)
def test_numbers_are_no_booleans(model: Model, dtype: torch.dtype) -> None:
    """The dtype is named; `fn.mask` takes numbers, as Pyro does."""
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ModelError, match=rf"{KINDS[model]} .* got one of {name}\. Pass mask\.bool\(\)"):
        EM(model).plan(SEEN.to(dtype))
    assert float(EM(masked).posterior(SEEN.to(dtype)).log_evidence) == pytest.approx(
        float(EM(masked).posterior(SEEN).log_evidence), rel=IDENTITY
    )


@pytest.mark.parametrize("mask", [SEEN[:5], SEEN.repeat(2)], ids=["short", "long"])
def test_a_mask_of_another_length(mask: Tensor) -> None:
    """Both shapes are named."""
    with pytest.raises(ModelError, match=r"expected a mask of a shape .* got \(\d+,\) within plates \"rows\" \(6\)"):
        EM(handled).plan(mask)


def test_a_column_for_a_row() -> None:
    """With all states at once there is a dimension more, that of the latent."""
    with pytest.raises(ModelError, match=r'Site "z": expected an obs_mask that broadcasts .* got shape \(6, 1\)'):
        EM(labelled).plan(SEEN.unsqueeze(-1))


def test_one_for_all_rows() -> None:
    """The number one is true to Pyro's handler."""
    found = [float(EM(handled).posterior(mask).log_evidence) for mask in (1, True)]
    assert found[0] == pytest.approx(found[1], rel=IDENTITY)


@pytest.mark.parametrize("module", [False, True])
def test_a_prior_that_is_drawn_for_every_row(*, module: bool) -> None:
    """A PyroSample that is first read inside a plate is sampled there."""
    law = dist.Normal(torch.zeros(2, dtype=torch.float64), 5.0).to_event(1)

    class Module(PyroModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.loc = PyroSample(law)

        def forward(self) -> None:
            with pyro.plate("rows", 6):
                z = pyro.sample("z", dist.Categorical(torch.ones(2, dtype=torch.float64)))
                loc = self.loc if module else pyro.sample("loc", law)
                pyro.sample("x", dist.Normal(loc[z], 1.0), obs=X)

    with pytest.raises(ModelError, match=r'Site "x": .* If all rows are to share "loc", sample it before the plate'):
        EM(Module()).plan()


@pytest.mark.parametrize("size", [2, 3])
def test_an_event_that_takes_the_rows_of_a_plate(size: int) -> None:
    """States of a latent stand where its rows should: it is said whose they are."""

    def model() -> None:
        loc = pyro.param("loc", torch.linspace(-1.0, 1.0, size, dtype=torch.float64))
        with pyro.plate("rows", 6):
            z = pyro.sample("z", dist.Categorical(torch.ones(size, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(loc[z], 1.0).to_event(1), obs=X)

    with pytest.raises(ModelError, match=rf'Site "x": .* got the {size} states of "z" in dimension -1.*to_event'):
        EM(model).plan()


@pytest.mark.parametrize("weights", [[2.0] * 6, "twice", {"rows": 2.0}], ids=["list", "text", "dict"])
def test_row_weights_that_are_no_numbers(weights: Any) -> None:
    """In a closure nothing is converted."""

    def model() -> None:
        with poutine.scale(scale=weights), pyro.plate("rows", 6):
            mixture(lambda loc: dist.Normal(loc, 1.0))

    got = type(weights).__name__
    with pytest.raises(ModelError, match=f"poutine.scale: expected a number, .* got {got}. Pass torch.as_tensor"):
        EM(model).plan()


@pytest.mark.parametrize("infer", ["parallel", ["parallel"], []])
def test_infer_is_no_dict(infer: Any) -> None:
    """The site is named; Pyro calls methods that the value has not."""

    def model(_: Any) -> None:
        with pyro.plate("rows", 6):
            pyro.sample("x", dist.Normal(pyro.param("loc", tensor(0.0)), 1.0), obs=X, infer=infer)

    with pytest.raises(ModelError, match=r'Site "x": expected infer= to be a dict, got .*parallel|got \[\]'):
        EM(model).fit(None)


def test_a_sparse_array_beside_tensors() -> None:
    """A matrix of SciPy's is named, and how it is made a tensor."""

    class csr_matrix:
        def toarray(self) -> Any:
            return torch.ones(6, 2).numpy()

        def __matmul__(self, other: Tensor) -> Any:
            return self.toarray() @ other.numpy()

    def model(covariates: Any) -> None:
        with pyro.plate("rows", 6):
            pyro.sample("x", dist.Normal(covariates @ pyro.param("b", torch.zeros(2)), 1.0), obs=X)

    with pytest.raises(ModelError, match=r"got a csr_matrix of SciPy.*toarray"):
        EM(model).fit(csr_matrix())
