"""Everything that a fit says, as one table: every entry with its standard error, criteria, how it ended, notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from math import nan
from typing import Any

import torch
from torch import Tensor

from ..errors import EMError, ParameterError, library
from ..program.named import Params, unraveled
from ..records.shown import Shown
from .criteria import Criteria
from .information.intervals import deviations
from .information.record import Information

MANY = 1000  # entries, beyond which standard errors are not computed unasked
LONG, WIDE = 60, 110  # entries of a parameter without standard errors that is laid out by rows; columns of the text


@dataclass(frozen=True)
class Entry:
    """One entry of a parameter; NaN where there is no number.

    Attributes:
        parameter: its name.
        index: the entry, one number for each dimension.
        estimate: the fitted value.
        se: its standard error.
        lower: of its interval.
        upper: likewise.
        note: why there is no standard error, or nothing.
    """

    parameter: str
    index: tuple[int, ...]
    estimate: float
    se: float = nan
    lower: float = nan
    upper: float = nan
    note: str = ""

    @property
    def label(self) -> str:
        """The entry as it is written in Python."""
        return self.parameter + (f"[{', '.join(map(str, self.index))}]" if self.index else "")


@dataclass(frozen=True)
class Summary(Shown):
    """A fit as a table. Print it.

    Entries above the diagonal are left out: of a triangle, where they are zero, and of a symmetric matrix.

    Attributes:
        head: how the fit ended.
        entries: of all parameters.
        criteria: AIC, BIC and their like; None if they cannot be had.
        notes: of the fit, and what could not be had and why.
        level: of the intervals.
    """

    head: tuple[str, ...]
    entries: tuple[Entry, ...] = field(repr=False)
    criteria: Criteria | None
    notes: tuple[str, ...]
    level: float

    def to_frame(self) -> Any:
        """Return the table as a pandas DataFrame, a row an entry.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        columns = [part.name for part in fields(Entry)]
        pandas = library("pandas", "Summary.to_frame", "pandas")
        return pandas.DataFrame([astuple(entry) for entry in self.entries], columns=columns)

    def __str__(self) -> str:
        """Lay out the table: a line an entry, a line a row of what is long and has no standard errors."""
        lines = [("parameter", "estimate", "se", f"{100 * self.level:g} % interval", "")]
        long = dict[str, list[Entry]]()
        for name, entries in _by_parameter(self.entries).items():
            if len(entries) > LONG and all(entry.se != entry.se and not entry.note for entry in entries):
                long[name] = entries
                continue
            lines += [_line(entry) for entry in entries]
        widths = [max(len(line[k]) for line in lines) for k in range(4)]
        cells = ([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[4]] for line in lines)
        text = ["  ".join(row).rstrip() for row in cells]
        text = [text[0], "  ".join("-" * width for width in widths), *text[1:]] if len(lines) > 1 else []
        text += [row for entries in long.values() for row in _rows(entries)]
        counted = [] if self.criteria is None else str(self.criteria).split("\n")
        return "\n".join([*self.head, "", *text, "", *counted, *([""] if counted and self.notes else []), *self.notes])


def summary(
    params: Params,
    head: Sequence[str],
    notes: Sequence[str],
    information: Callable[[], Information],
    criteria: Callable[[], Criteria],
    level: float,
) -> Summary:
    """Gather what a fit says; what cannot be had is named in the notes.

    Raises:
        ParameterError: `level` is none.
    """
    deviations(level)
    entries, known, said = list[Entry](), None, list(notes)
    try:
        if (many := sum(value.numel() for value in params.values())) > MANY:
            raise ParameterError(f"{many} entries are more than {MANY}. Ask Fit.information().")
        known = information()
    except EMError as error:
        said.append(f"no standard errors: {error}")
    told = {} if known is None else {row.name: row for row in known.rows(level)}
    for name, value in params.items():
        free = known is not None and name in known.slopes
        for entry in _entries(name, value.detach().cpu()):
            row = told.get(entry.label)
            if row is not None:
                entries.append(replace(entry, se=row.se, lower=row.lower, upper=row.upper, note=row.note))
            elif not free:
                entries.append(entry if known is None else replace(entry, note="fixed"))
    said += [note for note in (() if known is None else known.notes) if note not in said]
    counted = None
    try:
        counted = criteria()
    except EMError as error:
        said.append(f"no criteria: {error}")
    return Summary(tuple(head), tuple(entries), counted, tuple(said), level)


def _entries(name: str, value: Tensor) -> Iterator[Entry]:
    places = zip(*(p.tolist() for p in unraveled(torch.arange(value.numel()), value.shape)), strict=True)
    indices = places if value.dim() else iter([()])
    for index, number in zip(indices, value.reshape(-1).tolist(), strict=True):
        yield Entry(name, tuple(index), float(number))


def _by_parameter(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.parameter, []).append(entry)
    return found


def _line(entry: Entry) -> tuple[str, str, str, str, str]:
    silent = entry.se != entry.se
    interval = "" if silent else f"[{entry.lower:.6g}, {entry.upper:.6g}]"
    return entry.label, f"{entry.estimate:.6g}", "" if silent else f"{entry.se:.4g}", interval, entry.note


def _rows(entries: Sequence[Entry]) -> Iterator[str]:
    """Lay out a parameter by rows: what differs in the last index stands side by side."""
    rows: dict[tuple[int, ...], list[str]] = {}
    for entry in entries:
        rows.setdefault(entry.index[:-1], []).append(f"{entry.estimate:.6g}")
    for row, numbers in rows.items():
        text = f"{entries[0].parameter}[{', '.join([*map(str, row), ':'])}] "
        indent = len(text)
        for number in numbers:
            if len(text) + 1 + len(number) > WIDE:
                yield text.rstrip()
                text = " " * indent
            text += " " + number
        yield text
