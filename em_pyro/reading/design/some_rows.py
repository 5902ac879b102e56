"""A program of many rows read by some of them: what differs by row is looked for among what the model was called with.

Every probe of a program whose arguments differ by row is as long as its data. Where what differs is columns of these
(covariates, exposures, numbers of groups), a few rows tell which, and the other rows bring theirs. All rows are then
compared with the model at several random points, and by the gradient: where a row is treated otherwise than those that
were read, the program is read by all of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ...program.changes.lost import arguments_of
from ...program.named import Params, unexpand
from ...program.program import Program
from ...program.site import Site
from ...program.unroll import unroll
from ..bank import Bank
from ..reading import Reading
from .by_row import ByRow
from .called_with import Table
from .compared import other_argument

MANY = 5_000  # rows of the largest plate from which some are read
ENTRIES = 20_000  # of arguments, from which
EVENLY = 40  # of them, and with these the rows with the least and the largest number of every column:
COLUMNS = 500  # of so many; a rare category is one, and no column is the same in all rows that are read


def some_rows(program: Program, run: Mapping[str, Site]) -> Program | None:
    """Return the program on some rows, if it has many whose arguments differ, and what it was called with can be cut.

    Args:
        program: what is read.
        run: of it.
    """
    plate = _longest(program)
    if plate is None or program.integrated or program.by_row or program.plates[plate] < MANY:
        return None
    entries = sum(unexpand(part).numel() for site in run.values() for _, part in arguments_of(site.fn))
    if entries < max(ENTRIES, program.plates[plate]):
        return None
    count = program.plates[plate]
    rows, left = [torch.linspace(0, count - 1, EVENLY, dtype=torch.float64).long()], COLUMNS
    for part in Table.of(program, count).parts.values():
        part = part[:, :left]
        left -= part.shape[1]
        rows += [part.argmin(0).cpu(), part.argmax(0).cpu()]
    return program.at(plate, torch.cat(rows).unique())


def carried(
    program: Program,
    some: Program,
    readings: Mapping[str, Reading],
    bank: Bank,
    probes: Sequence[tuple[Params, Mapping[str, Site]]],
) -> dict[str, Reading] | None:
    """Return the readings of some rows on all rows; None where they are not what the model does at all probes.

    Args:
        program: of all rows.
        some: the same of those that were read.
        readings: of these.
        bank: that they select from.
        probes: values of all parameters, and all rows there.
    """
    runs = [(values, unroll(dict(sites))) for values, sites in probes]
    found = ByRow(readings, some, _longest(program)).on(program, runs[0][1])
    try:
        return None if found is None or any(other_argument(found, bank, *run) for run in runs) else found
    except IndexError:  # a column that is no index of other rows
        return None


def _longest(program: Program) -> str | None:
    return max(program.plates, key=lambda plate: program.plates[plate], default=None)
