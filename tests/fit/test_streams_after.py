"""What is asked of a fit of batches: sums over rows take one more pass; what needs all rows at once is refused."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from programs.batches import X, batches
from programs.links import batches as linked
from programs.links import poissons, rows
from programs.loops import mixture

from em_pyro import EM, DataError, Fit, ParameterError, load, predictive_check


@cache
def fits(model: Any = mixture) -> tuple[Fit, Fit]:
    """In memory and in batches, at the same values; once for all that is asked of them."""
    pyro.clear_param_store()
    args, parts = ((X,), batches()) if model is mixture else (rows(), linked())
    whole = EM(model, tol=1e-13, collapse=False).fit(*args)
    pyro.clear_param_store()
    streamed = EM(model, tol=1e-13).fit_stream(parts)
    return whole, dataclasses.replace(streamed, fitted=whole.fitted)


@pytest.mark.parametrize("model", [mixture, poissons])
def test_criteria_are_those_in_memory(model: Any) -> None:
    """Rows and entropy are summed over batches."""
    whole, streamed = fits(model)
    for name in ("aic", "bic", "icl", "num_parameters"):
        assert distance(getattr(streamed, name), getattr(whole, name)) < 1e-8
    one, other = streamed.criteria(), whole.criteria()
    assert (one.n, one.rows, one.parameters) == (other.n, other.rows, other.parameters)
    assert distance(one.entropy, other.entropy) < IDENTITY
    assert distance(one.most, other.most) < IDENTITY
    assert streamed.criteria(n=50).n == 50


@pytest.mark.parametrize(
    ("model", "kind"),
    [(mixture, "observed"), (mixture, "opg"), (mixture, "robust"), (poissons, "observed"), (poissons, "opg")],
)
def test_standard_errors_are_those_in_memory(model: Any, kind: str) -> None:
    """Second-order sums add, differences of slopes are passes, and so do outer products of scores."""
    whole, streamed = fits(model)
    one, other = streamed.information(kind), whole.information(kind)
    assert one.rank == other.rank == one.dimension
    for name in whole.params:
        assert distance(one.covariance(name), other.covariance(name)) < 1e-7
    if kind == "robust":
        with pytest.raises(ParameterError, match='plate: expected "row"'):
            streamed.information(kind, plate="other")


def test_the_certificate_and_the_summary_are_those_in_memory() -> None:
    """Curvature and rank."""
    whole, streamed = fits()
    assert distance(streamed.certificate().smallest, whole.certificate().smallest) < 1e-7
    assert streamed.certificate().rank == whole.certificate().rank
    assert str(streamed.summary()).splitlines()[1:] == str(whole.summary()).splitlines()[1:]


def test_batches_that_have_changed_are_named_afterwards() -> None:
    """Nothing is computed of other rows than those of the fit."""
    parts = batches()
    fit = EM(mixture).fit_stream(parts)
    parts[2] = parts[2] + 1e-9
    for asked in (fit.criteria, fit.information):
        with pytest.raises(DataError, match="Batch 2: expected the same rows"):
            asked()


def test_what_needs_all_rows_at_once_is_refused() -> None:
    """By name: a posterior of all, draws of their size, derivatives by them."""
    fit = EM(mixture).fit_stream(batches())
    first = batches()[0]
    for asked in (
        fit.simulate,
        lambda: fit.posterior,
        lambda: fit.sensitivity(of="loc", to=first),
        lambda: predictive_check(fit, lambda sites: float(sites["x"].mean())),
    ):
        with pytest.raises(DataError, match="all (its )?rows at hand"):
            asked()
    assert len(fit.simulate(first)["x"]) == len(first)


def test_a_file_has_the_criteria_that_were_asked_for(tmp_path: Path) -> None:
    """To write one is no pass over the rows."""
    source = [1]

    class Read:
        def __iter__(self) -> Any:
            source[0] += 1
            return iter(batches())

    fit = EM(mixture).fit_stream(Read())
    before = source[0]
    fit.save(tmp_path / "without")
    assert source[0] == before
    bic = fit.bic
    assert source[0] == before + 1
    fit.save(tmp_path / "with")
    assert distance(torch.tensor(load(tmp_path / "with").bic), torch.tensor(bic)) < IDENTITY
    with pytest.raises(ParameterError, match="comes from a file"):
        load(tmp_path / "without").criteria()
