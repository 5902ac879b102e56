"""The same plan on other rows: what was read of the program stays, and the data are exchanged.

An argument that no row enters is the same tensor on all rows; what rows bring (covariates, indices into a table) are
columns of what the model is called with. One run of the model at a point where the plan knows its arguments tells
whether that is so; then sites are laid out anew, and nothing is probed. Where rows bring something else, computed from
these columns, the program is read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ..errors import PlanError
from ..program.changes.same import first_difference
from ..program.masks import alive
from ..program.named import squeeze, unwrap
from ..program.program import Program
from ..program.site import Site
from ..program.unroll import unroll
from ..reading.design.basis import union
from ..reading.design.compared import other_argument
from ..reading.design.lookups import both
from ..reading.design.slopes import as_affine
from ..reading.reading import Agreed, Centre, Reading, Recognition, arguments
from .build import build
from .engine import Engine
from .sites.layout import EXPOSURE
from .sites.site_factor import SiteFactor

Centres = Mapping[str, Centre]
"""By site, around what values are taken."""

WIDEST = 64  # covariates that rows apart may have between them, where none shows as many


def rebound(engine: Engine, args: tuple[Any, ...], kwargs: Mapping[str, Any], centres: Centres) -> Engine:
    """Return the engine of the same program on other arguments; no initialiser is run.

    Args:
        engine: of some rows, none of them merged.
        args: of the model.
        kwargs: likewise.
        centres: of sites of location families, agreed on with others who hold rows.

    Raises:
        ModelError: the model makes other statements for these arguments.
        PlanError: an argument or a prior depends on which rows are at hand, other than row by row.
        OtherCovariates: the rows show covariates that those of `engine` do not.
    """
    recognition, forms = engine.recognition, forms_of(engine)
    program = replace(engine.program, view=None)
    there, run = program.run_on(args, kwargs, recognition.values)
    before = recognition.runs[0]
    priors = [{n: s for n, s in sites.items() if s.role == "prior"} for sites in (before, run)]
    if differs := first_difference(*priors):
        raise PlanError(f"{differs[0].upper()}{differs[1:]}: {_DEPENDS.format('prior')}")
    readings = None if recognition.latents is not None else _readings(engine, there, unroll(before), unroll(run))
    if readings is None:
        return _alike(engine, _laid_out(engine.read_on(there), forms, centres, engine.plate))
    read = replace(recognition, readings=readings, runs=[run], points=recognition.points[:1])
    read = _agreed(read, program, forms, centres)
    built = build(there, read, run, recognition.priors, alive(there, [run]), plate=engine.plate)
    parts = tuple(new.beside(old) for new, old in zip(built.parts, engine.parts, strict=False))
    parts += built.parts[len(parts) :]
    return _alike(engine, replace(built, parts=parts, recording=engine.recording, unrecorded=engine.unrecorded))


class OtherCovariates(PlanError):
    """Rows show other covariates or groups than those that were agreed on.

    Attributes:
        found: the engine of these rows.
    """

    def __init__(self, site: str, found: Engine) -> None:
        """Say what helps."""
        super().__init__(
            f'Site "{site}": expected arguments that differ by row as those of other rows do, got others. Mix the '
            f"rows, so that all batches and processes have all kinds."
        )
        self.found = found


Forms = Mapping[str, Agreed]
"""By site, how its rows are laid out."""


def observed(engine: Engine) -> dict[str, SiteFactor]:
    """Return all compiled sites with data."""
    return {f.name: f for unit in engine.units for f in unit.every if f.role == "observed"}


def forms_of(engine: Engine) -> dict[str, Agreed]:
    """Return how the rows of every site are laid out."""
    found = dict[str, Agreed]()
    for name, factor in observed(engine).items():
        groups = {} if factor.data.groups is None else factor.data.groups.lookups
        found[name] = Agreed(groups, factor.form.lines(factor), factor.kept is not None, EXPOSURE in factor.data.known)
    return found


def unlike(engine: Engine, forms: Forms) -> str:
    """Name a site whose rows are laid out in another form than was agreed on; empty if there is none."""
    there = forms_of(engine)
    return next((n for n, form in forms.items() if n in there and not _serves(there[n], form)), "")


def _serves(form: Agreed, agreed: Agreed) -> bool:
    """Whether statistics add; rows that are all alike do not tell that those of others are kept apart."""
    alike = form.lines is agreed.lines and form.groups == agreed.groups and form.exposed == agreed.exposed
    return alike and (agreed.apart or not form.apart)


def _alike(engine: Engine, found: Engine) -> Engine:
    """Return what was found of other rows.

    Raises:
        OtherCovariates: their statistics cannot be added to those of `engine`.
    """
    if name := unlike(found, forms_of(engine)):
        regression = forms_of(found)[name].lines is not None
        raise OtherCovariates(name, found if regression else _laid_out(found, {}, {}, found.plate))
    return found


def centred(engine: Engine, centres: Centres, forms: Forms | None = None) -> Engine:
    """Return the engine of the same rows with values taken from other centres.

    Args:
        engine: of some rows.
        centres: of sites of location families.
        forms: that are agreed on; None is those of these rows.
    """
    return _laid_out(engine, forms_of(engine) if forms is None else forms, centres, engine.plate)


def merged(ours: Forms, theirs: Forms, sizes: Mapping[str, int]) -> dict[str, Agreed]:
    """Return forms that serve for the rows of either.

    Args:
        ours: of some rows.
        theirs: of others.
        sizes: of all latents and plates, in their order.

    Raises:
        PlanError: a regression would have too many covariates of which either shows few.
    """
    found = {**theirs, **ours}
    for name in ours.keys() & theirs.keys():
        one, other = ours[name], theirs[name]
        groups, apart = both(one.groups, other.groups), one.apart or other.apart
        lines = None if apart else one.lines or other.lines
        if not apart and one.lines is not None and other.lines is not None:
            lines = union(one.lines, other.lines, sizes)
            most = max(WIDEST, *(part.index.shape[-1] for part in (one.lines, other.lines)))
            if lines.index.shape[-1] > most:
                raise PlanError(
                    f'Site "{name}": expected up to {most} covariates, got more, of which some rows show a few and '
                    f"others others. Mix the rows, so that all batches and processes have all kinds."
                )
        found[name] = Agreed(groups, lines, apart and not groups, one.exposed or other.exposed)
    return found


def widened(engine: Engine, other: Engine) -> Engine:
    """Return the engine of some rows in a form that serves for other rows too.

    Args:
        engine: of some rows.
        other: of others, in a form of their own.

    Raises:
        PlanError: there is none.
    """
    ours, theirs = forms_of(engine), forms_of(other)
    alone = any(theirs[name].lines is not None and form.lines is None for name, form in ours.items() if name in theirs)
    base = other if alone else engine  # a regression that the rows of `engine` do not show
    return centred(base, {}, merged(ours, theirs, engine.sizes))


def _laid_out(engine: Engine, forms: Forms, centres: Centres, plate: str | None) -> Engine:
    """Lay rows out anew: in agreed forms, and where there are none in the one that suits them."""
    if engine.recognition.latents is not None:
        return engine
    program = replace(engine.program, view=None)
    read = _agreed(engine.recognition, program, forms, centres)
    built = build(program, read, read.runs[0], read.priors, engine.alive, plate=plate)
    return replace(built, recording=engine.recording, unrecorded=engine.unrecorded, elsewhere=engine.elsewhere)


def _agreed(recognition: Recognition, program: Program, forms: Forms, centres: Centres) -> Recognition:
    """Read rows once, around agreed centres and in agreed forms: a regression even where they show no covariate."""
    readings = dict[str, Reading]()
    for name, part in recognition.readings.items():
        form, roles = forms.get(name), part.roles
        if form is not None and form.lines is not None and roles["loc"].affine is None:
            made = as_affine(roles["loc"], recognition.bank, program)
            roles = roles if made is None else {**roles, "loc": made}
        readings[name] = replace(part, roles=roles, centre=centres.get(name), passing=True, form=form)
    return replace(recognition, readings=readings)


_DEPENDS = (
    "expected a {} that is the same whichever rows are at hand, got one that depends on them (on their mean, say). "
    "Compute it of all rows beforehand."
)


def _readings(
    engine: Engine, there: Program, before: Mapping[str, Site], now: Mapping[str, Site]
) -> dict[str, Reading] | None:
    """Return what was read of all sites, on other rows; None where it has to be read again.

    Raises:
        PlanError: an argument differs other than row by row.
    """
    recognition = engine.recognition
    if _same_arguments(engine, there, before, now):
        return {name: part.on(now[name]) for name, part in recognition.readings.items()}
    found = engine.by_row.on(there, now) if recognition.bank.computed is None else None
    if found is None or other_argument(found, recognition.bank, recognition.values, now):
        return None
    return found


def _same_arguments(engine: Engine, there: Program, before: Mapping[str, Site], now: Mapping[str, Site]) -> bool:
    """Whether all arguments at one point are what they were; False where some differ row by row.

    Raises:
        PlanError: one differs otherwise.
    """
    same = True
    for name, reading in engine.recognition.readings.items():
        if type(unwrap(before[name].fn).base) is not type(unwrap(now[name].fn).base):
            return False
        old, new = (arguments(reading.family, sites[name]) for sites in (before, now))
        for key, role in reading.family.roles.items():
            event = reading.event_rank + role.event_dim
            was, here = (squeeze(a[key].detach(), s[name].dims, name, event) for a, s in ((old, before), (new, now)))
            if engine.plate in (*was.names, *here.names):
                same = False
            elif was.names != here.names or not torch.equal(was.tensor, here.tensor):
                raise PlanError(f'Site "{name}": {_DEPENDS.format(key)}{_alone(engine, there)}')
    for name in engine.moving:
        was, here = (sites[name].log_prob() for sites in (before, now))
        if engine.plate not in was.names and not torch.equal(was.tensor, here.tensor):
            raise PlanError(f'Site "{name}": {_DEPENDS.format("density")}{_alone(engine, there)}')
    return same


def _alone(engine: Engine, there: Program) -> str:
    """Say what helps where a single row cannot tell what differs by row."""
    plate = engine.plate or ""
    alone = engine.program.plates.get(plate) == there.plates.get(plate) == 1
    return f' Where it differs by row, hand out two rows or more of plate "{plate}" in a batch.' if alone else ""
