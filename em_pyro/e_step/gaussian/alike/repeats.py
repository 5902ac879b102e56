"""How often a component is there: row weights, by `poutine.scale` around all of its sites.

A row of weight `w` is `w` rows with latents of their own. Its log evidence and its statistics are multiplied, and the
law of its latents is that of one row. A scale around some sites of a component is no such thing: it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ....errors import ModelError
from ....program.named import Named
from ....program.site import Site
from ..rows import Layout, Rows
from .components import Members


def repeats_of(site: Site, layout: Layout) -> Tensor | None:
    """How often every row of a site is there, (rows,); None is once.

    Raises:
        ModelError: coordinates of a row differ.
    """
    if site.once:
        return None
    scale = site.row_weights
    if not scale.names and float(scale.tensor) == 1:
        return None
    found = layout.named(scale)
    if bool((found != found[:1, :, :1]).any()):
        raise ModelError(
            f'Site "{site.name}": expected one row weight (poutine.scale) for all that the same continuous latents '
            f"enter, got several. {REMEDY}"
        )
    return found[0, :, 0].expand(layout.sizes[1])


def rows_below(repeats: Sequence[Tensor | None], rows: int) -> Tensor | None:
    """The same of several sites of so many rows each, one below the other; None is once."""
    if all(part is None for part in repeats):
        return None
    return torch.cat([torch.ones(rows, dtype=torch.float64) if part is None else part for part in repeats])


REMEDY = "A weight says how often a row is there with its latents: put all of them inside the scale, or repeat rows."


def repeats_of_members(sites: Sequence[Rows], members: Members) -> Tensor | None:
    """How often every member of a kind is there, (members,); None is once.

    Args:
        sites: all.
        members: of one kind.

    Raises:
        ModelError: sites of a component differ.
    """
    first, found = "", torch.ones((), dtype=torch.float64)
    for rows, mine in zip(sites, members.rows, strict=True):
        if mine is None:
            continue
        each = torch.ones_like(mine, dtype=torch.float64) if rows.repeats is None else rows.repeats[mine]
        found = found if first else each[:, 0]
        if bool((each != found.unsqueeze(-1)).any()):
            raise _differ(rows.site, f'site "{first}" has' if first not in ("", rows.site) else "")
        first = first or rows.site
    return None if not first or bool((found == 1).all()) else found


def of_entries(members: Sequence[Members], repeats: Sequence[Tensor | None], count: int) -> Tensor:
    """How often every one of `count` latent entries is there, (count,)."""
    found = torch.ones(count, dtype=torch.float64)
    for one, each in zip(members, repeats, strict=True):
        if each is not None:
            found[one.entries] = each.unsqueeze(-1).expand(one.entries.shape)
    return found


def check_observed(name: str, which: Tensor, repeats: Tensor | None, of_entries: Tensor) -> None:
    """Refuse a site that observes latents exactly, and is there another number of times than they are.

    Args:
        name: of the site.
        which: the latent entry of every state, row and coordinate, -1 for none.
        repeats: of its rows.
        of_entries: of all latent entries.
    """
    mine = torch.ones((), dtype=torch.float64) if repeats is None else repeats.reshape((1, -1, 1))
    if bool(((which >= 0) & (of_entries[which.clamp(min=0)] != mine)).any()):
        raise _differ(name, "they have")


def _differ(name: str, other: str) -> ModelError:
    than = f"another than {other}" if other else "several"
    return ModelError(
        f'Site "{name}": expected one row weight (poutine.scale) around all sites whose continuous latents hang '
        f"together, got {than}. {REMEDY}"
    )


def rows_of_factor(scale: Named | None, plates: Mapping[str, int]) -> Tensor | None:
    """How often every row of the factor is there, (rows,); None is once."""
    if scale is None:
        return None
    sizes = tuple(plates.values())
    return scale.align(tuple(plates)).double().expand(sizes).reshape(-1)


def within(repeats: Tensor | None, outer: Tensor | None, at: Tensor | None) -> Tensor | None:
    """How often every member is there in a row of the factor that is there once, (members,); None is once.

    Args:
        repeats: of the members.
        outer: of the rows of the factor.
        at: the row of every member; None is the only one.
    """
    if outer is None:
        return repeats
    mine = outer[at] if at is not None else outer
    every = torch.ones_like(mine) if repeats is None else repeats
    # A row that is there no time has a posterior as well: that of one.
    return torch.where(every == mine, 1.0, torch.where(mine == 0, 0.0, every / torch.where(mine == 0, 1.0, mine)))
