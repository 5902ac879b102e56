"""Selections and cross-validations that are killed go on where they were: every fit has a file of its own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from em_pyro.models import gaussian_mixture
from oracles.same_path import alike, same

from em_pyro import EM, ParameterError, bootstrap_lrt, cross_validate, select
from em_pyro.fit.checkpoint.journal import Journal

X = gaussian_mixture.simulate(60, 2, 2).double()


def grid(K: int) -> dict[str, Callable[..., None]]:
    """Return mixtures of two shapes."""
    return {"VVV": partial(gaussian_mixture.full, K=K), "EII": partial(gaussian_mixture.spherical, K=K, tied=True)}


def mixtures(K: Any) -> Callable[..., None]:
    """Return a mixture of so many components, or of as many as a tuple is long."""
    return partial(gaussian_mixture.full, K=K if isinstance(K, int) else len(K))


def cut(monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    """End the process, as it were, at that turn of its loops, counted over all fits."""
    at, left = Journal.at, [turns]

    def counted(self: Journal, *args: Any, **options: Any) -> None:
        at(self, *args, **options)
        left[0] -= 1
        if not left[0]:
            self.path = None  # nothing is written after a kill
            raise SystemExit

    monkeypatch.setattr(Journal, "at", counted)


def test_a_selection_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the fit that was on its way, in the middle of it; those before are read, and none is another."""
    whole = select(grid, [1, 2], X, starts=2)
    cut(monkeypatch, 40)
    with pytest.raises(SystemExit):
        select(grid, [1, 2], X, starts=2, checkpoint=tmp_path / "fits.pt", every=2)
    over = {path.name: torch.load(path, weights_only=True)["over"] for path in tmp_path.iterdir()}
    assert [*over.values()].count(False) == 1, "the fit that was on its way"
    monkeypatch.undo()
    again = select(grid, [1, 2], X, starts=2, checkpoint=tmp_path / "fits.pt", every=2)
    assert again.best_value == whole.best_value
    assert all(same(a.fit, b.fit) for a, b in zip(again.candidates, whole.candidates, strict=True) if a.fit and b.fit)
    names = {f"fits-{K}-{shape}.pt" for K in (1, 2) for shape in ("VVV", "EII")}
    assert {path.name for path in tmp_path.iterdir()} >= names | {"fits-2-VVV-split.pt"}


def test_a_second_call_reads_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fitted again."""
    once = select(mixtures, [1, 2], X, starts=2, max_steps=5, checkpoint=tmp_path / "fits.pt")
    monkeypatch.setattr(Journal, "at", None)
    twice = select(mixtures, [1, 2], X, starts=2, max_steps=5, checkpoint=tmp_path / "fits.pt")
    assert all(same(twice[K], once[K]) for K in (1, 2))


def test_files_are_named_by_what_is_the_same_in_another_process(tmp_path: Path) -> None:
    """Not by the address of an object; and no two fits have one file."""
    values: dict[Any, Any] = {"a/b": 1, "a b": 2}
    select(mixtures, values, X, starts=1, max_steps=1, checkpoint=str(tmp_path / "fits"))
    select(mixtures, [("x",), ("x", "y")], X, starts=1, max_steps=1, checkpoint=str(tmp_path / "tuples"))
    names = {path.name for path in tmp_path.iterdir()}
    assert {name for name in names if "split" not in name} == {
        "fits-a_b", "fits-a_b-place-1", "tuples-place-0", "tuples-place-1"
    }  # fmt: skip


def test_a_cross_validation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the fold that was on its way."""
    options: dict[str, Any] = {"plate": "points", "folds": 3, "seed": 2}
    whole = cross_validate(mixtures(2), X, **options)
    cut(monkeypatch, 25)
    with pytest.raises(SystemExit):
        cross_validate(mixtures(2), X, **options, checkpoint=tmp_path / "fits.pt", every=1)
    assert "fits-fold-1.pt" in {path.name for path in tmp_path.iterdir()}
    monkeypatch.undo()
    again = cross_validate(mixtures(2), X, **options, checkpoint=tmp_path / "fits.pt", every=1)
    assert alike(again.per_row, whole.per_row)
    assert again.outcomes == whole.outcomes


def test_what_cannot_be_kept_is_refused_before_any_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no path; a number of steps without one; a test that makes fits without number."""
    monkeypatch.setattr(EM, "fit", None)
    with pytest.raises(ParameterError, match="checkpoint"):
        select(mixtures, [1, 2], X, checkpoint=3)
    with pytest.raises(ParameterError, match="checkpoint"):
        cross_validate(mixtures(2), X, plate="points", checkpoint=3)
    with pytest.raises(ParameterError, match="every"):
        select(mixtures, [1, 2], X, every=7)
    with pytest.raises(ParameterError, match="bootstrap_lrt: expected no checkpoint"):
        bootstrap_lrt(mixtures(1), mixtures(2), X, checkpoint="fits.pt")
