"""Collapsing equal rows changes nothing but the cost."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import coins
from oracles.steps import expect
from oracles.tolerances import IDENTITY
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.fit.problem import prepare
from em_pyro.reading import distinct


def tosses(rows: int = 500) -> Tensor:
    """Heads of ten tosses, many of them equal."""
    return torch.randint(0, 11, (rows,), generator=torch.Generator().manual_seed(0)).double()


def by_row(heads: Tensor) -> None:
    """Parameters of each row that start equal: rows with equal data are not the same rows."""
    bias = pyro.param("bias", torch.full((len(heads),), 0.5), constraint=constraints.unit_interval)
    with pyro.plate("row", len(heads)):
        pyro.sample("heads", dist.Binomial(10, bias), obs=heads)


def under_a_global_latent(heads: Tensor) -> None:
    """A latent above the plate joins the rows."""
    bias = pyro.param("bias", torch.tensor([[0.3, 0.7], [0.4, 0.9]]), constraint=constraints.unit_interval)
    era = pyro.sample("era", dist.Categorical(torch.tensor([0.4, 0.6])))
    with pyro.plate("row", len(heads)):
        coin = pyro.sample("coin", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.sample("heads", dist.Binomial(10, bias[era, coin]), obs=heads)


def missing(heads: Tensor, seen: Tensor) -> None:
    """Some answers are missing, and the number of tosses differs by row."""
    bias = pyro.param("bias", torch.tensor([0.3, 0.7]), constraint=constraints.unit_interval)
    weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    with pyro.plate("row", len(heads)):
        coin = pyro.sample("coin", dist.Categorical(weights))
        pyro.sample("heads", dist.Binomial(10.0 + (heads > 5).double(), bias[coin]).mask(seen), obs=heads)


def weighted(heads: Tensor, weight: Tensor) -> None:
    """Rows that carry a weight already."""
    with pyro.poutine.scale(scale=weight):
        missing(heads, torch.ones_like(heads, dtype=torch.bool))


SEEN = torch.arange(500) % 3 > 0
CASES = {
    "coins": (coins.coins, (tosses(), torch.tensor(10.0), 2)),
    "under_a_global_latent": (under_a_global_latent, (tosses(),)),
    "missing": (missing, (tosses(), SEEN)),
    "weighted": (weighted, (tosses(), 1.0 + (torch.arange(500) % 2).double())),
}


@pytest.mark.parametrize("name", CASES)
def test_collapsed_is_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence and statistics are those of all rows; a wrong count is noticed."""
    model, args = CASES[name]
    here = prepare(model, args, {}, {}, check=True)
    few, all_rows = here.engine, here.engine.full
    assert few is not all_rows
    assert "distinct rows of 500" in here.plan.notes[0]
    params = {n: v.double() for n, v in few.recognition.values.items()}

    def gap(engine: object) -> float:
        mine, theirs = expect(engine, params), expect(all_rows, params)  # type: ignore[attr-defined]
        off = [float(abs(mine.log_evidence - theirs.log_evidence) / (1 + abs(theirs.log_evidence)))]
        for key, sums in theirs.sums.items():
            for few, part in zip(mine.sums[key].parts, sums.parts, strict=True):
                off.append(float((few - part).abs().max() / (1 + part.abs().max())))
        return max(off)

    assert gap(few) < IDENTITY
    right = distinct.find

    def wrong(*arguments: object) -> object:
        distinct, note = right(*arguments)  # type: ignore[arg-type]
        assert distinct is not None
        return replace(distinct, counts=1.01 * distinct.counts), note

    monkeypatch.setattr("em_pyro.e_step.make.find", wrong)
    assert gap(prepare(model, args, {}, {}, check=True).engine) > IDENTITY


def test_posterior_is_of_every_row() -> None:
    """The loop sees distinct rows; whoever asks sees all."""
    heads = tosses()
    fit = EM(coins.coins, max_steps=3, tol=0).fit(heads, torch.tensor(10.0), 2)
    assert fit.posterior.marginal("coin").shape == (500, 2)
    (plate,) = fit.posterior.engine.program.plates
    assert fit.posterior.log_evidence_by(plate).shape == (500,)


def test_parameters_by_row_are_not_collapsed() -> None:
    """Equal data and equal starts, but other parameters: other rows."""
    here = prepare(by_row, (tosses(),), {}, {}, check=True)
    assert here.engine is here.engine.full
    assert here.plan.notes[0] == "not merged: the rows differ"


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 64, 1000])
@pytest.mark.parametrize("kinds", [1, 5, 90])
def test_rows_tallied_slice_by_slice(kinds: int, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the rows are sliced, the kinds, their first rows and their numbers are those of NumPy."""
    monkeypatch.setattr(distinct, "SLICE", rows_at_a_time)
    generator = torch.Generator().manual_seed(kinds)
    each = torch.randint(kinds, (500,), generator=generator)
    columns = [torch.randn(kinds, 2, generator=generator)[each], torch.randint(3, (kinds,), generator=generator)[each]]
    found = distinct._tally_of_all(columns, 500)
    assert found is not None
    rows = torch.cat([columns[0], columns[1].unsqueeze(-1).double()], -1).numpy()
    _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    assert dict(zip(*(part.tolist() for part in found), strict=True)) == dict(zip(first, counts, strict=True))


def test_too_many_kinds_are_noticed() -> None:
    """Rows of which most are their own kind are not tallied to the end."""
    assert distinct._tally_of_all([torch.arange(500) // 2], 500) is not None
    assert distinct._tally_of_all([torch.arange(500) * 3 // 4], 500) is None
