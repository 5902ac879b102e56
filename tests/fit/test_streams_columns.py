"""What differs by row comes with the rows of a batch: steps are those in memory, at one run of the model a batch."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.tolerances import IDENTITY
from programs.columns import (
    COLUMNS,
    dummies,
    exposed_groups,
    exposures,
    groups,
    interaction,
    known_scales,
    levels,
    many_levels,
    no_latents,
    powers,
    rows,
    slope,
    table,
    two_numbers,
)  # fmt: skip
from programs.pairs import pairwise
from torch import Tensor

from em_pyro import EM, PlanError
from em_pyro.e_step import rebind
from em_pyro.e_step.sites import covariates
from em_pyro.reading.design import by_row

ENDS = (0, 130, 150, 300)
STEPS: dict[str, Any] = {"max_steps": 3, "check": False}
"""Enough where batches are looked at alone: what is told of the end is told of all `COLUMNS`."""

Model = Callable[[Any], None]


def batches(data: Mapping[str, Tensor], ends: tuple[int, ...] = ENDS) -> list[tuple[dict[str, Tensor]]]:
    """Uneven ones."""
    return [({n: part[a:b] for n, part in data.items()},) for a, b in zip(ends, ends[1:], strict=False)]


def both(
    model: Model, data: Mapping[str, Tensor], ends: tuple[int, ...] = ENDS, **options: Any
) -> tuple[Any, Any, list[int]]:
    """Four plain steps in memory and in batches, and how often the model was run in each of the latter."""
    options = {"tol": 0, "max_steps": 4, "acceleration": None, **options}
    pyro.clear_param_store()
    whole = EM(model, collapse=False, **options).fit(dict(data))
    pyro.clear_param_store()
    calls, after = [0], list[int]()

    def counted(d: Mapping[str, Tensor]) -> None:
        calls[0] += 1
        model(d)

    streamed = EM(counted, callback=lambda _: after.append(calls[0]), **options).fit_stream(batches(data, ends))
    return whole, streamed, [b - a for a, b in zip(after, after[1:], strict=False)]


def assert_same(whole: Any, streamed: Any) -> None:
    """Parameters and paths."""
    assert farthest(streamed.params, whole.params) < IDENTITY
    assert max(abs(a - b) / (1 + abs(b)) for a, b in zip(streamed.path, whole.path, strict=True)) < IDENTITY
    assert distance(streamed.log_likelihood, whole.log_likelihood) < IDENTITY


@pytest.mark.parametrize("model", COLUMNS)
def test_steps_are_those_in_memory_at_one_run_a_batch(model: Model) -> None:
    """Covariates, exposures and groups are columns of what the batch brings."""
    whole, streamed, runs = both(model, rows())
    assert_same(whole, streamed)
    assert max(runs[1:]) <= len(ENDS) - 1


def test_levels_that_a_batch_lacks_are_looked_up() -> None:
    """The first has not all of them, and the next a third: none is read anew, and the top is the same."""
    data = rows()
    data["place"] = torch.arange(len(data["y"])) * 37 % 60
    data["place"][: ENDS[1]].clamp_(max=57)
    whole, streamed, runs = both(many_levels, data, tol=1e-12, max_steps=100)
    assert streamed.outcome == whole.outcome == "converged"
    assert distance(streamed.objective, whole.objective) < IDENTITY
    assert max(runs[1:]) <= len(ENDS) - 1


def test_what_is_no_column_is_read_again() -> None:
    """At the cost of more runs, and no less right."""
    whole, streamed, runs = both(interaction, rows())
    assert_same(whole, streamed)
    assert runs[1] > 3 * (len(ENDS) - 1)


def sliced(data: Mapping[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """The same rows in another order."""
    return {name: part[order] for name, part in data.items()}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("model", [slope, powers, dummies, groups, no_latents, exposed_groups])
def test_batches_may_show_fewer_covariates_than_there_are(model: Model, backwards: bool) -> None:  # noqa: FBT001
    """One that is the same in all rows of a batch, or zero: no batch has rows of all groups."""
    data = sliced(rows(), rows()["group"].argsort(stable=True))
    data["x"][: ENDS[1], 0], data["group"][: ENDS[1]] = 2.5, 0
    if backwards:
        data = sliced(data, torch.arange(len(data["y"])).flip(0))
    whole, streamed, _ = both(model, data, **STEPS)
    assert_same(whole, streamed)


AGREEING = pairwise(
    {
        "model": [two_numbers, table, levels],
        "of": ["group", 0],
        "rows_of": [slice(0, ENDS[1]), slice(ENDS[1], None)],
    }
)


@pytest.mark.parametrize(("model", "of", "rows_of"), [tuple(one.values()) for one in AGREEING])
def test_numbers_that_agree_in_some_rows_are_two(model: Model, of: str | int, rows_of: slice) -> None:
    """One number of a row is another one, or zero, in all rows of some batches."""
    data = rows()
    data["other"][rows_of] = data["group"][rows_of] if of == "group" else 0
    whole, streamed, _ = both(model, data, **STEPS)
    assert_same(whole, streamed)


def test_too_many_covariates_between_batches_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each shows a few."""
    monkeypatch.setattr(rebind, "WIDEST", 3)
    data = sliced(rows(), rows()["group"].argsort(stable=True))
    with pytest.raises(PlanError, match=r'Site "y": expected up to \d covariates.*Mix the rows'):
        both(dummies, data)


def test_batches_of_one_row() -> None:
    """All its covariates are the same in all of its rows."""
    whole, streamed, _ = both(powers, rows(), ends=(0, 1, 150, 151, 300))
    assert_same(whole, streamed)


def test_covariates_of_another_basis_are_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail: without the step to the agreed covariates, sums of others would be added."""
    data = sliced(rows(), rows()["group"].argsort(stable=True))
    monkeypatch.setattr(covariates, "among", lambda own, agreed: None)
    with pytest.raises(PlanError, match=r'Batch 0: Site "y": expected arguments that differ by row as those of'):
        both(dummies, data)


def test_columns_that_are_wrong_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one run of the model, whatever was found: the program is read again."""
    find = by_row.Table.find

    def wrong(table: by_row.Table, wanted: Tensor) -> by_row.Column:
        found = find(table, wanted)
        return by_row.Column(found.path, found.at, found.function, found.times, found.plus + 0.1)

    monkeypatch.setattr(by_row.Table, "find", wrong)
    whole, streamed, runs = both(slope, rows())
    assert_same(whole, streamed)
    assert runs[1] > 3 * (len(ENDS) - 1)


def test_known_scales_by_row() -> None:
    """They leave the statistics of every row apart: a step of Newton's method, to the same maximum."""
    pyro.clear_param_store()
    whole = EM(known_scales, tol=1e-12).fit(rows())
    pyro.clear_param_store()
    streamed = EM(known_scales, tol=1e-12).fit_stream(batches(rows()))
    assert streamed.outcome == whole.outcome == "converged"
    assert distance(streamed.objective, whole.objective) < 1e-8


def test_a_callable_sees_events_and_exposures() -> None:
    """In the order that help states."""
    seen = list[tuple[Tensor, ...]]()

    def rates(sums: Mapping[str, tuple[Tensor, ...]], old: Tensor) -> Tensor:
        seen.append(sums["n"])
        events, exposure = sums["n"]
        return events / exposure

    data = rows()
    options: dict[str, Any] = {"tol": 0, "max_steps": 3, "acceleration": None}
    pyro.clear_param_store()
    mine = EM(exposures, m_step={"rate": rates}, **options).fit(data)
    pyro.clear_param_store()
    own = EM(exposures, **options).fit(data)
    assert farthest(mine.params, own.params) < IDENTITY
    assert distance(seen[0][0].sum(), data["n"].sum()) < IDENTITY
    assert distance(seen[0][1].sum(), data["exposure"].sum()) < IDENTITY
    assert "Poisson: x, 1; where exposures differ by row x, exposure" in str(EM.__doc__)


def test_a_callable_sees_groups() -> None:
    """A mean for each group and kind of row."""

    def means(sums: Mapping[str, tuple[Tensor, ...]], old: Tensor) -> Tensor:
        assert sums["y"][0].shape == old.shape
        return sums["y"][1] / sums["y"][0]

    options: dict[str, Any] = {"tol": 0, "max_steps": 3, "acceleration": None}
    pyro.clear_param_store()
    mine = EM(groups, m_step={"loc": means}, **options).fit(rows())
    pyro.clear_param_store()
    own = EM(groups, **options).fit(rows())
    assert farthest(mine.params, own.params) < IDENTITY
