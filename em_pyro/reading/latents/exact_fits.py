"""Latents that can take all residuals of a free scale to zero: their joint density with it has no bound.

A latent that is maximised is a parameter. Where such parameters reach every observation that has a certain scale, and
can take each of them by itself, residuals go to zero and the scale with them: with values of a Gaussian process at the
places that were observed, and with a regression that has as many coefficients as rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from ...program.continuous.local import NORMAL
from ...program.marks import reached, traced_run
from ...program.masks import seen_values
from ...program.named import Params, unwrap
from ...program.program import Program
from ...program.site import Site
from ..improper import vanishing

MOST = 2000  # observations of one scale up to which this is looked at
WIDEST = 4096  # entries of all parameters up to which it is: more latents than that have no whole matrix
ENTRIES = 50  # of one parameter
UNEVEN = 20  # by how much fewer observations than on average one of them may have


def fitting_exactly(
    program: Program,
    values: Params,
    leaves: Mapping[str, Tensor],
    traced: Mapping[str, Site],
    normal: Collection[str],
    integrated: Mapping[str, Tensor],
) -> dict[str, str]:
    """Name these latents, and say why.

    Args:
        program: in which they are parameters with a prior.
        values: of all parameters.
        leaves: their unconstrained values, from which `traced` was computed.
        traced: the sites, with their gradients; those that no discrete latent reaches.
        normal: latents that are asked for.
        integrated: leaves of those that are integrated; what they spread has a density, however small the scale.
    """
    observed = {n: s for n, s in traced.items() if s.role == "observed" and type(unwrap(s.fn).base).__name__ in NORMAL}
    found = dict[str, str]()
    if not observed or not normal:
        return found
    for name, sites in vanishing(program, values, leaves, traced, observed).items():
        located = {n: leaf for n, leaf in leaves.items() if n != name and leaf.requires_grad}
        most = sum(leaf.numel() for leaf in located.values())
        count = values[name].numel()
        if (
            most > WIDEST
            or count > ENTRIES
            or sum(site.value.numel() for site in sites.values()) > UNEVEN * most * count
        ):
            continue
        for cells in (_unspread(sites, some, integrated) for some in _cells(program, values, name, sites)):
            latents = _fitting(sites, cells, located, normal)
            if latents and _affine(program, values, latents, cells):
                why = f'it takes all that is observed with scale "{name}", which may go to zero'
                found |= {latent: why for latent in latents if latent not in found}
    return found


def _cells(program: Program, values: Params, name: str, sites: Mapping[str, Site]) -> Iterator[dict[str, Tensor]]:
    """Of every entry of a parameter the observations in whose scale it is, by site."""
    seen = {n: seen_values(site) for n, site in sites.items()}
    if values[name].numel() == 1 or any("scale" not in vars(unwrap(site.fn).base) for site in sites.values()):
        yield seen
        return
    for k in range(values[name].numel()):
        moved = values[name].clone(memory_format=torch.contiguous_format)
        moved.view(-1)[k] += 0.1 * (1 + moved.view(-1)[k].abs())
        with torch.no_grad():
            run = program.run({**values, name: moved})
        parts = {n: unwrap(run[n].fn).base.scale != unwrap(site.fn).base.scale for n, site in sites.items()}  # type: ignore[attr-defined]
        yield {n: part.broadcast_to(seen[n].shape) & seen[n] for n, part in parts.items()}


def _unspread(
    sites: Mapping[str, Site], cells: Mapping[str, Tensor], integrated: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Leave out the observations whose location an integrated latent moves.

    Slopes by latents, weighted by observation, are linear in these weights: their own slopes are what each location
    moves by, of all observations at once.
    """
    found = dict(cells)
    for name, leaves in reached(sites, integrated, lambda site: [_loc(site)]).items():
        loc, which = _loc(sites[name]).broadcast_to(cells[name].shape), [integrated[leaf] for leaf in leaves]
        weights = torch.ones_like(loc).requires_grad_()
        slopes = torch.autograd.grad(loc, which, weights, create_graph=True, allow_unused=True) if which else ()
        moves = [
            (s * torch.linspace(1.0, 2.0, s.numel()).to(s).reshape(s.shape)).sum() for s in slopes if s is not None
        ]
        if moves:
            (moved,) = torch.autograd.grad(torch.stack(moves).sum(), weights, retain_graph=True)
            found[name] = cells[name] & (moved == 0)
    return found


def _fitting(
    sites: Mapping[str, Site], cells: Mapping[str, Tensor], located: Mapping[str, Tensor], normal: Collection[str]
) -> list[str]:
    """The latents without which locations could not take every one of the observations."""
    n = sum(int(part.sum()) for part in cells.values())
    columns = sum(leaf.numel() for leaf in located.values())
    if not 0 < n <= min(MOST, columns):
        return []
    by_leaf = {name: torch.zeros((n, leaf.numel()), dtype=torch.float64) for name, leaf in located.items()}
    inside, row = reached(sites, located, lambda site: [_loc(site)]), 0
    for name, site in sites.items():
        for cell in _locations(site, cells[name]):
            if not inside[name]:
                return []
            leaves = [located[leaf] for leaf in inside[name]]
            slopes = torch.autograd.grad(cell, leaves, retain_graph=True, allow_unused=True)
            for leaf, slope in zip(inside[name], slopes, strict=True):
                if slope is not None:
                    by_leaf[leaf][row] = slope.reshape(-1)
            row += 1
    every = torch.cat(list(by_leaf.values()), 1)
    others = torch.cat([torch.zeros((n, 1)).double(), *(part for k, part in by_leaf.items() if k not in normal)], 1)
    if int(torch.linalg.matrix_rank(every)) < n or int(torch.linalg.matrix_rank(others)) == n:
        return []
    return [k for k, part in by_leaf.items() if k in normal and bool(part.any())]


def _affine(program: Program, values: Params, latents: Collection[str], cells: Mapping[str, Tensor]) -> bool:
    """Whether locations have the same slopes by these latents elsewhere; what is curved has no exact integral."""
    generator, found = torch.Generator().manual_seed(3), list[Tensor]()
    single = any(values[name].dtype == torch.float32 for name in latents)
    for _ in range(2):
        noise = {n: torch.randn(values[n].shape, generator=generator, dtype=torch.float64) for n in latents}
        leaves, run = traced_run(
            program, {**values, **{n: values[n] + part.to(values[n]) for n, part in noise.items()}}
        )
        parts = [_locations(run[name], some).double() for name, some in cells.items()]
        loc = torch.cat(parts)
        total = (loc * torch.linspace(1.0, 2.0, len(loc), dtype=torch.float64)).sum()
        slopes = torch.autograd.grad(total, [leaves[name] for name in latents], allow_unused=True)
        found.append(torch.cat([s.reshape(-1).double() for s in slopes if s is not None]))
    return bool((found[0] - found[1]).abs().max() <= (1e-4 if single else 1e-9) * found[0].abs().max())


def _locations(site: Site, cells: Tensor) -> Tensor:
    """The locations of some observations, side by side."""
    return _loc(site).broadcast_to(cells.shape)[cells]


def _loc(site: Site) -> Tensor:
    return unwrap(site.fn).base.loc  # type: ignore[attr-defined,no-any-return]
