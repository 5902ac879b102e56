"""Agreement with published and independently computed numbers, and where to read them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tolerances import IDENTITY, printed

Array = npt.NDArray[np.float64]
Table = list[dict[str, Any]]

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


def expected(case: str) -> dict[str, Any]:
    """Return the published and independently computed answers of a case, or skip the test where they are absent."""
    file = GOLDEN / case / "expected.json"
    if not file.exists():
        pytest.skip(f"the golden case {case} is not here")
    answers: dict[str, Any] = json.loads(file.read_text())
    return answers


def data(case: str) -> Array:
    """Return the numbers of a case's `data.csv`; a column of text is NaN."""
    expected(case)
    return np.genfromtxt(GOLDEN / case / "data.csv", delimiter=",", skip_header=1)


def close(got: npt.ArrayLike, want: npt.ArrayLike, tolerance: float = IDENTITY) -> None:
    """Assert that every entry agrees, relative to `1 + |want|`."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    difference = np.max(np.abs(got - want) / (1 + np.abs(want)))
    assert difference <= tolerance, f"largest difference {difference:.3g}, allowed {tolerance:.3g}"


def prints_as(got: npt.ArrayLike, texts: str, *, units: float = 1) -> None:
    """Assert that the numbers agree with printed ones to the digits printed: half a unit in the last, times `units`."""
    values, words = np.ravel(got), texts.split()
    assert len(values) == len(words)
    for value, text in zip(values, words, strict=True):
        assert abs(value - float(text)) <= units * printed(text), f"{value} does not print as {text}"


def column(table: Table, *names: str) -> Array:
    """Return the named columns of an iteration table, shape `(rows, names)`, or `(rows, ...)` for one name."""
    return np.array([row[names[0]] if len(names) == 1 else [row[name] for name in names] for row in table])
