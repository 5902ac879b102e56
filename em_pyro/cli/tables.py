"""Read a CSV file that a person made, and say in one line what is wrong with it."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class TableError(ValueError):
    """A file that cannot be read as the table that is needed."""


@dataclass(frozen=True)
class Table:
    """The cells of a CSV file.

    Attributes:
        source: the file's name, for messages.
        names: of the columns; "1", "2", ... where the file has no header.
        headed: whether the file has a header.
        rows: for each row its line in the file and its cells.
    """

    source: str
    names: tuple[str, ...]
    headed: bool
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    def numbers(self, names: Sequence[str]) -> Array:
        """Return some columns as finite numbers, shape `(N, len(names))`.

        Raises:
            TableError: there is no such column, or a cell in it is not a finite number.
        """
        places = [self._place(name) for name in names]
        values = np.empty((len(self.rows), len(names)))
        for i, (line, cells) in enumerate(self.rows):
            for j, place in enumerate(places):
                value = _number(cells[place])
                if value is None or not math.isfinite(value):
                    found = f'"{cells[place]}"' if cells[place] else "an empty cell"
                    remedy = "Correct or remove the row, or choose other columns with --columns."
                    raise TableError(f"{self._at(line, names[j])}: expected a number, got {found}. {remedy}")
                values[i, j] = value
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
            where = self._at(self.rows[i][0], names[j])
            raise TableError(
                f"{where}: expected a count 0, 1, 2, ..., got {values[i, j]:g}. Correct or remove the row."
            )
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
            raise TableError(
                f"{self._at(self.rows[i][0], names[j])}: expected a whole number, got {values[i, j]:g}. Correct it."
            )
        return values.astype(np.int64)

    def cells(self, name: str) -> list[str]:
        """Return one column as it is written.

        Raises:
            TableError: there is no such column.
        """
        place = self._place(name)
        return [cells[place] for _, cells in self.rows]

    def _place(self, name: str) -> int:
        if name not in self.names:
            known = ", ".join(self.names)
            raise TableError(f'{self.source}: expected a column "{name}", got {known}. Choose with --columns.')
        return self.names.index(name)

    def _at(self, line: int, name: str) -> str:
        return f'{self.source}, line {line}, column "{name}"'


def read(path: Path, *, separator: str | None = None, decimal: str = ".") -> Table:
    """Read a file of cells separated by commas, semicolons or tabs, whichever its first line has most of; or parquet.

    The first line is a header if none of its cells is a number. Empty lines are skipped.

    Args:
        path: of the file; one that ends in .parquet is read by pyarrow.
        separator: of cells, if it is another.
        decimal: the mark in numbers, "." or ",".

    Raises:
        TableError: the file cannot be opened, is not text, holds no rows, or has rows of different lengths.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    usual = ",;\t" if decimal == "." else ";\t"
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = next((line for line in text.splitlines() if line.strip()), "")
        reader = csv.reader(text.splitlines(), delimiter=separator or max(usual, key=first.count), strict=True)
        rows = [(reader.line_num, tuple(cell.strip() for cell in cells)) for cells in reader]
    except OSError as error:
        raise TableError(f"{path}: expected a readable file, got: {error.strerror}. Check the name.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: expected a text file of comma-separated values, got: {error}.") from error
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if decimal != ".":
        rows = [(line, tuple(_pointed(cell, decimal) for cell in cells)) for line, cells in rows]
    headed = bool(rows) and all(_number(cell) is None for cell in rows[0][1])
    width = len(rows[0][1]) if rows else 0
    names = rows[0][1] if headed else tuple(str(j + 1) for j in range(width))
    rows = rows[headed:]
    if not rows:
        raise TableError(f"{path}: expected rows of numbers, got none. Give one observation a line.")
    for line, cells in rows:
        if len(cells) != width:
            remedy = "Give every row the same number of cells."
            raise TableError(f"{path}, line {line}: expected {width} cells, got {len(cells)}. {remedy}")
    return Table(str(path), names, headed, tuple(rows))


def write(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a file of cells separated by commas, with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)


def _parquet(path: Path) -> Table:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise TableError(f"{path}: expected pyarrow, which reads parquet: pip install 'em-pyro[data]'.") from error
    try:
        found = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: expected a parquet file, got: {' '.join(str(error).split())}.") from error
    columns = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in found.columns]
    rows = tuple((k + 1, cells) for k, cells in enumerate(zip(*columns, strict=True)))
    if not rows:
        raise TableError(f"{path}: expected rows of numbers, got none.")
    return Table(str(path), tuple(found.column_names), True, rows)  # noqa: FBT003


def _pointed(cell: str, decimal: str) -> str:
    """Write a number with a point; other cells stay."""
    found = cell.replace(decimal, ".", 1)
    return found if _number(found) is not None else cell


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
