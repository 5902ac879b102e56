"""Read a table that a person made, and say in one line what is wrong with it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..records.frozen import frozen

Array = npt.NDArray[np.float64]

PARQUET = (".parquet", ".pq")


class TableError(ValueError):
    """A file that cannot be read as the table that is needed."""


@frozen
class Table:
    """The cells of a file.

    Attributes:
        source: the file's name, for messages.
        names: of the columns; "1", "2", ... where the file has no header.
        headed: whether the file has a header.
        columns: for each name its cells, shape `(N,)`: text, numbers, or what else a parquet file has.
        lines: where in the file each row is, shape `(N,)`.
        unit: what is counted there: lines, or rows where a file has no lines.
    """

    source: str
    names: tuple[str, ...]
    headed: bool
    columns: tuple[npt.NDArray[Any], ...]
    lines: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.lines)

    def numbers(self, names: Sequence[str]) -> Array:
        """Return some columns as finite numbers, shape `(N, len(names))`.

        Raises:
            TableError: there is no such column, or a cell in it is not a finite number.
        """
        columns = [self._column(name) for name in names]
        values = np.stack([_numbers(cells) for cells in columns], -1)
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            i, j = wrong[0]
            cell = columns[j][i]
            found = "an empty cell" if cell is None or cell == "" else f'"{cell}"'
            remedy = "Correct or remove the row, or choose other columns with --columns."
            if re.fullmatch(r"[-+]?\d+,\d+", str(cell).strip()):
                remedy = "Pass --decimal , if the comma is the mark in numbers."
            if i == 0 and not self.headed:
                remedy += " If this is a header, give each column a name that is no number."
            raise TableError(f"{self.at(i, names[j])}: expected a number, got {found}. {remedy}")
        return values

    def counts(self, names: Sequence[str]) -> Array:
        """Return some columns as whole numbers, zero or more, shape `(N, len(names))`.

        Raises:
            TableError: there is no such column, or a cell in it is not such a number.
        """
        values = self.numbers(names)
        wrong = np.argwhere((values < 0) | (values != np.floor(values)))
        if len(wrong):
            i, j = wrong[0]
            found = f"expected a count 0, 1, 2, ..., got {values[i, j]:g}"
            raise TableError(f"{self.at(i, names[j])}: {found}. Correct or remove the row.")
        return values

    def whole(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return some columns as whole numbers, shape `(N, len(names))`.

        Raises:
            TableError: there is no such column, or a cell in it is not such a number.
        """
        values = self.numbers(names)
        wrong = np.argwhere(values != np.floor(values))
        if len(wrong):
            i, j = wrong[0]
            raise TableError(f"{self.at(i, names[j])}: expected a whole number, got {values[i, j]:g}. Correct it.")
        return values.astype(np.int64)

    def cells(self, name: str) -> list[Any]:
        """Return one column as it is written.

        Raises:
            TableError: there is no such column.
        """
        return list(self._column(name))

    def at(self, row: int, name: str | None = None) -> str:
        """Say where a row is, and a cell of it."""
        where = f"{self.source}, {self.unit} {self.lines[row]}"
        return where if name is None else f'{where}, column "{name}"'

    def _column(self, name: str) -> npt.NDArray[Any]:
        if name not in self.names:
            known = ", ".join(self.names)
            raise TableError(f'{self.source}: expected a column "{name}", got {known}. Choose with --columns.')
        if self.names.count(name) > 1:
            found = self.names.count(name)
            raise TableError(f'{self.source}: expected one column "{name}", got {found}. Rename all but one.')
        return self.columns[self.names.index(name)]


def read(path: Path, *, separator: str | None = None, decimal: str = ".") -> Table:
    """Read a file of cells separated by commas, semicolons or tabs, whichever its first line has most of; or parquet.

    The first line is a header if none of its cells is a number. Empty lines are skipped, and columns without a name and
    without a cell.

    Args:
        path: of the file; parquet if it ends in .parquet or .pq.
        separator: of cells, if it is another; a blank stands for any number of them.
        decimal: the mark in numbers, "." or ",".

    Raises:
        TableError: the file cannot be opened, is not text, holds no rows, or has rows of different lengths; or pandas,
            which reads it, is not installed.
    """
    if path.suffix.lower() in PARQUET:
        return _parquet(path)
    pandas = _pandas(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TableError(f"{path}: expected a readable file, got: {error.strerror}. Check the name.") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: expected a text file in UTF-8, got: {error}. Save it so.") from error
    lines = text.split("\n")
    before = next((k for k, line in enumerate(lines) if line.strip()), None)
    if before is None:
        raise TableError(f"{path}: expected rows of numbers, got none. Give one observation a line.")
    if separator == decimal:
        raise TableError(f'--separator: expected another mark than that in numbers, got "{separator}" for both.')
    usual = ",;\t" if decimal == "." else ";\t"
    chosen = separator or max(usual, key=lines[before].count)
    width = max(len(line.split(None if chosen == " " else chosen)) for line in lines)
    try:
        frame = pandas.read_csv(
            io.StringIO("\n".join(lines[before:])),
            sep=r"\s+" if chosen == " " else chosen,
            engine="python",  # which tells a cell that is not there from one that is empty
            header=None,
            names=range(width),
            index_col=False,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            skipinitialspace=True,
        )
    except pandas.errors.ParserError as error:
        raise TableError(f"{path}: expected comma-separated text, got: {error}. Is a quote left open?") from error
    return _laid_out(str(path), frame, before, decimal)


def _laid_out(source: str, frame: Any, before: int, decimal: str) -> Table:
    """Tell header, rows and empty lines apart, and count lines: a quoted cell may go on over several."""
    lengths = frame.notna().sum(axis=1).to_numpy()
    frame = frame.fillna("").apply(lambda column: column.str.strip())
    within = sum((frame[name].str.count("\n").to_numpy() for name in frame), start=np.zeros(len(frame), dtype=int))
    lines = before + 1 + np.arange(len(frame)) + np.cumsum(within) - within
    kept = (frame != "").to_numpy().any(1)
    frame, lines, lengths = frame[kept], lines[kept], lengths[kept]
    for line, length in zip(lines, lengths, strict=True):
        if length != lengths[0]:
            remedy = "Give every row the same number of cells."
            raise TableError(f"{source}, line {line}: expected {lengths[0]} cells, got {length}. {remedy}")
    frame = frame.loc[:, (frame != "").to_numpy().any(0)]
    if decimal != ".":
        frame = frame.apply(lambda column: column.map(lambda cell: _pointed(cell, decimal)))
    columns = [frame[name].to_numpy(dtype=object) for name in frame]
    headed = all(_number(cells[0]) is None for cells in columns)
    names = tuple(str(cells[0]) if headed else str(j + 1) for j, cells in enumerate(columns))
    rows = slice(int(headed), None)
    if not len(lines[rows]):
        raise TableError(f"{source}: expected rows of numbers, got none. Give one observation a line.")
    return Table(source, names, headed, tuple(cells[rows] for cells in columns), lines[rows].tolist())


def _parquet(path: Path) -> Table:
    """Read a file of columns with types; an index that has a name is a column, too."""
    pandas = _pandas(path)
    try:
        frame = pandas.read_parquet(path)
    except ImportError as error:
        raise TableError(f"{path}: expected pyarrow, which reads parquet: pip install 'em-pyro[data]'.") from error
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: expected a parquet file, got: {' '.join(str(error).split())}.") from error
    frame = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    if not len(frame):
        raise TableError(f"{path}: expected rows of numbers, got none.")
    columns = tuple(frame.iloc[:, j].to_numpy(dtype=object, na_value=None) for j in range(frame.shape[1]))
    lines = range(1, len(frame) + 1)
    return Table(str(path), tuple(map(str, frame)), headed=True, columns=columns, lines=lines, unit="row")


def known(source: str, columns: Mapping[str, npt.NDArray[Any]]) -> Table:
    """Return columns that are there already as a table; its first line would be a header."""
    rows = len(next(iter(columns.values())))
    lines = range(2, rows + 2)
    return Table(source, tuple(columns), headed=True, columns=tuple(columns.values()), lines=lines)


def write(path: Path, columns: Mapping[str, Iterable[object]]) -> None:
    """Write columns with their names: as parquet if the file's name ends so, else separated by commas.

    Raises:
        TableError: pandas or pyarrow, which writes it, is not installed.
    """
    frame = _pandas(path).DataFrame(columns)
    if path.suffix.lower() not in PARQUET:
        frame.to_csv(path, index=False, lineterminator="\n")
        return
    try:
        frame.to_parquet(path, index=False)
    except ImportError as error:
        raise TableError(f"{path}: expected pyarrow, which writes parquet: pip install 'em-pyro[data]'.") from error


def _pandas(path: Path) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise TableError(f"{path}: expected pandas, which reads tables: pip install 'em-pyro[data]'.") from error
    return pandas


def _pointed(cell: str, decimal: str) -> str:
    """Write a number with a point; other cells stay."""
    found = cell.replace(decimal, ".", 1)
    return cell if _number(found) is None else found


def _numbers(cells: npt.NDArray[Any]) -> Array:
    """Return cells as numbers, NaN where there is none."""
    found = (_number(cell) for cell in cells)
    return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


def _number(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None
