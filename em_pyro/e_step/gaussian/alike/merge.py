"""Sites that are the same function of their own latents, the steps of a loop, as one site of more rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ....program.named import broadcast
from ..rows import Part, Rows


def merged(sites: Sequence[tuple[Rows, tuple[str, ...]]]) -> list[tuple[Rows, tuple[str, ...]]]:
    """Join what is alike, each under the name of its first site, with the names of all."""
    groups: dict[Any, list[tuple[Rows, tuple[str, ...]]]] = {}
    for rows, names in sites:
        ordered = _ordered(rows, len(names))
        groups.setdefault(_key(ordered), []).append((ordered, names))
    return [(_joined([rows for rows, _ in some]), tuple(n for _, ns in some for n in ns)) for some in groups.values()]


def _ordered(rows: Rows, sites: int) -> Rows:
    """Latents in a fixed order, those that come last in the program first."""
    if rows.which.shape[1] < 2:
        return rows
    by_site = _ordered_by_site(rows, sites)
    if _varying(by_site):
        by_row = _ordered_by_row(rows)
        if _varying(by_row) < _varying(by_site):
            return by_row
    return by_site


def _ordered_by_site(rows: Rows, sites: int) -> Rows:
    """The same within each of so many sites, all rows of one alike."""
    last = rows.which.reshape((sites, -1, rows.which.shape[1])).amax(1)
    order = last.argsort(dim=1, descending=True, stable=True)
    if bool((order == order[0]).all()):
        one = order[0]
        return replace(rows, which=rows.which[:, one], slopes=tuple(rows.slopes[k] for k in one.tolist()))
    return _put(rows, order.repeat_interleave(len(rows.which) // sites, 0), rows.which.shape[1])


def _varying(rows: Rows) -> int:
    """How many slopes differ from row to row."""
    return sum(part is not None and part.shape[1] > 1 for slot in rows.slopes for part in slot)


def _ordered_by_row(rows: Rows) -> Rows:
    """The same within each row: neighbours in time take the same latents in turns, and with the same slopes."""
    order = rows.which.argsort(dim=1, descending=True, stable=True)
    return _put(rows, order, int((rows.which >= 0).sum(1).amax()))


def _put(rows: Rows, order: Tensor, used: int) -> Rows:
    """Slots in an order of every row, (rows, slots), of which so many are used."""
    which = rows.which.gather(1, order)
    slopes = [[_picked(rows, order[:, f], which[:, f] >= 0, j) for j in range(rows.count + 1)] for f in range(used)]
    return replace(rows, which=which[:, :used], slopes=tuple(tuple(slot) for slot in slopes))


def _picked(rows: Rows, slot: Tensor, some: Tensor, j: int) -> Part:
    """Slopes of a covariate, of one slot in every row; thin where all rows that have one have the same."""
    parts = [slopes[j] for slopes in rows.slopes]
    known = [part for part in parts if part is not None]
    if not known:
        return None
    shape = broadcast(*(part.shape for part in known))
    nothing = torch.zeros((1, 1, 1), dtype=torch.float64)
    every = torch.stack([(nothing if part is None else part).expand(shape) for part in parts])
    at = slot.reshape((1, 1, -1, 1))
    found = every.expand((len(parts), shape[0], len(slot), shape[2])).gather(0, at.expand((1, shape[0], -1, shape[2])))[
        0
    ]
    first = found[:, int(some.byte().argmax())].unsqueeze(1)
    if bool(((found == first) | ~some.reshape((1, -1, 1))).all()):
        return first if bool((first != 0).any()) else None
    return found


def _key(rows: Rows) -> Any:
    """What sites that are joined have in common: all but latents and numbers."""
    parts = (rows.index, rows.scale, rows.known)
    return (
        rows.joint,
        rows.layout.sizes[0],
        rows.layout.sizes[2],
        rows.entries,
        tuple((tuple(part.shape), tuple(part.reshape(-1).tolist())) for part in parts),
        tuple(None if part is None else (part.shape[0], part.shape[2]) for part in rows.constants),
        tuple(tuple(None if s is None else (s.shape[0], s.shape[2]) for s in slot) for slot in rows.slopes),
        (rows.cells.shape[0], rows.cells.shape[2]),
        tuple(rows.places),
        rows.weight is None,
        None if rows.log_factors is None else (rows.log_factors.shape[0], rows.log_factors.shape[2]),
    )


def _joined(some: Sequence[Rows]) -> Rows:
    """Rows of all sites, one below the other."""
    first = some[0]
    if len(some) == 1:
        return first
    counts = [rows.layout.sizes[1] for rows in some]
    constants = zip(*(rows.constants for rows in some), strict=True)
    slopes = [zip(*(rows.slopes[f] for rows in some), strict=True) for f in range(first.which.shape[1])]
    logs = _below([rows.log_factors for rows in some], counts)
    weights = None if first.weight is None else torch.cat([r.weight for r in some if r.weight is not None])
    cells = _below([rows.cells for rows in some], counts)
    repeats = None
    if any(rows.repeats is not None for rows in some):
        each = zip(some, counts, strict=True)
        repeats = torch.cat([torch.ones(n).double() if r.repeats is None else r.repeats for r, n in each])
    assert cells is not None
    layout = replace(first.layout, several=sum(counts))
    return replace(
        first,
        layout=layout,
        which=torch.cat([rows.which for rows in some]),
        constants=tuple(_below(parts, counts) for parts in constants),
        slopes=tuple(tuple(_below(parts, counts) for parts in slot) for slot in slopes),
        cells=cells,
        weight=weights,
        log_factors=logs,
        places={p: torch.cat([rows.places[p] for rows in some]) for p in first.places},
        repeats=repeats,
    )


def _below(parts: Sequence[Part], counts: Sequence[int]) -> Part:
    """Parts of all sites one below the other; one of them if they are the same in all rows."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if all(part.shape[1] == 1 and torch.equal(part, known[0]) for part in known):
        return known[0]
    spread = [p.expand((p.shape[0], n, p.shape[2])) for p, n in zip(known, counts, strict=True)]
    return torch.cat(spread, 1)
