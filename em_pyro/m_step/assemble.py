"""Assemble the solver of each block of parameters, or say why the block has no joint maximum in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.sites.rows import RowTerm
from ..e_step.sites.site_factor import Term
from ..families.charts import Chart, domain_of
from ..program.named import unexpand
from ..reading.predictor import equation_by_equation, meeting, together
from .counts import Counts, Rates
from .joint import Joint
from .least_squares.matrix import MatrixBlock, MatrixUse, Whole
from .least_squares.scalar import NormalBlock, NormalUse
from .pooling import Refused, select, used_charts
from .rows import Rows
from .uses import CHART, Use, chart_of, segments_of


def counts(engine: Engine, name: str, uses: Sequence[Use]) -> Counts:
    """Pool the uses of a probability."""
    places, simplex = [], domain_of(engine.program.parameters[name].constraint) != "unit"
    chart = chart_of(engine, name, uses)
    simplex = chart.domains[domain_of(engine.program.parameters[name].constraint)] == "simplex"
    for term, key, role in uses:
        unit = term.family.roles[key].domain == "unit"
        for where in select(role, segments_of(engine.recognition.bank, term, key), name):
            places.append((term.name, where, unit))
    prior = engine.priors.get(name)
    return Counts(name, chart, simplex, tuple(places), prior.pseudo if prior else None)


def rates(engine: Engine, name: str, uses: Sequence[Use]) -> Rates:
    """Pool the uses of a rate."""
    places = []
    for term, key, role in uses:
        factor = torch.ones((), dtype=torch.float64) if role.coefficient is None else role.coefficient.reshape(-1)
        for where in select(role, segments_of(engine.recognition.bank, term, key), name):
            places.append((term.name, where, factor))
    prior = engine.priors.get(name)
    return Rates(name, chart_of(engine, name, uses), tuple(places), prior.pseudo if prior else None)


def terms_of(engine: Engine, block: Sequence[str]) -> list[Term]:
    """Terms that a parameter of the block enters."""
    return [term for term in engine.leaders.values() if term.parameters & set(block)]


def normal(
    engine: Engine, block: list[str], uses: Mapping[str, list[Use]], forced: Mapping[str, str]
) -> tuple[NormalBlock, str]:
    """Collect the Normal sites of a block; with the reason if it must be swept."""
    roles = {name: {key for _, key, _ in uses[name]} for name in block}
    for name in block:
        if len(roles[name]) > 1:
            raise Refused(f'"{name}" is a location and a scale')
    bank, everything = engine.recognition.bank, engine.program.parameters
    locations = tuple(n for n in block if roles[n] == {"loc"} and n not in forced)
    scales = tuple((n, chart_of(engine, n, uses[n])) for n in block if roles[n] == {"scale"} and n not in forced)
    all_scales: dict[str, Chart] = {}
    loc_charts: dict[str, Chart] = {}
    found = []
    coupled: dict[tuple[str, int], set[Any]] = {}
    for term in terms_of(engine, block):
        loc, scale = term.roles["loc"], term.roles["scale"]
        if scale.affine is not None or (loc.affine is not None and loc.affine.coordinates):
            raise Refused("a scale, or the logarithm of a parameter in a location, is affine: no least squares")
        shape = (*term.cell_shape, *term.event_shape)
        shift = torch.zeros((), dtype=torch.float64) if term.shift is None else term.shift.double()
        shift = shift.expand(shape).reshape(-1)
        names = [n for n in everything if n in bank.parameters(loc, "real")]
        loc_places = [(n, w) for n in names if loc.affine is None for w in select(loc, bank.entries, n)]
        scale_places = []
        for n in everything:
            if n in bank.parameters(scale, "positive"):
                (chart,) = used_charts(scale, bank.entries, n)
                all_scales[n] = CHART[chart]
                scale_places += [(n, w) for w in select(scale, bank.entries, n)]
        loc_charts |= {n: chart_of(engine, n, uses[n]) for n in names if n in uses and uses[n]}
        found.append(
            NormalUse(
                term.name,
                shift,
                tuple(loc_places),
                torch.ones(shift.shape, dtype=torch.float64)
                if loc.coefficient is None
                else loc.coefficient.reshape(-1).double(),
                torch.zeros(shift.shape, dtype=torch.float64)
                if loc.constant is None
                else loc.constant.reshape(-1).double(),
                loc.affine,
                tuple(scale_places),
                torch.ones(shift.shape, dtype=torch.float64)
                if scale.coefficient is None
                else scale.coefficient.reshape(-1).double(),
                None if scale.constant is None else scale.constant.reshape(-1).double(),
                tuple(shape),
            )
        )
        key = scale.index.reshape(-1)
        for n, where in loc_places:
            for cell, entry in zip(where.cells.tolist(), where.entries.tolist(), strict=True):
                coupled.setdefault((n, entry), set()).add(int(key[cell]))
        if loc.affine is not None:
            scales_of = unexpand(scale.index)
            for piece in loc.affine.pieces:
                for entry, keys in meeting(piece.index, scales_of).items():
                    coupled.setdefault(loc.affine.entries[entry], set()).update(keys)
    if any(use.affine is not None for use in found) and any(c.name != "itself" for c in loc_charts.values()):
        raise Refused("a location is affine at one site and a function of a parameter at another")
    pseudo = {n: engine.priors[n].pseudo for n in locations if n in engine.priors}
    why = _why_swept(locations, list(all_scales), coupled, pseudo, found)
    return NormalBlock(locations, scales, tuple(found), all_scales, pseudo, loc_charts), why  # type: ignore[arg-type]


def _why_swept(
    locations: Sequence[str],
    scales: Sequence[str],
    coupled: Mapping[tuple[str, int], set[Any]],
    pseudo: Mapping[str, Any],
    uses: Sequence[NormalUse],
) -> str:
    """Why the locations' maximum depends on the scales, if it does."""
    if not locations or not scales:
        return ""
    if pseudo:
        return (
            f'"{next(iter(pseudo))}" has a prior and the scale is free: conditional closed forms until Q is stationary'
        )
    if any(len(keys) > 1 for (name, _), keys in coupled.items() if name in locations):
        return "a location is shared by cells whose scales differ: conditional closed forms until Q is stationary"
    groups: dict[tuple[str, int], set[Any]] = {}
    for use in uses:  # entries that meet in one affine location are solved together, so they must share one scale
        if use.affine is not None:
            for row in together(use.affine):
                group = [use.affine.entries[j] for j in row if j >= 0]
                keys = set[Any]().union(*(coupled[e] for e in group))
                for entry in group:
                    groups.setdefault(entry, set()).update(keys)
    if any(len(keys) > 1 for keys in groups.values()):
        return "a location is shared by cells whose scales differ: conditional closed forms until Q is stationary"
    return ""


def multivariate(
    engine: Engine, block: list[str], uses: Mapping[str, list[Use]], forced: Mapping[str, str]
) -> tuple[MatrixBlock, str]:
    """Collect the MultivariateNormal sites of a block; with the reason if it must be swept."""
    bank, parameters = engine.recognition.bank, engine.program.parameters
    roles = {name: {key for _, key, _ in uses[name]} for name in block}
    locations = tuple(n for n in block if roles[n] == {"loc"} and n not in forced)
    scales = tuple((n, chart_of(engine, n, uses[n])) for n in block if roles[n] == {"scale_tril"} and n not in forced)
    all_scales: dict[str, Chart] = {}
    found: list[MatrixUse] = []
    partners: dict[tuple[str, int], set[int]] = {}
    crossed = False
    for term in terms_of(engine, block):
        loc, tril = term.roles["loc"], term.roles["scale_tril"]
        dim = loc.index.shape[-1]
        shift = torch.zeros(dim, dtype=torch.float64) if term.shift is None else term.shift.double()
        shift = shift.expand(*term.event_shape, dim).reshape(-1, dim)
        cells = loc.index.reshape(-1, dim)
        shift = shift.repeat(len(cells) // len(shift), 1)
        rows = known = None
        if loc.affine is not None:
            if loc.affine.coordinates:
                raise Refused("the logarithm of a parameter is part of a mean: no least squares")
        elif loc.known:
            assert loc.constant is not None
            known = loc.constant.reshape(-1, dim).double()
        else:
            names = bank.parameters(loc, "real")
            if len(names) > 1 or loc.coefficient is not None or bool((cells < 0).any()):
                raise Refused("a mean is not selected whole from one parameter")
            (name,) = names
            (segment,) = {
                s.offset: s for s in bank.entries if s.parameter == name and s.chart.name == "itself"
            }.values()
            first = cells[:, :1] - segment.offset
            if bool((cells - segment.offset != first + torch.arange(dim)).any() or (first % dim != 0).any()):
                raise Refused("a mean is not a whole row of its parameter")
            if parameters[name].initial.shape[-1] != dim:
                raise Refused("a mean is not a whole row of its parameter")
            rows = Whole(name, first.squeeze(-1) // dim, parameters[name].initial.numel() // dim)
        matrices = fixed = None
        if tril.known:
            assert tril.constant is not None
            fixed = tril.constant.reshape(-1, dim, dim).double()
        else:
            (name,) = bank.parameters(tril, "scale_tril")
            (segment,) = [
                s
                for s in bank.matrices
                if s.parameter == name
                and bool(tril.index.min() >= s.offset)
                and bool(tril.index.max() < s.offset + s.size)
            ]
            all_scales[name] = segment.chart
            matrices = Whole(name, tril.index.reshape(-1) - segment.offset, segment.size)
        if rows is not None:
            for k, row in enumerate(rows.which.tolist()):
                partners.setdefault((rows.parameter, row), set()).add(
                    int(tril.index.reshape(-1)[k]) if matrices else -1 - k
                )
        shape = (*term.cell_shape, *term.event_shape, dim)
        found.append(MatrixUse(term.name, shift, rows, known, matrices, fixed, loc.affine, shape))
        if loc.affine is not None and matrices and any(n in locations for n, _ in loc.affine.entries):
            crossed = crossed or not equation_by_equation(loc.affine, unexpand(tril.index))
    pseudo = {n: engine.priors[n].pseudo for n in locations if n in engine.priors}
    shared = any(len(keys) > 1 for keys in partners.values())
    why = ""
    crossed = crossed or (len(found) > 1 and any(use.affine is not None for use in found))
    if crossed and all_scales and locations:
        why = "the coordinates of a mean have no design in common: conditional closed forms until Q is stationary"
    elif (shared or pseudo) and all_scales and locations:
        why = "a mean is shared by cells whose covariances differ" if shared else f'"{next(iter(pseudo))}" has a prior'
        why += ": conditional closed forms until Q is stationary"
    return MatrixBlock(locations, scales, tuple(found), all_scales, shared or bool(pseudo), pseudo), why  # type: ignore[arg-type]


def joint(engine: Engine, block: list[str], uses: Mapping[str, list[Use]], forced: Mapping[str, str]) -> Joint:
    """Group the cells of a family that select the same entries."""
    bank = engine.recognition.bank
    other = [name for name in block if forced.get(name, "fixed") != "fixed"]
    if other:
        raise Refused(f'"{other[0]}", with which it has a joint maximum, is maximised otherwise')
    terms = terms_of(engine, block)
    family = terms[0].family
    if any(term.family is not family for term in terms):
        raise Refused("it is used by different families")
    charts: dict[str, tuple[str, Chart]] = {}
    groups: dict[tuple[Any, ...], int] = {}
    places: list[tuple[str, Tensor]] = []
    entries: dict[str, Tensor] = {}
    known: dict[str, Tensor] = {}
    for term in terms:
        columns: list[tuple[str, Tensor, bool]] = []  # argument, its flat entries or its values, which of the two
        for key, role in term.roles.items():
            event = family.roles[key].event_dim
            flat = (
                role.index.reshape(-1, *role.index.shape[role.index.dim() - event :])
                if event
                else role.index.reshape(-1, 1)
            )
            flat = flat.reshape(len(flat), -1)
            if bool((flat < 0).any()):
                if not role.known:
                    raise Refused("an argument is partly known")
                assert role.constant is not None
                columns.append((key, role.constant.reshape(len(flat), -1), True))
                continue
            segments = segments_of(bank, term, key)
            names = bank.parameters(role, family.roles[key].domain)
            if len(names) > 1 or role.coefficient is not None:
                raise Refused("an argument is not selected from one parameter")
            (name,) = names
            if name not in block:
                raise Refused(f'"{name}", with which it has a joint maximum, has no closed form')
            chart = chart_of(engine, name, uses[name])
            if charts.setdefault(key, (name, chart)) != (name, chart):
                raise Refused("one argument comes from several parameters")
            size = flat.shape[1]
            plain = [s for s in segments if s.parameter == name and s.chart is chart and not s.complement]
            segment = next((s for s in plain if bool(s.holds(flat).all())), None)
            if segment is None or bool((flat != flat[:, :1] + torch.arange(size)).any()):
                raise Refused("an argument is not a row of its parameter")
            if bool(((flat[:, 0] - segment.offset) % size != 0).any()):
                raise Refused("rows of an argument overlap")
            columns.append((key, flat - segment.offset, False))
        keys = [tuple(tuple(part[i].tolist()) for _, part, _ in columns) for i in range(len(columns[0][1]))]
        group = torch.tensor([groups.setdefault(k, len(groups)) for k in keys])
        places.append((term.name, group))
        for position, (key, _, is_known) in enumerate(columns):
            table = [k[position] for k in groups]
            if not is_known:
                entries[key] = torch.tensor([row[0] for row in table])
            else:
                constants = torch.tensor(table, dtype=torch.float64)
                known[key] = constants if family.roles[key].event_dim else constants.squeeze(-1)
    if set(entries) & set(known):
        raise Refused("an argument is known at one site and estimated at another")
    if len({name for name, _ in charts.values()}) != len(charts):
        raise Refused("one parameter is used in two roles")
    fixed = frozenset(key for key, (name, _) in charts.items() if name in forced)
    for key, index in entries.items():
        if key not in fixed and len(index.unique()) != len(index):
            raise Refused(f'"{charts[key][0]}" is shared by cells whose other arguments differ')
    sizes = {key: 1 for key in charts}
    for key in charts:
        shape = terms[0].roles[key].index.shape
        event = family.roles[key].event_dim
        for size in shape[len(shape) - event :]:
            sizes[key] *= size
    return Joint(family, charts, tuple(places), entries, known, sizes, fixed)


def try_out(solver: Joint | Rows, engine: Engine) -> None:
    """Ask the family whether it solves for this set of roles, on made-up statistics of one value."""
    statistics: dict[str, tuple[Tensor, ...]] = {}
    joint = solver.joint if isinstance(solver, Rows) else solver
    for name, _ in joint.uses:
        term = engine.leaders[name]
        shape = (*term.cell_shape, *term.event_shape)
        if isinstance(term, RowTerm):  # without weight: nothing is to be solved
            statistics[name] = (torch.zeros((*shape, term.count), dtype=torch.float64),)
        else:
            statistics[name] = tuple(torch.ones((*shape, *event), dtype=torch.float64) for event in term.events)
    params = {n: p.initial.double() for n, p in engine.program.parameters.items()}
    try:
        solver.solve(statistics, params)
    except NotImplementedError as reason:
        raise Refused(f"{type(joint.family).__name__} has no solution for these arguments {reason}".strip()) from None
