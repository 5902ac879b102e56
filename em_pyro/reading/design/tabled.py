"""Which arguments are tables: found by probes, recorded, and compared with the model before they are believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor
from torch.distributions import Distribution

from ...families import Family, family_of
from ...families.charts import CHARTS
from ...program.handlers import quiet
from ...program.masks import seen
from ...program.named import Batch, Named, Params, squeeze, unexpand, unwrap
from ...program.program import Program
from ...program.site import Site
from ...program.unroll import unroll
from ...recording.record import Untraceable, record
from ...recording.recorded import folded
from ...records.frozen import frozen
from ..bank import Bank, RoleMap, Segment, list_of
from ..gradients.claims import disagreeing
from ..reading import Reading, Recognition, Unrecognised, narrowest, same
from .compared import idle, other_argument
from .tables import STANDS, Kind, Table, Tables

Computed = Callable[[Batch], dict[str, Tensor]]


def with_tables(
    program: Program,
    read: Recognition,
    refused: Sequence[str],
    leaves: Mapping[str, Tensor],
    traced: Mapping[str, Site],
) -> Recognition:
    """Return the same with readings of sites whose arguments are computed; why they were refused is still there.

    Args:
        program: what was read.
        read: what is known of it.
        refused: sites that may be read so.
        leaves: the unconstrained values from which `traced` was computed.
        traced: the program's sites, with their gradients.
    """
    runs = [unroll(run) for run in read.runs]
    found = _found(runs, [name for name in refused if name not in read.entered])
    if not found:
        return read
    made = _computed(program, read, found)
    if made is None:
        return read
    bank, readings = _placed(read, runs[0], found, made)
    for params, run in zip(read.points, runs, strict=True):
        while (wrong := other_argument(readings, bank, params, run)) is not None:
            del readings[wrong[0]]
    for name in disagreeing(program, leaves, traced, readings, bank):
        del readings[name]
    if not readings:
        return read
    readings = {**read.readings, **readings}
    return replace(read, bank=bank, readings={name: readings[name] for name in runs[0] if name in readings})


# ---- which arguments, and what of them -------------------------------------------------------------------------------


@frozen
class _Tabled:
    """A site whose arguments are all known or tables.

    Attributes:
        tables: by argument, each with the names that its dimensions have at this site.
    """

    family: Family
    tables: Mapping[str, tuple[Table, tuple[str, ...]]]
    known: Mapping[str, RoleMap]


def _found(runs: Sequence[Mapping[str, Site]], refused: Sequence[str]) -> dict[str, _Tabled]:
    """Sites that have no plate, or one along which their arguments are the same: its rows enter none of them."""
    first: dict[object, Table] = {}
    found = dict[str, _Tabled]()
    for name in refused:
        try:
            one = _of_site(name, [run[name] for run in runs], first)
        except Unrecognised:
            continue
        along = {n for _, names in one.tables.values() for n in names}
        plates = set(runs[0][name].plates)
        if one.tables and not (plates and plates <= along):
            found[name] = one
    return found


def _of_site(name: str, runs: Sequence[Site], first: dict[object, Table]) -> _Tabled:
    """Look at all arguments of a site at all probes.

    Raises:
        Unrecognised: it has no family, or more than its arguments moves.
    """
    inner = [unwrap(run.fn) for run in runs]
    family = family_of(inner[0].base)
    if family is None or any(not same(run.value, runs[0].value) for run in runs[1:]):
        raise Unrecognised
    family, args = narrowest(family, [i.base for i in inner])
    tables, known = dict[str, tuple[Table, tuple[str, ...]]](), dict[str, RoleMap]()
    for key, role in family.roles.items():
        trailing = inner[0].event_rank + role.event_dim
        parts = [_argument(run, a[key].detach(), trailing) for run, a in zip(runs, args, strict=True)]
        if all(same(part.tensor, parts[0].tensor) for part in parts[1:]):
            lead = parts[0].tensor.shape[: parts[0].tensor.dim() - 2 * (role.domain == "scale_tril")]
            known[key] = RoleMap(parts[0].names, torch.full(lead, -1), None, parts[0].tensor.contiguous())
            continue
        tables[key] = _table(name, key, parts, role.domain, first)
    return _Tabled(family, tables, known)


def _argument(site: Site, part: Tensor, trailing: int) -> Named:
    return squeeze(unexpand(part, trailing), site.dims, site.name, trailing)


def _table(
    site: str, key: str, parts: Sequence[Named], domain: str, first: dict[object, Table]
) -> tuple[Table, tuple[str, ...]]:
    """What of an argument varies; the same table for arguments that are equal at all probes."""
    tensors, names = [part.tensor for part in parts], parts[0].names
    dropped = idle(tensors, len(names), single=tensors[0].dtype == torch.float32)
    kept = tuple(n for d, n in enumerate(names) if d not in dropped)
    shape = tuple(size for d, size in enumerate(tensors[0].shape) if d not in dropped)
    table = Table(site, key, dropped, shape)
    values = torch.stack([table.of(part) for part in parts])
    known = domain, shape, len(kept), values.cpu().numpy().tobytes()
    return first.setdefault(known, table), kept


# ---- how they are computed -------------------------------------------------------------------------------------------


def _computed(program: Program, read: Recognition, found: Mapping[str, _Tabled]) -> Tables | None:
    """Record the program as far as the tables; None where it cannot be."""
    every = {table: (one.family, key) for one in found.values() for key, (table, _) in one.tables.items()}
    kinds = dict[str, Kind]()

    def outputs(values: Params) -> dict[str, Tensor]:
        run, kept = unroll(program.run(values)), dict[str, Tensor]()
        with quiet():
            for table, (family, key) in every.items():
                inner, role = unwrap(run[table.site].fn), family.roles[key]
                given = _logits(inner.base) if role.domain in STANDS else None
                kinds[table.name] = role.domain, given is not None
                part = family.read(inner.base)[key] if given is None else given
                kept[table.name] = table.of(_argument(run[table.site], part, inner.event_rank + role.event_dim))
        return kept

    start = {n: v.to(program.parameters[n].initial.dtype) for n, v in read.points[-1].items()}
    weights = {n: p.tensor for n, p in program.parameters.items() if p.tensor is not None}
    try:
        graph = record(outputs, start, weights)
    except Untraceable:
        return None
    members = dict[str, Sequence[str]]()
    for kind in dict.fromkeys(kinds.values()):
        names = [name for name, own in kinds.items() if own == kind]
        graph, folding = folded(graph, names, start)
        members |= {name: folding.get(name, (name,)) for name in names if name in graph.outputs}
    return Tables(graph, {name: kinds[name] for name in members}, members)


def _logits(base: Distribution) -> Tensor | None:
    """Logits, where the program gave these."""
    base = getattr(base, "_categorical", base)
    given: Tensor | None = None if "probs" in vars(base) else vars(base).get("logits")
    return given


# ---- where they stand ------------------------------------------------------------------------------------------------


def _placed(
    read: Recognition, run: Mapping[str, Site], found: Mapping[str, _Tabled], made: Tables
) -> tuple[Bank, dict[str, Reading]]:
    """The bank with the tables at the ends of its lists, and readings that select from these."""
    lists = {kind: list(getattr(read.bank, kind)) for kind in ("entries", "probabilities", "matrices")}
    shapes = {table.name: table.shape for one in found.values() for table, _ in one.tables.values()}
    index = dict[str, Tensor]()
    for output, (domain, _) in made.kinds.items():
        segments, shape = lists[list_of(domain)], shapes[output]
        shape = (len(made.members[output]), *(shape[:-2] if domain == "scale_tril" else shape))
        offset = max((s.offset + s.size for s in segments), default=0)
        segments.append(Segment(output, STANDS.get(domain, CHARTS[0]), False, offset, prod(shape)))  # noqa: FBT003
        index |= zip(made.members[output], (offset + torch.arange(prod(shape))).reshape(shape), strict=True)
    readings = dict[str, Reading]()
    for name, one in found.items():
        roles = dict[str, RoleMap](one.known)
        for key, (table, names) in one.tables.items():
            square = one.family.roles[key].domain == "scale_tril"
            roles[key] = RoleMap(names, index[table.name], rows=table.shape[-1] if square else None)
        site, inner = run[name], unwrap(run[name].fn)
        args = one.family.read(inner.base)
        fixed = {key: part for key, part in args.items() if key not in one.family.roles}
        ordered = {key: roles[key] for key in one.family.roles}
        reach = read.refusals[name].parameters
        readings[name] = Reading(site, one.family, inner.event_rank, seen(site), ordered, fixed, reach)
    entries, probabilities, matrices = (tuple(segments) for segments in lists.values())
    computed = _both(read.bank.computed, made)
    return Bank(entries, probabilities, matrices, computed, read.bank.unrecorded), readings


def _both(before: Computed | None, tables: Tables) -> Computed:
    """Compute what continuous latents take beside the tables."""
    return tables if before is None else lambda batch: {**before(batch), **tables(batch)}
