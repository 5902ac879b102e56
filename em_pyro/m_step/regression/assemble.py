"""Assemble a Newton block: every argument of its sites as a predictor over the coordinates of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.sites.rows import RowTerm
from ...e_step.sites.site_factor import Term
from ...families.charts import COORDINATES, domain_of
from ...reading.bank import RoleMap
from ...reading.predictor import Affine, Piece
from ..assemble import terms_of
from ..pooling import Refused
from ..uses import CHART, Use, family_name, segments_of
from .newton_block import Argument, NewtonBlock, NewtonUse

LINK = {"positive": "exp", "real": "itself", "unit": "sigmoid", "simplex": "softmax"}
"""Through which function a selection is affine, by the argument's domain."""

POWER = {"itself": 1.0, "exp": 1.0, "sqrt": 0.5, "square": 2.0, "reciprocal": -1.0, "rsqrt": -0.5}
"""What multiplies the logarithm of a positive parameter, or one that is a logarithm, in that of an argument."""

PAIRS = (("unit", "itself"), ("real", "sigmoid"))  # domain and chart of a probability beside one minus itself

KINKED = ("Laplace", "AsymmetricLaplace")  # priors whose maximum may be a kink

Entry = tuple[str, int]


def newton(
    engine: Engine, block: Sequence[str], uses: Mapping[str, Sequence[Use]], forced: Mapping[str, str]
) -> tuple[NewtonBlock, str]:
    """Collect the sites of a block; with the reason if it must be swept."""
    bank, parameters = engine.recognition.bank, engine.program.parameters
    terms = terms_of(engine, block)
    inside = {n for t in terms for k, r in t.roles.items() for n in bank.parameters(r, t.family.roles[k].domain)}
    moving = tuple(n for n in parameters if n in block and n not in forced)
    held = tuple(n for n in parameters if n in inside and n not in moving)
    domains = {n: domain_of(parameters[n].constraint) for n in (*moving, *held)}
    for name, domain in domains.items():
        if domain not in COORDINATES:
            raise Refused(f'"{name}", with which it has a joint maximum, is bounded by {parameters[name].constraint}')
    for name in moving:
        prior = engine.priors.get(name)
        if prior is not None and (prior.fn is None or type(prior.fn).__name__ in KINKED):
            raise Refused(f'the prior of "{name}" is not smooth, or has parameters')
    place: dict[Entry, int] = {}
    for name in (*moving, *held):
        for i in range(parameters[name].initial.numel()):
            place[name, i] = len(place)
    found = _side_by_side([_use(engine, term, place) for term in terms])
    priors = {n: engine.priors[n] for n in moving if n in engine.priors}
    others = [n for n in held if forced.get(n) != "fixed"]
    why = f'"{others[0]}", which meets it, is maximised otherwise: alternated until Q is stationary' if others else ""
    solver = NewtonBlock(moving, held, domains, found, priors)
    if moving:
        _try_out(solver, engine)
    return solver, why if moving else ""


def _try_out(solver: NewtonBlock, engine: Engine) -> None:
    """Differentiate twice, on made-up statistics: a family that is not ours may not allow it."""
    statistics: dict[str, tuple[Tensor, ...]] = {}
    one = torch.ones((), dtype=torch.float64)
    for term in (term for use in solver.uses for term in use.terms):
        events = [(term.count,)] if isinstance(term, RowTerm) else term.events
        shape = (*term.cell_shape, *term.event_shape)
        statistics[term.name] = tuple(one.expand((*shape, *event)) for event in events)
    try:
        solver.differentiate(statistics, {n: p.initial.double() for n, p in engine.program.parameters.items()})
    except (RuntimeError, NotImplementedError) as reason:
        raise Refused(f"its site cannot be differentiated twice ({reason})") from None


def _use(engine: Engine, term: Term, place: Mapping[Entry, int]) -> NewtonUse:
    """The arguments of one site."""
    start = {n: p.initial.double() for n, p in engine.program.parameters.items()}
    with torch.no_grad():
        bound = term.arguments(engine.bind(start))
    arguments, known = list[Argument](), dict[str, Tensor]()
    for key, role in term.roles.items():
        domain, row = term.family.roles[key].domain, term.family.roles[key].event_dim > 0
        if key in term.family.kinked and not role.known:
            raise Refused(f"{family_name(term)}.{key} has a kink")
        if role.known:
            known |= {k: v for k, v in bound.items() if k in (key, f"{key}_complement")}
        elif role.affine is not None:
            at = torch.tensor([place[entry] for entry in role.affine.entries])
            arguments.append(Argument(key, domain, row, role.affine.moved(at)))
        else:
            arguments.append(Argument(key, domain, row, _selection(engine, term, key, role, place)))
    device = term.value.tensor.device
    arguments = [replace(a, affine=a.affine.changed(lambda part, _: part.to(device))) for a in arguments]
    return NewtonUse((term,), tuple(arguments), known)


def _side_by_side(uses: Sequence[NewtonUse]) -> tuple[NewtonUse, ...]:
    """Put sites that are laid out alike into one, so that a chain of a thousand steps is one operation."""
    groups: dict[object, list[NewtonUse]] = {}
    for use in uses:
        (term,) = use.terms
        alone = isinstance(term, RowTerm) or term.shift is not None
        arguments = tuple(
            (a.role, a.affine.chart.name, a.affine.offset.shape)
            + tuple((p.index.shape, p.value.shape) for p in a.affine.pieces)
            for a in use.arguments
        )
        known = tuple((key, value.shape) for key, value in sorted(use.known.items()))
        alike = (id(term.family), term.cell_shape, term.event_shape, term.events, arguments, known)
        groups.setdefault(term.name if alone else alike, []).append(use)
    return tuple(some[0] if len(some) == 1 else _joined(some) for some in groups.values())


def _joined(uses: Sequence[NewtonUse]) -> NewtonUse:
    """Several sites as one, with a dimension for them in front of the cells."""

    def stacked(parts: Sequence[Tensor]) -> Tensor:
        both = torch.stack(list(parts))
        return both[:1] if bool((both == both[:1]).all()) else both

    arguments = []
    for alike in zip(*(use.arguments for use in uses), strict=True):
        affines = [argument.affine for argument in alike]
        pieces = tuple(
            Piece(stacked([p.index for p in some]), stacked([p.value for p in some]))
            for some in zip(*(affine.pieces for affine in affines), strict=True)
        )
        offset = stacked([affine.offset for affine in affines])
        arguments.append(replace(alike[0], affine=replace(affines[0], offset=offset, pieces=pieces)))
    known = {key: torch.stack([use.known[key] for use in uses]) for key in uses[0].known}
    return NewtonUse(tuple(use.terms[0] for use in uses), tuple(arguments), known)


def _selection(engine: Engine, term: Term, key: str, role: RoleMap, place: Mapping[Entry, int]) -> Affine:
    """A selection as a predictor with one slot."""
    domain = term.family.roles[key].domain
    where = f"{family_name(term)}.{key}"
    event = term.family.roles[key].event_dim
    if domain not in LINK or event > 1:
        raise Refused(f"{where}, with which it has a joint maximum, has no predictor")
    link = CHART[LINK[domain]]
    index = torch.full(role.index.shape, -1)
    value = torch.zeros(role.index.shape, dtype=torch.float64)
    soft, paired = 0, False
    for segment in segments_of(engine.recognition.bank, term, key):
        here = segment.holds(role.index)
        if not bool(here.any()):
            continue
        chart, own = segment.chart.name, domain_of(engine.program.parameters[segment.parameter].constraint)
        multiplier = {
            "positive": POWER.get(chart) if own in ("positive", "real") else None,
            "unit": 1.0 if (own, chart) in (("unit", "itself"), ("real", "sigmoid")) else None,
            "real": 1.0 if (own, chart) in (("real", "itself"), ("positive", "log")) else None,
            "simplex": 1.0 if (own, chart) in (("real", "softmax"), *PAIRS) else None,
        }[domain]
        paired = paired or (domain == "simplex" and (own, chart) in PAIRS)
        if domain == "positive" and chart == "softplus":
            soft, multiplier = soft + int(here.sum()), 1.0
        if multiplier is None:
            raise Refused(f"{where}, with which it has a joint maximum, is {chart} of a parameter")
        spots = torch.tensor([place[segment.parameter, i] for i in range(segment.size)])
        index = torch.where(here, spots[(role.index - segment.offset).clamp(0, segment.size - 1)], index)
        value = torch.where(here, -multiplier if segment.complement else multiplier, value)
    if paired:
        index = _pairs(index, value, where)
    if soft:
        if soft < role.index.numel() or role.coefficient is not None:
            raise Refused(f"{where}, with which it has a joint maximum, is partly softplus of a parameter")
        link = CHART["softplus"]
    offset = torch.zeros(role.index.shape, dtype=torch.float64)
    if role.coefficient is not None and domain == "real":
        value = value * role.coefficient
    elif role.coefficient is not None:
        offset = torch.where(index < 0, 0.0, role.coefficient.double().log())
    if role.constant is not None:
        offset = torch.where(index < 0, link.inverse(role.constant.double()), offset)
    return _thin(Affine((), offset, (Piece(index.unsqueeze(-1), value.unsqueeze(-1)),), link), event)


def _pairs(index: Tensor, value: Tensor, where: str) -> Tensor:
    """Rows `(1 - p, p)` of two categories: softmax of nothing and the logit of `p`."""
    whole = index.shape[-1] == 2 and bool((index[..., 0] == index[..., 1]).all() & (value.sum(-1) == 0).all())
    if not whole:
        raise Refused(f"{where}, with which it has a joint maximum, is partly a logistic function of a parameter")
    return torch.where(value < 0, -1, index)


def _thin(affine: Affine, event: int) -> Affine:
    """Keep one of what is the same along a dimension; a row stays whole."""

    def thin(part: Tensor, slots: int) -> Tensor:
        for d in range(part.dim() - slots - event):
            if bool((part == part.narrow(d, 0, 1)).all()):
                part = part.narrow(d, 0, 1)
        return part

    return affine.changed(thin)
