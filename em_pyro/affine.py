"""Locations that are affine in their parameters: evaluate their columns, and keep those that explain every probe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .bank import Affine, RoleMap
from .charts import domain_of
from .families import family_of
from .match import Atoms, entering, match
from .named import squeeze, unwrap
from .program import Params, Program, Site
from .reading import Reading, Refusal, Unrecognised

AFFINE_ENTRIES = 512
AFFINE_SIZE = 50_000_000


def may_be_affine(site: Site, refusal: Refusal) -> bool:
    """Whether what was refused is the location of a Normal, which may be affine in its parameters."""
    family = family_of(unwrap(site.fn).base)
    return family is not None and family.solver == "normal" and '"loc"' in refusal.why


def affine_readings(
    program: Program, names: set[str], probes: Sequence[tuple[Params, Mapping[str, Site]]], atoms: Atoms
) -> Iterator[tuple[str, Reading]]:
    """Evaluate the columns of the locations of `names`, and keep those that explain every probe."""
    real = [n for n, p in program.parameters.items() if domain_of(p.constraint) == "real"]
    entries = [(n, i) for n in real for i in range(program.parameters[n].initial.numel())]
    if not entries or len(entries) > AFFINE_ENTRIES:
        return
    values = dict(probes[0][0]) | {n: torch.zeros_like(program.parameters[n].initial) for n in real}

    def location(at: Params) -> dict[str, Tensor]:
        with torch.no_grad():
            sites = program.run(at)
        return {n: unwrap(sites[n].fn).base for n in names}  # type: ignore[misc]

    offsets = _locations(location(values))
    columns: dict[str, list[Tensor]] = {n: [] for n in names}
    for name, i in entries:
        unit = torch.zeros_like(values[name]).flatten()
        unit[i] = 1
        moved = _locations(location(values | {name: unit.reshape(values[name].shape)}))
        for n in names:
            columns[n].append(moved[n] - offsets[n])
    for name in sorted(names):
        used = [j for j, column in enumerate(columns[name]) if bool((column != 0).any())]
        size = sum(columns[name][j].numel() for j in used)
        if not used or size > AFFINE_SIZE:
            continue
        design = torch.stack([columns[name][j] for j in used], -1)
        chosen = tuple(entries[j] for j in used)
        exact = True
        for at, sites in probes:
            theta = torch.stack([at[n].flatten()[i] for n, i in chosen])
            truth = _locations({name: unwrap(sites[name].fn).base})[name]
            exact &= bool(((offsets[name] + design @ theta - truth).abs() <= 1e-9 * (1 + truth.abs())).all())
        if exact:
            reading = _affine_reading(name, [s[name] for _, s in probes], offsets[name], design, chosen, atoms)
            if reading is not None:
                yield name, reading


def _locations(bases: Mapping[str, Any]) -> dict[str, Tensor]:
    families = {n: family_of(base) for n, base in bases.items()}
    return {n: f.read(bases[n])["loc"].detach() for n, f in families.items() if f is not None}


def _affine_reading(
    name: str, runs: Sequence[Site], offset: Tensor, design: Tensor, chosen: Any, atoms: Atoms
) -> Reading | None:
    site, inner = runs[0], [unwrap(run.fn) for run in runs]
    family, rank = family_of(inner[0].base), inner[0].event_rank
    assert family is not None
    try:
        scale = match(site, "scale", [family.read(i.base)["scale"] for i in inner], rank, atoms, multiples=True)
    except Unrecognised:
        return None
    flat = squeeze(offset, site.dims, name, rank)
    design = design.reshape(*flat.tensor.shape, design.shape[-1])
    affine = Affine(chosen, flat.tensor, design)
    roles = {"loc": RoleMap(flat.names, torch.full(flat.tensor.shape, -1), affine=affine), "scale": scale}
    parameters = entering(atoms.bank, scale, "real") | {n for n, _ in chosen}
    return Reading(site, family, rank, inner[0].mask, roles, {}, parameters)
