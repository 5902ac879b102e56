"""Small public data sets; `README.md` beside this file gives the provenance of each."""

import csv
from importlib import resources

import numpy as np


def names() -> list[str]:
    """List the data sets that `load` knows."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".csv") for file in files if file.name.endswith(".csv"))


def load(name: str) -> dict[str, np.ndarray]:
    """Read a data set as its columns.

    Args:
        name: the file's name without `.csv`; see `names`.

    Returns:
        One array of shape `(N,)` for each column: integers, floats or strings, whichever is the first to hold them all.

    Raises:
        ValueError: when there is no such data set.
    """
    if name not in names():
        raise ValueError(f"Data set {name!r}: expected one of {', '.join(names())}. Choose one of these.")
    text = resources.files(__name__).joinpath(f"{name}.csv").read_text(encoding="utf-8")
    header, *rows = csv.reader(text.splitlines())
    return {title: _column([row[j] for row in rows]) for j, title in enumerate(header)}


def _column(cells: list[str]) -> np.ndarray:
    for dtype in (np.int64, np.float64):
        try:
            return np.array(cells).astype(dtype)
        except ValueError:
            continue
    return np.array(cells)
