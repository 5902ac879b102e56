"""The summary: a line an entry, whatever the shape; what cannot be had is a sentence."""

import re
import sys
from math import isnan
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from programs.loops import mixture, points
from programs.registry import build
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ParameterError, load


@pytest.fixture(scope="module")
def converged() -> Any:
    """A fit of the mixture, to its maximum."""
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    return EM(mixture, starts=3).fit(points())


def test_every_entry_has_its_numbers(converged: Any) -> None:
    """Those of the fit, of `information` and of `criteria`."""
    summary, information = converged.summary(), converged.information()
    assert [entry.label for entry in summary.entries] == [
        f"{n}[{k}]" for n in ("weights", "loc", "scale") for k in (0, 1)
    ]
    for entry in summary.entries:
        lower, upper = information.interval(entry.parameter)
        assert entry.estimate == float(converged.params[entry.parameter][entry.index])
        for number, table in ((entry.se, information.se[entry.parameter]), (entry.lower, lower), (entry.upper, upper)):
            assert distance(tensor(number), table[entry.index]) < IDENTITY
    assert summary.criteria == converged.criteria()
    text = str(summary)
    assert text.startswith("converged after")
    for entry in summary.entries:
        (line,) = [line for line in text.splitlines() if line.startswith(entry.label)]
        assert f"{entry.estimate:.6g}" in line
        assert f"{entry.se:.4g}" in line
    for word in ("BIC", "ICL", "parameters        5", "best of 3 starts", "95 % interval"):
        assert word in text


def test_other_levels(converged: Any) -> None:
    """Wider for more."""
    narrow, wide = converged.summary(0.5), converged.summary(level=0.99)
    assert "50 % interval" in str(narrow)
    assert all(a.lower > b.lower and a.upper < b.upper for a, b in zip(narrow.entries, wide.entries, strict=True))
    with pytest.raises(ParameterError, match="level"):
        converged.summary(95)


def test_a_frame_has_a_row_an_entry(converged: Any) -> None:
    """With the columns of the table."""
    pandas = pytest.importorskip("pandas")
    frame = converged.summary().to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["parameter", "index", "estimate", "se", "lower", "upper", "note"]
    assert frame["estimate"].tolist() == [float(v) for n in ("weights", "loc", "scale") for v in converged.params[n]]
    assert frame["index"].tolist() == [(0,), (1,)] * 3


def test_the_absence_of_pandas_is_a_sentence(converged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    summary = converged.summary()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        summary.to_frame()


def test_a_file_without_data_says_what_is_missing(converged: Any, tmp_path: Path) -> None:
    """Criteria are in the file, standard errors take the data."""
    converged.save(tmp_path / "fit.pt")
    summary = load(tmp_path / "fit.pt").summary()
    assert summary.criteria == converged.criteria()
    assert all(isnan(entry.se) and not entry.note for entry in summary.entries)
    assert "no standard errors: Fit: expected the model and the data" in summary.notes[-1]
    whole = load(tmp_path / "fit.pt", mixture, (points(),)).summary()
    assert re.sub(r"[\d.e-]+ m?s", "", str(whole)) == re.sub(r"[\d.e-]+ m?s", "", str(converged.summary()))


def test_a_large_tensor_is_shown_by_rows() -> None:
    """All of it; `str` of the fit keeps to its corners."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(40, 30))
        with pyro.plate("row", 40, dim=-2), pyro.plate("column", 30, dim=-1):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    fit = EM(model, max_steps=2).fit(torch.randn(40, 30))
    text, values = str(fit.summary()), fit.params["loc"]
    assert "shape" not in text
    assert "no standard errors: 1200 entries are more than 1000" in text
    shown = re.split(r"loc\[\d+, :\]", text.split("log-likelihood    ")[0])[1:]
    assert [len(row.split()) for row in shown] == [30] * 40
    assert distance(tensor([[float(word) for word in row.split()] for row in shown]), values) < 1e-5
    assert "tensor of shape (40, 30)" in str(fit)


def test_what_is_fixed_or_at_a_boundary_says_so() -> None:
    """In its line."""
    fixed = EM(mixture, m_step={"scale": "fixed"}).fit(points()).summary()
    assert [entry.note for entry in fixed.entries] == ["", "", "", "", "fixed", "fixed"]
    assert not isnan(fixed.entries[0].se)
    pyro.clear_param_store()
    case = build("shared_parameter")
    summary = EM(case.model).fit(*case.args).summary()
    noted = [entry for entry in summary.entries if entry.note]
    assert noted
    assert all(isnan(entry.se) for entry in noted)


def test_triangles_and_numbers_alone() -> None:
    """What is above the diagonal is left out; a parameter without dimensions has no index."""

    def model(x: Tensor) -> None:
        scale = pyro.param("scale", torch.eye(2), constraint=constraints.lower_cholesky)
        shift = pyro.param("shift", tensor(0.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MultivariateNormal(shift.expand(2), scale_tril=scale), obs=x)

    summary = EM(model).fit(torch.randn(30, 2)).summary()
    assert [entry.label for entry in summary.entries] == ["scale[0, 0]", "scale[1, 0]", "scale[1, 1]", "shift"]


def test_a_bad_ending_has_no_standard_errors() -> None:
    """The table says why."""
    summary = EM(mixture, starts={"scale": tensor([2.0, 1e-4])}, max_steps=50).fit(points()).summary()
    assert summary.head[0].startswith("empty state")
    assert any("no standard errors" in note and "empty state" in note for note in summary.notes)
