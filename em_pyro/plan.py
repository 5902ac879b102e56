"""Decide for every parameter how it is maximised, and say why.

Recognition is necessary, not sufficient. A parameter has a closed form only if all its uses are at sites of one kind of
family, its constraint allows all values that the argument may take, and the parameters of its block have a joint
maximum in closed form; where they have only conditional ones, the block is swept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .bank import Bank, RoleMap
from .charts import CHARTS, Chart, domain_of
from .engine import Engine
from .errors import ParameterError, PlanError
from .program import Parameter
from .rowwise import Rows, RowTerm, rows
from .solvers import (
    Counts,
    Joint,
    MatrixBlock,
    MatrixUse,
    NormalBlock,
    NormalUse,
    Rates,
    Refused,
    Whole,
    select,
    used_charts,
)
from .term import Term
from .unroll import user_site

Choice = str | Callable[[Any, Tensor], Tensor]
CHART = {chart.name: chart for chart in CHARTS}


@dataclass(frozen=True)
class Line:
    """What happens to one parameter in every M-step."""

    parameter: str
    how: str  # "closed form" | "swept" | "torch" | "fixed" | "callable"
    role: str  # family and argument, "Binomial.probs"
    sites: tuple[str, ...]
    why: str

    @property
    def closed_form(self) -> bool:
        """Whether the maximum is found without iterating torch."""
        return self.how in ("closed form", "swept")


@dataclass(frozen=True)
class Plan:
    """How each parameter is maximised, and how the loop runs. Print it."""

    lines: Mapping[str, Line]
    solvers: tuple[Any, ...] = field(repr=False)
    swept: bool
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    callables: Mapping[str, Callable[[Any, Tensor], Tensor]] = field(default_factory=dict, repr=False)

    def __getitem__(self, parameter: str) -> Line:
        """Return what happens to one parameter."""
        if parameter not in self.lines:
            raise ParameterError(f'Plan: expected one of {sorted(self.lines)}, got "{parameter}".')
        return self.lines[parameter]

    @property
    def torch(self) -> tuple[str, ...]:
        """Parameters that torch maximises."""
        return tuple(n for n, line in self.lines.items() if line.how == "torch")

    @property
    def free(self) -> tuple[str, ...]:
        """Parameters that move."""
        return tuple(n for n, line in self.lines.items() if line.how != "fixed")

    def __str__(self) -> str:
        """Return a table with a line for each parameter, then the notes."""
        rows = [("parameter", "M-step", "argument", "sites", "why")]
        for line in self.lines.values():
            sites = ", ".join(line.sites[:3]) + (f", ... ({len(line.sites)})" if len(line.sites) > 3 else "")
            rows.append((line.parameter, line.how, line.role, sites, line.why))
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        text = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]).rstrip() for row in rows]
        text.insert(1, "  ".join("-" * w for w in [*widths, 3]))
        text += [f"{note}" for note in self.notes]
        text.append(f"planned in {self.seconds:.2f} s")
        return "\n".join(text)


def choose(engine: Engine, options: Mapping[str, Choice], withdrawn: Mapping[str, str]) -> Plan:
    """Choose a solver for every parameter of `engine`.

    Args:
        engine: the program, recognised and laid out.
        options: the user's `m_step` by parameter.
        withdrawn: parameters whose closed form failed a check, with the reason.

    Raises:
        ParameterError: an option names no parameter, or is none of those that exist.
        PlanError: "closed" was asked for where there is no closed form.
    """
    parameters = engine.program.parameters
    for name, choice in options.items():
        if name not in parameters:
            raise ParameterError(
                f'm_step: expected names among {sorted(parameters)}, got "{name}". Use the name given to pyro.param.'
            )
        if not callable(choice) and choice not in ("torch", "closed", "fixed"):
            raise ParameterError(
                f'm_step["{name}"]: expected "torch", "closed", "fixed" or a callable, got {choice!r}. '
                f"Choose one of them."
            )
    reasons: dict[str, str] = dict(withdrawn)
    uses = {name: _uses(engine, name) for name in parameters}
    kinds: dict[str, str] = {}
    for name, parameter in parameters.items():
        if name in reasons:
            continue
        try:
            kinds[name] = _kind(engine, parameter, uses[name])
        except Refused as reason:
            reasons[name] = str(reason)
    forced = {n: c if isinstance(c, str) else "callable" for n, c in options.items() if c != "closed"}
    solvers: list[Any] = []
    swept: dict[str, str] = {}
    for block in _blocks(engine, kinds):
        _solve_block(engine, block, kinds, uses, forced, solvers, reasons, swept)
    solved = {name for solver in solvers for name in _owned(solver)}
    _couple(engine, solvers, {n for n in parameters if n not in solved and options.get(n) != "fixed"}, swept)
    lines = {}
    for name in parameters:
        choice = options.get(name, "closed" if name in solved else "torch")
        role, sites = _role(uses[name], engine, name)
        if callable(choice):
            lines[name] = Line(name, "callable", role, sites, "your own M-step, held to a Q that does not fall")
        elif choice == "fixed":
            lines[name] = Line(name, "fixed", role, sites, "kept at its start value, as you asked")
        elif choice == "torch":
            why = "as you asked" if name in options else reasons.get(name, "no closed form")
            lines[name] = Line(name, "torch", role, sites, why)
        elif name not in solved:
            raise PlanError(
                f'm_step["{name}"]: expected a closed form, but there is none: {reasons.get(name)}. '
                f'Choose "torch" or leave it out.'
            )
        elif name in swept:
            lines[name] = Line(name, "swept", role, sites, swept[name])
        else:
            lines[name] = Line(name, "closed form", role, sites, _because(uses[name], engine, name))
    calls = {name: choice for name, choice in options.items() if callable(choice)}
    return Plan(lines, tuple(solvers), bool(swept), callables=calls)


# ---- uses ------------------------------------------------------------------------------------------------------------

Use = tuple[Term, str, RoleMap]


def _uses(engine: Engine, name: str) -> list[Use]:
    """Every argument of every recognised site that the parameter enters."""
    bank, found = engine.recognition.bank, []
    for term in engine.leaders.values():
        for key, role in term.roles.items():
            if name in bank.parameters(role, term.family.roles[key].domain):
                found.append((term, key, role))
    return found


def _segments(bank: Bank, term: Term, role: str) -> Sequence[Any]:
    return bank.of(term.family.roles[role].domain)


def _kind(engine: Engine, parameter: Parameter, uses: Sequence[Use]) -> str:
    """The kind of solver for one parameter, if its uses allow one."""
    name, bank = parameter.name, engine.recognition.bank
    for site, refusal in engine.recognition.refusals.items():
        if name in refusal.parameters:
            raise Refused(f'site "{site}": {refusal.why}')
    for site in engine.replayed:
        if name in engine.recognition.reaches.get(site, frozenset()):
            raise Refused(f'site "{site}" is replayed')
    for site, other in engine.priors.items():
        if site != name and other.fn is None and name in engine.recognition.reaches.get(site, frozenset()):
            raise Refused(f'it enters the prior of "{site}"')
    if not uses:
        raise Refused("it enters no site" if name not in engine.priors else "only its prior depends on it")
    kinds = {term.family.solver for term, _, _ in uses}
    if len(kinds) > 1:
        raise Refused(f"it is used by different kinds of family ({', '.join(sorted(_family(t) for t, _, _ in uses))})")
    (kind,) = kinds
    domain = domain_of(parameter.constraint)
    charts = set()
    for term, key, role in uses:
        if role.affine is not None:
            charts.add("itself")
            continue
        charts |= used_charts(role, _segments(bank, term, key), name)
    if len(charts) > 1:
        raise Refused(f"it enters through different functions ({', '.join(sorted(charts))})")
    (chart,) = charts
    image = CHART[chart].domains.get(domain)
    for term, key, role in uses:
        wanted = term.family.roles[key].domain
        whole = image == wanted or (wanted == "simplex" and image == "unit")
        if not whole:
            raise Refused(
                f"its constraint {parameter.constraint} is not all that {_family(term)}.{key} may take"
                + (f" through {chart}" if chart != "itself" else "")
            )
        if image == "simplex" and any(s.complement for s in select(role, _segments(bank, term, key), name)):
            raise Refused("1 - a simplex entry has no closed form")
    prior = engine.priors.get(name)
    if prior is not None and (prior.solver != kind or chart != "itself"):
        got = type(prior.fn).__name__ if prior.fn is not None else "a prior with parameters"
        raise Refused(f"its prior ({got}) is not conjugate to {_family(uses[0][0])}")
    if prior is not None and kind == "normal" and any(key == "scale" for _, key, _ in uses):
        raise Refused("a Normal prior is not conjugate to a scale")
    return kind


def _family(term: Term) -> str:
    return type(term.family).__name__


def _role(uses: Sequence[Use], engine: Engine, name: str) -> tuple[str, tuple[str, ...]]:
    roles = sorted({f"{_family(term)}.{key}" for term, key, _ in uses})
    sites = tuple(dict.fromkeys(user_site(n) for term, _, _ in uses for n in engine.members[term.name]))
    if not sites:
        sites = tuple(s for s, reached in engine.recognition.reaches.items() if name in reached)
    return " and ".join(roles) or "-", sites


def _because(uses: Sequence[Use], engine: Engine, name: str) -> str:
    bank = engine.recognition.bank
    affine = any(role.affine is not None for _, _, role in uses)
    if affine:
        return "the location is affine in it: weighted least squares"
    charts = set[str]().union(*(used_charts(role, _segments(bank, t, k), name) for t, k, role in uses))
    (chart,) = charts
    known = any(role.coefficient is not None for _, _, role in uses)
    what = "times a known factor" if known else "is a selection of it" if chart == "itself" else f"is {chart} of it"
    text = f"every entry of the argument {what}" if not known else f"the argument is it {what}"
    return text + (f", with its {type(engine.priors[name].fn).__name__} prior" if name in engine.priors else "")


# ---- blocks ----------------------------------------------------------------------------------------------------------


def _blocks(engine: Engine, kinds: Mapping[str, str]) -> list[list[str]]:
    """Parameters that must be solved together: those that meet at a site of a family with several roles."""
    root = {name: name for name in kinds}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for term in engine.leaders.values():
        together = [n for n in kinds if n in term.parameters and kinds[n] not in ("counts", "rates")]
        for other in together[1:]:
            root[find(other)] = find(together[0])
    groups: dict[str, list[str]] = {}
    for name in kinds:
        groups.setdefault(find(name), []).append(name)
    return list(groups.values())


def _solve_block(
    engine: Engine,
    block: list[str],
    kinds: Mapping[str, str],
    uses: Mapping[str, list[Use]],
    forced: Mapping[str, str],
    solvers: list[Any],
    reasons: dict[str, str],
    swept: dict[str, str],
) -> None:
    kind = kinds[block[0]]
    found: Any
    try:
        if kind == "counts":
            found, why = _counts(engine, block[0], uses[block[0]]), ""
        elif kind == "rates":
            found, why = _rates(engine, block[0], uses[block[0]]), ""
        elif kind == "normal":
            found, why = _normal(engine, block, uses, forced)
        elif kind == "multivariate_normal":
            found, why = _multivariate(engine, block, uses, forced)
        else:
            found, why = _joint(engine, block, uses, forced), ""
            found = rows(found, engine.leaders) if kind == "rows" else found
            _try(found, engine)
    except Refused as reason:
        for name in block:
            reasons[name] = str(reason)
        return
    if kind in ("counts", "rates") and block[0] in forced:
        return
    owned = _owned(found)
    if owned:
        solvers.append(found)
    if why:
        swept.update(dict.fromkeys(owned, why))


def _couple(engine: Engine, solvers: Sequence[Any], moving: set[str], swept: dict[str, str]) -> None:
    """Scales that are solved around a location that is not: the two must be alternated."""
    for solver in solvers:
        if isinstance(solver, (NormalBlock, MatrixBlock)) and solver.scales:
            bank = engine.recognition.bank
            for use in solver.uses:
                others = (bank.parameters(engine.leaders[use.term].roles["loc"], "real") & moving) - set(
                    solver.locations
                )
                if others:
                    why = f'its location "{min(others)}" is maximised otherwise: alternated until Q is stationary'
                    swept.update(dict.fromkeys(_owned(solver), why))


def _owned(solver: Any) -> tuple[str, ...]:
    """Parameters that a solver returns."""
    if isinstance(solver, (Counts, Rates)):
        return (solver.parameter,)
    if isinstance(solver, (Joint, Rows)):
        return tuple(name for name, _ in solver.solved.values())
    return (*solver.locations, *(name for name, _ in solver.scales))


def _chart(engine: Engine, name: str, uses: Sequence[Use]) -> Chart:
    for term, key, role in uses:
        if role.affine is None:
            for chart in used_charts(role, _segments(engine.recognition.bank, term, key), name):
                return CHART[chart]
    return CHART["itself"]


def _counts(engine: Engine, name: str, uses: Sequence[Use]) -> Counts:
    places, simplex = [], domain_of(engine.program.parameters[name].constraint) != "unit"
    chart = _chart(engine, name, uses)
    simplex = chart.domains[domain_of(engine.program.parameters[name].constraint)] == "simplex"
    for term, key, role in uses:
        unit = term.family.roles[key].domain == "unit"
        for where in select(role, _segments(engine.recognition.bank, term, key), name):
            places.append((term.name, where, unit))
    prior = engine.priors.get(name)
    return Counts(name, chart, simplex, tuple(places), prior.pseudo if prior else None)


def _rates(engine: Engine, name: str, uses: Sequence[Use]) -> Rates:
    places = []
    for term, key, role in uses:
        factor = torch.ones((), dtype=torch.float64) if role.coefficient is None else role.coefficient.reshape(-1)
        for where in select(role, _segments(engine.recognition.bank, term, key), name):
            places.append((term.name, where, factor))
    prior = engine.priors.get(name)
    return Rates(name, _chart(engine, name, uses), tuple(places), prior.pseudo if prior else None)


def _terms_of(engine: Engine, block: Sequence[str]) -> list[Term]:
    return [term for term in engine.leaders.values() if term.parameters & set(block)]


def _normal(
    engine: Engine, block: list[str], uses: Mapping[str, list[Use]], forced: Mapping[str, str]
) -> tuple[NormalBlock, str]:
    roles = {name: {key for _, key, _ in uses[name]} for name in block}
    for name in block:
        if len(roles[name]) > 1:
            raise Refused(f'"{name}" is a location and a scale')
    bank, everything = engine.recognition.bank, engine.program.parameters
    locations = tuple(n for n in block if roles[n] == {"loc"} and n not in forced)
    scales = tuple((n, _chart(engine, n, uses[n])) for n in block if roles[n] == {"scale"} and n not in forced)
    all_scales: dict[str, Chart] = {}
    loc_charts: dict[str, Chart] = {}
    found = []
    coupled: dict[tuple[str, int], set[Any]] = {}
    for term in _terms_of(engine, block):
        loc, scale = term.roles["loc"], term.roles["scale"]
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
        loc_charts |= {n: _chart(engine, n, uses[n]) for n in names if n in uses and uses[n]}
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
            design = loc.affine.design.flatten(0, -2)
            for j, entry in enumerate(loc.affine.entries):
                coupled.setdefault(entry, set()).update(key[design[:, j] != 0].unique().tolist())
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
            design = use.affine.design.flatten(0, -2) != 0
            for row in design.unique(dim=0):
                together = [use.affine.entries[j] for j in row.nonzero().squeeze(-1).tolist()]
                keys = set[Any]().union(*(coupled[e] for e in together))
                for entry in together:
                    groups.setdefault(entry, set()).update(keys)
    if any(len(keys) > 1 for keys in groups.values()):
        return "a location is shared by cells whose scales differ: conditional closed forms until Q is stationary"
    return ""


def _multivariate(
    engine: Engine, block: list[str], uses: Mapping[str, list[Use]], forced: Mapping[str, str]
) -> tuple[MatrixBlock, str]:
    bank, parameters = engine.recognition.bank, engine.program.parameters
    roles = {name: {key for _, key, _ in uses[name]} for name in block}
    locations = tuple(n for n in block if roles[n] == {"loc"} and n not in forced)
    scales = tuple((n, _chart(engine, n, uses[n])) for n in block if roles[n] == {"scale_tril"} and n not in forced)
    all_scales: dict[str, Chart] = {}
    found: list[MatrixUse] = []
    partners: dict[tuple[str, int], set[int]] = {}
    for term in _terms_of(engine, block):
        loc, tril = term.roles["loc"], term.roles["scale_tril"]
        dim = loc.index.shape[-1]
        shift = torch.zeros(dim, dtype=torch.float64) if term.shift is None else term.shift.double()
        shift = shift.expand(*term.event_shape, dim).reshape(-1, dim)
        cells = loc.index.reshape(-1, dim)
        shift = shift.repeat(len(cells) // len(shift), 1)
        rows = known = None
        if loc.known:
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
        found.append(MatrixUse(term.name, shift, rows, known, matrices, fixed))
    pseudo = {n: engine.priors[n].pseudo for n in locations if n in engine.priors}
    shared = any(len(keys) > 1 for keys in partners.values())
    why = ""
    if (shared or pseudo) and all_scales and locations:
        why = "a mean is shared by cells whose covariances differ" if shared else f'"{next(iter(pseudo))}" has a prior'
        why += ": conditional closed forms until Q is stationary"
    return MatrixBlock(locations, scales, tuple(found), all_scales, shared or bool(pseudo), pseudo), why  # type: ignore[arg-type]


def _joint(engine: Engine, block: list[str], uses: Mapping[str, list[Use]], forced: Mapping[str, str]) -> Joint:
    bank = engine.recognition.bank
    other = [name for name in block if forced.get(name, "fixed") != "fixed"]
    if other:
        raise Refused(f'"{other[0]}", with which it has a joint maximum, is maximised otherwise')
    terms = _terms_of(engine, block)
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
            segments = _segments(bank, term, key)
            names = bank.parameters(role, family.roles[key].domain)
            if len(names) > 1 or role.coefficient is not None:
                raise Refused("an argument is not selected from one parameter")
            (name,) = names
            if name not in block:
                raise Refused(f'"{name}", with which it has a joint maximum, has no closed form')
            chart = _chart(engine, name, uses[name])
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


def _try(solver: Joint | Rows, engine: Engine) -> None:
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
