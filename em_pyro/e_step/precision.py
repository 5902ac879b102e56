"""Which form the densities of a location family take: one centre for all cells, or each around its own location.

The form follows the parameters: a step that shrinks a scale too far is taken again, in the other form, and where scales
have grown the faster form comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..program.named import Params, listed
from .build import build
from .engine import Engine
from .sites.centring import FARTHEST, can_be_centred, reach
from .sites.site_factor import Term


def suited(engine: Engine, params: Params) -> Engine:
    """The engine in the fastest form that keeps its digits at `params`; the same one if it has that form already."""
    names = far(engine, params)
    if not names:
        return engine.complete if engine.complete and not keeps_digits(engine, params) else engine
    recognition, sites = engine.recognition, engine.recognition.runs[0]
    centred = names | {name for name, term in engine.terms.items() if term.centred}
    built = build(engine.program, recognition, sites, engine.priors, engine.alive, centred=centred)
    built = replace(built, uncollapsed=engine.uncollapsed, recording=engine.recording, unrecorded=engine.unrecorded)
    return built.lean if keeps_digits(built.lean, params) else built


def keeps_digits(engine: Engine, params: Params) -> bool:
    """Whether features that are left out can be worked out at `params`."""
    bound = engine.bind({name: value.double() for name, value in params.items()})
    return all(bool(features.digits(bound) >= 1) for features in engine.leaning)


def far(engine: Engine, params: Params) -> frozenset[str]:
    """Sites with one centre whose values lie too many scales away from it at `params`."""
    with torch.no_grad():
        bound = engine.bind({name: value.double() for name, value in params.items()})
        found = set[str]()
        for name, term in engine.leaders.items():
            if name not in engine.terms or term.centred or not can_be_centred(term) or not term.value.names:
                continue  # the emissions inside a DiscreteHMM keep their one centre
            members = engine.members[name]
            farthest = torch.stack([reach(engine.terms[member]).amax() for member in members]).amax()
            if bool(_smallest(term, term.arguments(bound)) * FARTHEST < farthest):
                found |= set(members)
    return frozenset(found)


def displaced(engine: Engine, params: Params, new: Params) -> bool:
    """Whether a step has moved a location by so many scales that its statistics must be taken around the new one."""
    centred = [term for term in engine.leaders.values() if term.centred]
    if not centred:
        return False
    before, after = engine.bind(params), engine.bind(new)
    for term in centred:
        moved = (term.centres(after) - term.centres(before)).abs()
        if bool(moved.amax() > FARTHEST * _smallest(term, term.arguments(after))):
            return True
    return False


def moves_too_far(engine: Engine, params: Params, new: Params) -> bool:
    """Whether a step leads to where its statistics must be taken in another form, or around other locations."""
    return bool(far(engine, new)) or displaced(engine, params, new) or not keeps_digits(engine, new)


def around(engine: Engine, params: Params) -> Engine:
    """The same engine with every centred cell around its location at `params`: the second pass of two."""
    return replace(engine, around=params)


def _smallest(term: Term, args: Mapping[str, Tensor]) -> Tensor:
    if "scale" in args:
        return args["scale"].amin()
    return args["scale_tril"].diagonal(dim1=-2, dim2=-1).amin()


def form(engine: Engine) -> list[str]:
    """Name the form of every site of a location family, and where it changes."""
    lines, fixed = list[str](), dict[str, float]()
    inside = {term.name: term for hmm in engine.hmms.values() for term in hmm.parts}
    for name, term in {**engine.leaders, **inside}.items():
        if term.role != "observed" or term.family.location is None or term.shift is None or not term.value.names:
            continue
        least = float(reach(term).amax() / FARTHEST)
        if name in engine.terms and can_be_centred(term):
            lines.append(f'site "{name}": one centre for all cells; each its own where a scale is below {least:.2g}')
        else:
            fixed[name] = least
    if fixed:
        which, most = listed([f'"{name}"' for name in fixed]), max(fixed.values())
        site = "sites" if len(fixed) > 1 else "site"
        lines.append(f"{site} {which}: one centre for all cells; digits are lost where a scale is far below {most:.2g}")
    return lines
