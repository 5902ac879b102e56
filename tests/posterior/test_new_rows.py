"""Other rows at fitted values: Bayes' rule at the fitted shapes."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, Fit

CALLS: list[str] = []


def once(value: Tensor) -> Callable[[], Tensor]:
    """Count how often an initialiser is run."""

    def start() -> Tensor:
        CALLS.append("start")
        return value

    return start


def fitted(model: Callable[..., Any], *args: Any) -> Fit:
    """Fit a few steps."""
    pyro.clear_param_store()
    return EM(model, max_steps=5).fit(*args)


def spread(x: Tensor) -> None:
    """Mix two Normal distributions; of one row, the initial scale is not a number."""
    loc = pyro.param("loc", once(torch.linspace(-1.0, 1.0, 2).to(x)))
    scale = pyro.param("scale", lambda: x.std().repeat(2), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2).to(x) / 2))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, IDENTITY), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rows", [1, 3])
def test_no_initialiser_runs(rows: int, dtype: torch.dtype, tolerance: float) -> None:
    """One row, or a few, by Bayes' rule at the fitted values, in either precision."""
    fit, new = fitted(spread, tensor([-2.0, -1.1, 0.3, 4.0, 5.5], dtype=dtype)), torch.arange(3, dtype=dtype)[:rows]
    CALLS.clear()
    law = fit.posterior_on(new)
    assert CALLS == []
    want = dist.Normal(fit.params["loc"], fit.params["scale"]).log_prob(new[:, None]) + tensor(0.5).log()
    close(law.marginal("z"), want.softmax(-1).double(), tolerance)
    close(law.log_evidence_by("rows"), want.logsumexp(-1).double(), tolerance)


def chain(y: Tensor) -> None:
    """Follow two states through a sequence."""
    moves = pyro.param("moves", once(tensor([[0.8, 0.2], [0.3, 0.7]])), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: torch.quantile(y, tensor([0.2, 0.8])))
    z = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Categorical(moves[z]))
        pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=y[t])


def hidden(y: Tensor) -> None:
    """The same as one site."""
    moves = pyro.param("moves", once(tensor([[0.8, 0.2], [0.3, 0.7]])), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: torch.quantile(y, tensor([0.2, 0.8])))
    first = tensor([1.0, 0.0]).log()
    pyro.sample("y", dist.DiscreteHMM(first, moves.log(), dist.Normal(loc, 1.0), duration=len(y)), obs=y)


@pytest.mark.parametrize("model", [chain, hidden])
@pytest.mark.parametrize("steps", [1, 4, 14])
def test_other_lengths(model: Callable[[Tensor], None], steps: int) -> None:
    """Sequences longer and shorter than the fitted one have the evidence of the forward pass."""
    fit, new = fitted(model, torch.linspace(-1.0, 2.0, 10).sin()), torch.linspace(0.0, 3.0, steps)
    moves, loc = fit.params["moves"], fit.params["loc"]
    state = tensor([1.0, 0.0])
    for value in new:
        state = state @ moves * dist.Normal(loc, 1.0).log_prob(value).exp()
    close(fit.posterior_on(new).log_evidence, float(state.sum().log()))


def change(y: Tensor) -> None:
    """Let a rate change at one of the years: as many states as there are years."""
    rate = pyro.param("rate", tensor([1.0, 3.0]), constraint=constraints.positive)
    year = torch.arange(len(y))
    when = pyro.sample("when", dist.Categorical(torch.ones(len(y)) / len(y)))
    with pyro.plate("years", len(y)):
        pyro.sample("y", dist.Poisson(rate[(year >= when).long()]), obs=y)


def test_states_by_row() -> None:
    """A latent with other states is no obstacle where no parameter has an entry for each of them."""
    fit = fitted(change, tensor([1.0, 0.0, 2.0, 1.0, 4.0, 5.0, 3.0]))
    new = tensor([1.0, 1.0, 6.0])
    before, after = (dist.Poisson(rate).log_prob(new) for rate in fit.params["rate"])
    want = torch.stack([before[:t].sum() + after[t:].sum() for t in range(3)]).softmax(0)
    close(fit.posterior_on(new).marginal("when"), want)


def classes(a: Tensor, *, stated: bool) -> None:
    """Answers in as many categories as there are in the data; the table is stated as a tensor, or as a function."""
    table = torch.ones(2, int(a.max()) + 1).tril().add(1).softmax(-1)
    p = pyro.param("p", table if stated else lambda: table, constraint=constraints.simplex)
    with pyro.plate("rows", len(a)):
        z = pyro.sample("z", dist.Categorical(tensor([0.3, 0.7])))
        for j in range(a.shape[1]):
            pyro.sample(f"a{j}", dist.Categorical(p[z]), obs=a[:, j])


@pytest.mark.parametrize("stated", [True, False])
def test_a_category_that_nobody_chose(stated: bool) -> None:  # noqa: FBT001
    """The fitted table serves; fewer items are scored by those that there are; a new category is refused."""
    pyro.clear_param_store()
    fit = EM(classes, max_steps=5).fit(torch.tensor([[0, 1], [2, 2], [0, 2], [1, 1], [0, 1]]), stated=stated)
    for new in (torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0], [1]]), torch.tensor([[0, 0]])):
        logs = fit.params["p"].log()[:, new].sum(-1).T + tensor([0.3, 0.7]).log()
        close(fit.posterior_on(new, stated=stated).log_evidence_by("rows"), logs.logsumexp(-1))
    with pytest.raises(DataError, match='Site "a0": .*got 3 at index'):
        fit.posterior_on(torch.tensor([[3, 0]]), stated=stated)
