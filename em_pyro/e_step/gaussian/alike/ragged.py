"""Components that are alike but for how many rows they have, as one kind: all have as many, and some are left out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ..rows import Rows
from .components import Members


def joined(sites: Sequence[Rows], members: Sequence[Members]) -> list[Members]:
    """Join kinds in which all rows of a site are of the same cells and take the same latents.

    Only those are joined whose numbers of rows have the same power of two: at most as many again are put in.
    """
    groups: dict[Hashable, list[Members]] = {}
    for k, one in enumerate(members):
        groups.setdefault(_key(sites, one) or k, []).append(one)
    return [some[0] if len(some) == 1 else _together(some) for some in groups.values()]


def _key(sites: Sequence[Rows], one: Members) -> Hashable | None:
    """What kinds that are joined have in common; None if rows of a site differ."""
    found: list[Hashable] = [one.entries.shape[1]]
    for rows, mine, slots in zip(sites, one.rows, one.slots, strict=True):
        if mine is None or slots is None:
            found.append(None)
            continue
        labels = rows.labels[mine[0]]
        if bool((labels != labels[:1]).any()) or bool((slots != slots[:1]).any()):
            return None
        found.append((int(labels[0]), tuple(slots[0].tolist()), mine.shape[1].bit_length()))
    return tuple(found)


def _together(some: Sequence[Members]) -> Members:
    rows, slots, present = list[Tensor | None](), list[Tensor | None](), list[Tensor | None]()
    for parts, own in zip(
        zip(*(one.rows for one in some), strict=True), zip(*(one.slots for one in some), strict=True), strict=True
    ):
        known = [part for part in parts if part is not None]
        if not known:
            rows.append(None)
            slots.append(None)
            present.append(None)
            continue
        width = max(part.shape[1] for part in known)
        rows.append(torch.cat([torch.cat([p, p[:, :1].expand((-1, width - p.shape[1]))], 1) for p in known]))
        there = [torch.arange(width).expand((len(p), width)) < p.shape[1] for p in known]
        slots.append(next(part for part in own if part is not None and len(part) == width))
        present.append(None if all(p.shape[1] == width for p in known) else torch.cat(there))
    return Members(torch.cat([one.entries for one in some]), tuple(rows), tuple(slots), tuple(present))
