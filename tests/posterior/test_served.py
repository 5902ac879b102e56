"""Arguments of a kind that has been served take one run of the model, and no check is lost."""

import gc
import pickle
import weakref
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, Fit, ParameterError

RUNS: list[int] = []


def fitted(model: Callable[..., None], *args: object) -> Fit:
    """Fit a few steps."""
    pyro.clear_param_store()
    return EM(model, max_steps=3).fit(*args)


def regressions(y: Tensor, x: Tensor, K: int) -> None:
    """Mix regressions, each with its coefficients."""
    RUNS.append(len(y))
    coef = pyro.param("coef", lambda: torch.linspace(-1.0, 1.0, K * x.shape[1]).reshape(K, -1))
    scale = pyro.param("scale", lambda: torch.ones(K), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.ones(K) / K))
        pyro.sample("y", dist.Normal((coef[z] * x).sum(-1), scale[z]), obs=y)


def data(rows: int, columns: int = 2) -> tuple[Tensor, Tensor]:
    """Draw covariates and responses."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn((rows, columns), generator=generator)
    return x.sum(1).sin() + torch.randn(rows, generator=generator), x


def test_one_run() -> None:
    """Other numbers of rows are of one kind: the answer is that of a fit that has never been asked."""
    fit = fitted(regressions, *data(40), 3)
    fit.posterior_on(*data(7), 3)
    for rows in (7, 25, 1, 5000, 2):
        RUNS.clear()
        law = fit.posterior_on(*data(rows), 3)
        assert rows == {*RUNS}.pop()
        assert len(RUNS) == 1
        want = fit.__copy__().posterior_on(*data(rows), 3)
        close(law.log_evidence, want.log_evidence)
        close(law.log_evidence_by("rows"), want.log_evidence_by("rows"))
        close(law.marginal("z"), want.marginal("z"))


def test_checks_are_made_all_the_same() -> None:
    """What is refused at first is refused after others have been served; and what was refused is not of their kind."""
    fit = fitted(regressions, *data(40), 3)
    for _ in range(2):
        fit.posterior_on(*data(7), 3)
        for columns in (1, 3):
            with pytest.raises(ParameterError, match=r'"coef": expected rows that its fitted shape \(3, 2\) serves'):
                fit.posterior_on(*data(7, columns), 3)
        for K in (2, 4):
            with pytest.raises(ParameterError, match=r'"(coef|scale)": expected rows'):
                fit.posterior_on(*data(7), K)
        with pytest.raises(DataError, match='Plate "rows": expected at least one row'):
            fit.posterior_on(*data(0), 3)
        y, x = data(7)
        y[3] = torch.nan
        with pytest.raises(DataError, match='Site "y": expected finite data, got nan'):
            fit.posterior_on(y, x, 3)


def test_as_many_rows_as_states() -> None:
    """Sizes that happen to be alike are not taken for one another."""
    fit = fitted(regressions, *data(40), 3)
    for rows in (3, 2, 3, 8):
        close(
            fit.posterior_on(*data(rows), 3).log_evidence,
            fit.__copy__().posterior_on(*data(rows), 3).log_evidence,
        )
        with pytest.raises(ParameterError, match=r'"(coef|scale)": expected rows'):
            fit.posterior_on(*data(rows), 2)


def own(x: Tensor) -> None:
    """Give every row an effect of its own."""
    effect = pyro.param("effect", lambda: torch.zeros(len(x)))
    with pyro.plate("rows", len(x)) as row:
        z = pyro.sample("z", dist.Bernoulli(tensor(0.5)))
        pyro.sample("x", dist.Normal(effect[row] + z, 1.0), obs=x)


def test_an_entry_for_each_row() -> None:
    """As many rows as were fitted have been served; fewer are refused."""
    fit = fitted(own, torch.arange(6.0))
    for rows in (4, 1, 7):
        fit.posterior_on(torch.arange(6.0))
        with pytest.raises(ParameterError, match='Parameter "effect": expected rows'):
            fit.posterior_on(torch.zeros(rows))


def test_impossible_rows() -> None:
    """A row that is impossible under every state is refused, however often rows were served before."""

    def answers(x: Tensor) -> None:
        chances = pyro.param("chances", tensor([[0.5, 0.5, 0.0], [0.3, 0.7, 0.0]]), constraint=constraints.simplex)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Categorical(chances[z]), obs=x)

    fit = fitted(answers, torch.tensor([0, 1, 1, 0]))
    fit.posterior_on(torch.tensor([0, 0]))
    with pytest.raises(DataError, match="index 1"):
        fit.posterior_on(torch.tensor([0, 2]))


def test_what_else_the_model_sees() -> None:
    """What has changed outside the arguments is seen: the model is run every time."""
    known = {"shift": 0.0}

    def shifted(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z] + known["shift"], 1.0), obs=x)

    fit = fitted(shifted, torch.linspace(-2.0, 2.0, 9))
    x = torch.linspace(-1.0, 3.0, 5)
    before = fit.posterior_on(x).log_evidence
    known["shift"] = 1.0
    after = fit.posterior_on(x)
    close(after.log_evidence, fit.__copy__().posterior_on(x).log_evidence)
    assert after.log_evidence != before


def test_masks_and_labels() -> None:
    """They are those of the rows at hand, some or none."""

    def rows(x: Tensor, seen: Tensor, label: Tensor, known: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])), obs=label, obs_mask=known)  # type: ignore[arg-type]
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    x, label, on = torch.linspace(-2.0, 2.0, 8), torch.arange(8) % 2, torch.arange(8)
    fit = fitted(rows, x, on > 2, label, on < 5)
    for seen, known in ((on > 1, on < 2), (on >= 0, on < 0), (on < 4, on > 6)):
        law, want = (f.posterior_on(x, seen, label, known) for f in (fit, fit.__copy__()))
        close(law.marginal("z"), want.marginal("z"))
        close(law.entropy, want.entropy)
        close(law.log_evidence, want.log_evidence)


def test_data_are_not_kept() -> None:
    """Neither arguments nor posteriors live on in the fit, nor are kinds in its pickles."""
    fit = fitted(regressions, *data(40), 3)
    y, x = data(7)
    alive = [weakref.ref(y), weakref.ref(x)]
    for _ in range(2):
        law = fit.posterior_on(y, x, 3)
    del y, x, law
    gc.disable()
    try:
        assert [ref() is None for ref in alive] == [True, True]
    finally:
        gc.enable()
    assert "_served" not in pickle.loads(pickle.dumps(fit)).__dict__


def test_sequences_of_any_length() -> None:
    """States of a site: other lengths and other numbers of sequences, in turn."""

    def hidden(y: Tensor) -> None:
        moves = pyro.param("moves", tensor([[0.8, 0.2], [0.3, 0.7]]), constraint=constraints.simplex)
        with pyro.plate("sequences", len(y)):
            law = dist.DiscreteHMM(torch.zeros(2), moves.log(), dist.Normal(tensor([0.0, 2.0]), 1.0))
            pyro.sample("y", law, obs=y)

    fit = fitted(hidden, torch.arange(24.0).reshape(3, 8).sin() + 1)
    for n, steps in ((2, 8), (3, 5), (5, 5), (8, 8), (4, 2), (2, 8)):
        y = torch.arange(float(n * steps)).reshape(n, steps).cos()
        close(fit.posterior_on(y).marginal("y"), fit.__copy__().posterior_on(y).marginal("y"))
