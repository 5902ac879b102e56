"""Many components of one precision replaced by few that have the same second moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .block import Block, Patterns
from .group import Group

WORTH = 2  # times fewer members, at least
ROWS = 500_000  # numbers of rows that are factored at once


def squeezed(group: Group) -> Group:
    """Replace the members of every pattern by the rows of a triangular factor, where that are fewer.

    All that depends on a member is a column: what stands for one, constants that vary, observed latents. A component
    enters by sums of products of these, and the rows `R` of `X = Q R` have the same.
    """
    columns = [torch.ones((len(group.patterns.of), 1), dtype=torch.float64), *_columns(group)]
    width, sizes = sum(part.shape[1] for part in columns), group.patterns.sizes
    kept = torch.where(sizes > width, width, sizes)
    if WORTH * int(kept.sum()) > len(group.patterns.of):
        return group
    parts, of, first, at = [], [], [], 0
    for p in range(len(sizes)):
        members = torch.nonzero(group.patterns.of == p).squeeze(-1)
        parts.append(_moments(columns, members, group.repeats, width))
        first.append(at)
        of.append(torch.full((len(parts[-1]),), p))
        at += len(parts[-1])
    new = torch.cat(parts)
    patterns = Patterns(torch.cat(of), torch.tensor(first), sizes)
    blocks, column = list[Block](), 1
    for block in group.blocks:
        constants = list(block.constants)
        for j, part in enumerate(constants):
            if part is not None and part.shape[1] > 1:
                shape = (len(new), *part.shape[2:])
                size = part[0, 0].numel()
                constants[j] = new[:, column : column + size].reshape(shape).unsqueeze(0)
                column += size
        offset = block.offset
        if offset is not None:
            total = torch.zeros((1, len(sizes)), dtype=torch.float64)
            each = offset.expand((1, len(group.patterns.of)))
            total.index_add_(1, group.patterns.of, each if group.repeats is None else each * group.repeats)
            offset = torch.zeros((1, len(new)), dtype=torch.float64)
            offset[:, patterns.first] = total
        blocks.append(replace(block, constants=tuple(constants), offset=offset))
    given = None if group.given is None else new[:, column : column + group.k]
    return replace(group, blocks=tuple(blocks), patterns=patterns, given=given, one=new[:, 0], repeats=None)


def _moments(columns: Sequence[Tensor], members: Tensor, repeats: Tensor | None, width: int) -> Tensor:
    """Rows of some members, or as many as there are columns with the same second moments.

    The factor of some rows stands for them above the next ones, so that few rows are copied at once.
    """
    found = None
    for some in members.split(max(ROWS // width, 4 * width)):
        rows = torch.cat([part[some] for part in columns], 1)
        if repeats is not None:  # second moments of as many
            rows = rows * repeats[some].sqrt().unsqueeze(-1)
        rows = rows if found is None else torch.cat([found, rows])
        found = torch.linalg.qr(rows, mode="r").R if len(members) > width else rows
    assert found is not None
    return found


def _columns(group: Group) -> Iterator[Tensor]:
    """All that depends on a member, (n, columns)."""
    for block in group.blocks:
        for part in block.constants:
            if part is not None and part.shape[1] > 1:
                yield part[0].flatten(1)
    if group.given is not None:
        yield group.given
