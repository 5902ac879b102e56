"""Indices below zero among the data: codes of what is missing, which torch takes for places counted from the end."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError

Y = torch.sin(torch.arange(12.0, dtype=torch.float64))
GROUP = torch.arange(12) % 3
MISSING = torch.where(torch.arange(12) == 4, -1, GROUP)
SAID = r'^Argument "group"\S*: expected indices that count from zero, got -1, with which site "y" .* at index \(4,\)'


KINDS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda group: group,
    "array": lambda group: group.numpy(),
    "int32": lambda group: group.int(),
    "column": lambda group: pd.Series(group.numpy()),
    "list": lambda group: group.tolist(),
}


def levels(y: Tensor, group: Any, take: Callable[[Tensor, Any], Tensor] = lambda table, at: table[at]) -> None:
    """A mean for each group of rows, equal at the start."""
    loc = pyro.param("loc", torch.zeros(3, dtype=torch.float64))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(take(loc, group), 1.0), obs=y)


def mixture(y: Tensor, group: Any) -> None:
    """A mean for each group in each of two states."""
    weights = pyro.param("weights", tensor([0.5, 0.5], dtype=torch.float64), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.stack([torch.zeros(3), torch.ones(3)]).double())
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(loc[z, group], 1.0), obs=y)


@pytest.mark.parametrize("method", ["plan", "fit", "step", "posterior"])
@pytest.mark.parametrize("model", [levels, mixture])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_code_of_what_is_missing(kind: Callable[[Tensor], Any], model: Callable[..., None], method: str) -> None:
    """The argument, the number, the site and the row; though all groups begin equal."""
    with pytest.raises(DataError, match=SAID):
        getattr(EM(model), method)(Y, kind(MISSING))


WAYS: dict[str, tuple[Callable[[Tensor, Any], Tensor], Tensor]] = {
    "labels less one": (lambda table, at: table[at - 1], MISSING + 1),
    "more dimensions": (lambda table, at: table[at[:, None]].squeeze(-1), MISSING),
    "of a table": (lambda table, at: torch.stack([table, -table], -1)[at, 1], MISSING),
    "floats": (lambda table, at: table[at.long()], MISSING.double()),
}


@pytest.mark.parametrize("name", WAYS)
def test_ways_to_look_up(name: str) -> None:
    """Whatever the model makes of the argument, and takes it from."""
    take, group = WAYS[name]
    with pytest.raises(DataError, match=SAID):
        EM(levels).fit(Y, group, take)


def test_a_column_of_codes() -> None:
    """Of a frame, as pandas codes its categories."""
    frame = pd.DataFrame({"y": Y.numpy(), "kind": pd.Categorical(list("abcd".replace("d", "a")) * 3)})
    frame.loc[4, "kind"] = np.nan
    codes = tensor(frame["kind"].cat.codes.to_numpy())
    with pytest.raises(DataError, match=r"got -1, .* at index \(4,\)"):
        EM(levels).fit(Y, codes.long())


def test_data_of_a_closure() -> None:
    """They are no argument; but they are there before the model runs."""

    def model() -> None:
        levels(Y, MISSING)

    with pytest.raises(DataError, match=r"^The model: expected indices that count from zero, got -1"):
        EM(model).fit()


def test_covariates_of_groups() -> None:
    """A table of data is looked up likewise."""
    table = tensor([0.3, -1.0, 2.0], dtype=torch.float64)

    def model(y: Tensor, group: Tensor) -> None:
        slope = pyro.param("slope", tensor(0.5, dtype=torch.float64))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(slope * table[group], 1.0), obs=y)

    with pytest.raises(DataError, match=SAID):
        EM(model).fit(Y, MISSING)


def test_rows_that_are_left_out() -> None:
    """What a mask leaves out has any index, and the fit is that of the other rows."""

    def masked(y: Tensor, group: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(3, dtype=torch.float64))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(loc[group], 1.0).mask(group >= 0), obs=y)

    fit = EM(masked).fit(Y, MISSING)
    pyro.clear_param_store()
    kept = MISSING >= 0
    assert fit.log_likelihood == pytest.approx(EM(levels).fit(Y[kept], GROUP[kept]).log_likelihood, rel=SOLVERS)


def test_the_end_may_be_meant() -> None:
    """Places that the model itself counts from the end, of states too, are its own."""

    def model(y: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3, dtype=torch.float64) / 3))
            before = y[torch.arange(len(y)) - 1]
            pyro.sample("y", dist.Normal(loc[z - 1] + loc[tensor(-1)] + 0 * before, 1.0), obs=y)

    assert EM(model).fit(Y).log_likelihood < 0


def test_other_rows() -> None:
    """Asked of a fitted model, at once and when rows of the kind have been served."""
    fit = EM(mixture).fit(Y, GROUP)
    for _ in range(2):
        with pytest.raises(DataError, match=SAID):
            fit.posterior_on(Y, MISSING)
        fit.posterior_on(Y, GROUP)


def test_rows_in_batches() -> None:
    """In any batch."""
    with pytest.raises(DataError, match=r'^Batch 1: Argument "group"'):
        EM(mixture).fit_stream([(Y, GROUP), (Y + 1, MISSING)])
