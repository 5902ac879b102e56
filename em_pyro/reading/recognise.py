"""Find which arguments of the program are plain selections of its parameters: probe, do not parse.

The model is replayed at random valid parameter values. An argument entry is recognised if in every replay it equals one
and the same entry of a parameter (through one of the `charts`, or times one and the same known factor), or a constant;
and if the gradient of a random combination of all arguments is that of the claimed selections. Arguments that are
affine in real parameters, through a link, are recognised by evaluating their columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import EMError
from ..families import family_of
from ..program.marks import not_fitted, reached, traced_run
from ..program.masks import refuse_moving
from ..program.named import unwrap
from ..program.points.probes import LONG_PROGRAM, probes
from ..program.program import Program
from ..program.site import Site
from ..program.unroll import unroll
from .affine import affine_readings, may_be_affine, own
from .bank import Bank, RoleMap, list_of, packed
from .design.slopes import of_slopes
from .design.some_rows import carried, some_rows
from .gradients.claims import disagreeing
from .gradients.cut import cut_off
from .gradients.elsewhere import elsewhere
from .improper import refuse_missing_values, refuse_mixed_priors, unbounded
from .match import Atoms, atoms_of, divided, entering, match
from .priors import read_priors
from .reading import Reading, Recognition, Refusal, Unrecognised, same
from .shapes import with_shapes

REPLAYS, LEAST = 10, 5  # of a short program; of one of a few hundred sites
ALL_ROWS = 3  # replays of all rows, far apart, where some of them have told where arguments come from
INSTEAD = {
    "GaussianHMM": " (of an event, a transform or an update: made by itself, or as a loop of normal sites, it has)",
    "GaussianMRF": " (its potentials are divided by their integral, which hangs on all of its parameters)",
}

Probe = tuple[dict[str, Tensor], dict[str, Site]]
"""Values of all parameters, and the program there."""


def recognise(program: Program, first: Mapping[str, Site] | None = None) -> Recognition:
    """Probe `program` at random parameter values and read off where every argument comes from.

    Args:
        program: what is read.
        first: the program at its initial values, where it has been run there.
    """
    if program.integrated and (known := _by_few_rows(program)) is not None:
        return known
    found = _read(program, first)
    if moved := elsewhere(program, found):
        parameters = {n: replace(p, initial=moved.get(n, p.initial)) for n, p in program.parameters.items()}
        found = _read(replace(program, parameters=parameters), None, beside=program)
    return found


def _by_few_rows(program: Program) -> Recognition | None:
    """Read a program of Gaussian latents by a few of its many rows; None if that cannot be done."""
    from .latents.carried import carried_over  # most programs have none
    from .latents.few_rows import few_rows, many_rows

    plate = many_rows(program)
    few = None if plate is None else few_rows(program, plate, recognise)
    return None if few is None else carried_over(few, program)


def _read(program: Program, first: Mapping[str, Site] | None, beside: Program | None = None) -> Recognition:
    """Read a program around the initial values of its parameters; and `beside`, what is read has to hold at its own."""
    generator = torch.Generator().manual_seed(0)
    replays, found, told = _replays(len(program.upstream)), list[Probe](), None
    if program.parameters:
        first = first or program.run({name: parameter.initial for name, parameter in program.parameters.items()})
        some = some_rows(program, first) if beside is None else None
        told = None if some is None else _by_some(program, some, first)
        found = probes(program, replays, first, generator) if told is None else told[1]
    if beside is not None:
        initial = {name: parameter.initial for name, parameter in beside.parameters.items()}
        with torch.no_grad():
            found.append((initial, beside.run(initial)))
    start = found[0][0] if found else {}
    with program.given(start):  # the weights of a module are leaves in place
        return _recognise(program, found, *traced_run(program, start), None if told is None else told[0])


def _by_some(program: Program, some: Program, first: Mapping[str, Site]) -> tuple[_Told, list[Probe]] | None:
    """Read arguments by some rows, and compare them with all rows at a few points; None where that does not do."""
    generator = torch.Generator().manual_seed(0)
    try:
        run = some.run({name: parameter.initial for name, parameter in some.parameters.items()})
        every = probes(some, _replays(len(some.upstream)), run, generator)
        with some.given(every[0][0]):
            leaves, traced = traced_run(some, every[0][0])
        sites, atoms = unroll(traced), atoms_of(some, [values for values, _ in every])
        told = _arguments(some, every, atoms, sites, reached(sites, leaves))
    except (EMError, RuntimeError, ValueError, TypeError, LookupError):  # is said of all rows, with their numbers
        return None
    found = probes(program, ALL_ROWS, first, generator)
    readings = carried(program, some, told.readings, told.bank, found)
    return None if readings is None else (told._replace(readings=readings), found)


def _replays(sites: int) -> int:
    """Return how many replays tell where arguments come from: the fewer, the longer each of them takes."""
    return 2 if sites > LONG_PROGRAM else max(LEAST, min(REPLAYS, LONG_PROGRAM // max(1, sites)))


class _Told(NamedTuple):
    """Where the arguments of all sites come from, or why they are not known."""

    bank: Bank
    readings: dict[str, Reading]
    refusals: dict[str, Refusal]


def _arguments(
    program: Program,
    probes: Sequence[Probe],
    atoms: Atoms,
    sites: Mapping[str, Site],
    reaches: Mapping[str, frozenset[str]],
) -> _Told:
    """Read the arguments of all sites off their values at all probes.

    Args:
        program: what is read.
        probes: values of all parameters, and the program there.
        atoms: what arguments may be selections of, at all probes.
        sites: of the program, the steps of loops one by one.
        reaches: the parameters that enter each.
    """
    readings: dict[str, Reading] = {}
    refusals: dict[str, Refusal] = {}
    unrolled = [unroll(sites) for _, sites in probes]
    for name, site in sites.items():
        if site.role == "prior":
            continue
        try:
            readings[name] = read_site([run[name] for run in unrolled], atoms)
        except Unrecognised as reason:
            entering = {n: probes[0][0][n] for n in reaches.get(name, frozenset())}
            refusals[name] = Refusal(divided(unrolled[0][name], entering) or str(reason), frozenset(entering))
    runs = [(values, sites) for (values, _), sites in zip(probes, unrolled, strict=True)]
    affine = [name for name, refusal in refusals.items() if may_be_affine(sites[name], refusal)]
    readings |= _affine(program, {name: reaches.get(name, frozenset()) for name in affine}, runs, atoms)
    refusals = {name: refusal for name, refusal in refusals.items() if name not in readings}
    readings = {name: of_slopes(reading, atoms.bank, program) for name, reading in readings.items()}
    return _Told(_packed(atoms.bank, readings), readings, refusals)


def _recognise(
    program: Program,
    probes: Sequence[Probe],
    leaves: dict[str, Tensor],
    traced: dict[str, Site],
    told: _Told | None = None,
) -> Recognition:
    refuse_mixed_priors(program, traced)
    refuse_missing_values(leaves, traced)
    leaf_sites = unroll(traced)
    reaches = reached(leaf_sites, leaves)
    probes = probes or [({}, traced)]
    refuse_moving(program, probes)
    points, runs = [values for values, _ in probes], [sites for _, sites in probes]
    atoms = atoms_of(program, points)
    layout, readings, refusals = told or _arguments(program, probes, atoms, leaf_sites, reaches)
    computed = tuple(refusals)
    cut: dict[str, tuple[str, ...]] = {}
    for name, apart in disagreeing(program, leaves, leaf_sites, readings, layout).items():
        without = apart & readings[name].parameters
        still = "a gradient reaches an argument whose values do not move"
        why = "an argument has a parameter's value but not its gradient" if without else still
        refusals[name] = Refusal(why, reaches.get(name, frozenset()) | readings[name].parameters)
        cut |= {parameter: (*cut.get(parameter, ()), name) for parameter in without}
        del readings[name]
    open_sites = [name for name in refusals if not any(name in sites for sites in cut.values())]
    two = [(values, unroll(sites)) for values, sites in probes[:2]]
    for parameter, sites in cut_off(program, open_sites, reaches, two).items():
        cut[parameter] = (*cut.get(parameter, ()), *sites)
    outside, priors = not_fitted(traced, leaves), with_shapes(read_priors(runs), runs, atoms)
    endless = unbounded(program, points[0], leaves, traced)
    read = Recognition(layout, readings, refusals, reaches, priors, points[0], runs, points, cut, outside, endless)
    if program.integrated:
        from .latents.constants import with_latents  # most programs have none

        read = with_latents(program, read)
    if not computed:
        return read
    from .design.tabled import with_tables  # most programs are recognised

    return with_tables(program, read, computed, leaves, leaf_sites)


def _affine(
    program: Program, wanted: Mapping[str, frozenset[str]], runs: Sequence[Probe], bank: Atoms
) -> dict[str, Reading]:
    """Read sites whose arguments may be affine in parameters, by those that reach them: the sites where it is so."""
    if not wanted:
        return {}
    found = dict(affine_readings(program, wanted, runs, bank))
    others = {name: reach for name, reach in wanted.items() if name not in found}
    if others and program.integrated:
        # A location with latents inside is taken apart into parameters as they are, also those that torch climbs.
        found |= affine_readings(program, others, runs, bank, values=True)
    return found


def _packed(bank: Bank, readings: dict[str, Reading]) -> Bank:
    """Keep what the readings use, split by how it is bound; the readings are changed to match."""
    used: dict[str, list[Tensor]] = {"entries": [], "probabilities": [], "matrices": []}
    for reading in readings.values():
        for key, role in reading.roles.items():
            used[list_of(reading.family.roles[key].domain)].append(role.entries)
    entries, where_entry = packed(bank.entries, used["entries"])
    probabilities, where_probability = packed(bank.entries, used["probabilities"])
    matrices, where_matrix = packed(bank.matrices, used["matrices"])
    where = {"entries": where_entry, "probabilities": where_probability, "matrices": where_matrix}
    moved: dict[tuple[int, str], RoleMap] = {}  # the steps of a loop share one index, before and after
    for name, reading in readings.items():
        roles = {}
        for key, role in reading.roles.items():
            kind = list_of(reading.family.roles[key].domain)
            if not role.known and role.affine is None:
                if (id(role.index), kind) not in moved:
                    moved[id(role.index), kind] = role.moved(where[kind])
                there = moved[id(role.index), kind]
                role = replace(role, index=there.index).occurring(there.entries)
            roles[key] = role
        readings[name] = replace(reading, roles=roles)
    return Bank(entries, probabilities, matrices)


def read_site(runs: Sequence[Site], atoms: Atoms) -> Reading:
    """Recognise every argument of one site, from its runs at all probes."""
    site, base = runs[0], unwrap(runs[0].fn).base
    first = family_of(base)
    if first is None:
        kind = type(base).__name__
        raise Unrecognised(f"{kind} has no registered family{INSTEAD.get(kind, '')}")
    if any(not same(run.value, site.value) for run in runs[1:]):
        raise Unrecognised("the value of the site depends on a parameter")
    family, args, rank, part, matrices = own(first, runs, atoms)
    known = {key: value for key, value in args[0].items() if key not in family.roles}
    roles: dict[str, RoleMap] = {**matrices}
    for key, role in family.roles.items():
        if key not in roles:
            stack = [a[key] for a in args]
            roles[key] = match(site, key, stack, rank + role.event_dim, atoms, multiples=role.multiples)
    parameters = frozenset[str]().union(*(entering(atoms.bank, m, family.roles[k].domain) for k, m in roles.items()))
    return Reading(site, family, rank, part, roles, known, parameters)
