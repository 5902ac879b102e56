"""Agreement with published and independently computed numbers, and where to read them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from oracles.tolerances import IDENTITY, printed

Array = npt.NDArray[np.float64]
Table = list[dict[str, Any]]

NUMBERS = Path(__file__).parents[1] / "numbers" / "golden"

OUTSIDE = {
    "carcinoma": "07a_carcinoma/data.csv",
    "lsat6": "06_lsat6/data.csv",
    "notebook_coins": "19a_ajcr_notebook1_coins/data.csv",
    "speed": "18_speed_gaussian_hmm/data.csv",
}
"""Data sets that are not in the repository, as files of the folder that EM_PYRO_GOLDEN names; README.md says more."""


def expected(case: str) -> dict[str, Any]:
    """Return the published and independently computed answers of a case; the file has the source of each beside it."""
    answers: dict[str, Any] = json.loads((NUMBERS / f"{case}.json").read_text(encoding="utf-8"))
    return answers


def outside(case: str) -> npt.NDArray[Any]:
    """Return a data set that is not in the repository, its columns by name; skip the test where no folder is named."""
    file, folder = OUTSIDE[case], os.environ.get("EM_PYRO_GOLDEN")
    if not folder:
        pytest.skip(f"the data of {case} are not in the repository: set EM_PYRO_GOLDEN to a folder that has {file}")
    return np.genfromtxt(Path(folder) / file, delimiter=",", names=True, dtype=None, encoding="utf-8")


def redrawn_gaussians() -> Array:
    """Draw the forty numbers of A. Riley's second notebook (2018) again: its two groups, by its seed, sorted."""
    random = np.random.RandomState(110)
    return np.sort(np.concatenate([random.normal(3, 0.8, 20), random.normal(7, 2, 20)]))


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
