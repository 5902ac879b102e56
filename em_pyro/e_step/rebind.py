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
from ..reading.bank import Bank
from ..reading.design.basis import union
from ..reading.design.compared import other_argument
from ..reading.design.slopes import as_affine
from ..reading.predictor import Affine
from ..reading.reading import Agreed, Centre, Lookups, Reading, Recognition, arguments
from .build import build
from .engine import Engine

Centres = Mapping[str, Centre]
"""By site, around what values are taken."""

Groups = Mapping[str, Lookups]
"""By site, what rows look up."""


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
    recognition = engine.recognition
    program = replace(engine.program, view=None)
    there, run = program.run_on(args, kwargs, recognition.values)
    before = recognition.runs[0]
    priors = [{n: s for n, s in sites.items() if s.role == "prior"} for sites in (before, run)]
    if differs := first_difference(*priors):
        raise PlanError(f"{differs[0].upper()}{differs[1:]}: {_DEPENDS.format('prior')}")
    readings = None if recognition.latents is not None else _readings(engine, there, unroll(before), unroll(run))
    if readings is None:
        return _alike(engine, _built(engine, engine.on(args, kwargs), centres))
    read = replace(
        recognition,
        readings=_passing(engine, replace(recognition, readings=readings), centres),
        runs=[run],
        points=recognition.points[:1],
    )
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


def _alike(engine: Engine, found: Engine) -> Engine:
    """Return what was found of other rows.

    Raises:
        OtherCovariates: their statistics cannot be added to those of `engine`.
    """
    for name, factor in found.sites.items():
        if factor.kept and name in engine.sites and not engine.sites[name].kept:
            raise OtherCovariates(name, _built(None, found, {}))
    agreed, here = coefficients(engine), coefficients(found)
    for name in agreed.keys() | here.keys():
        if agreed.get(name) is not here.get(name):
            raise OtherCovariates(name, found if name in here else _built(None, found, {}))
    return found


def coefficients(engine: Engine) -> dict[str, Affine]:
    """Return the coefficients of all sites that are linear in covariates."""
    every = ((name, factor.form.lines(factor)) for name, factor in engine.sites.items())
    return {name: found for name, found in every if found is not None}


def lookups(engine: Engine) -> dict[str, Lookups]:
    """Return what rows look up, of all sites whose rows are taken by group."""
    return {n: f.data.groups.lookups for n, f in engine.sites.items() if f.data.groups is not None}


def centred(
    engine: Engine, centres: Centres, covariates: Mapping[str, Affine] | None = None, groups: Groups | None = None
) -> Engine:
    """Return the engine of the same rows with values taken from other centres.

    Args:
        engine: of some rows.
        centres: of sites of location families.
        covariates: coefficients by site that are agreed on; without, those of these rows.
        groups: likewise, what rows look up.
    """
    return _built(engine, engine, centres, covariates, groups)


def widened(engine: Engine, other: Engine) -> Engine:
    """Return the engine of some rows in a form that serves for other rows too: with the covariates of both.

    Args:
        engine: of some rows.
        other: of others, read by themselves.
    """
    ours, theirs = coefficients(engine), coefficients(other)
    shapes = {name: (*other.sites[name].cell_shape, *other.sites[name].event_shape) for name in theirs}
    both = {n: union(ours[n], part, shapes[n]) if n in ours else part for n, part in theirs.items()}
    more = theirs.keys() <= ours.keys() and lookups(other).keys() <= lookups(engine).keys()
    base = engine if more else other  # a regression, or groups, on these rows alone
    return centred(base, {}, ours | both)


def _built(
    engine: Engine | None,
    found: Engine,
    centres: Centres,
    covariates: Mapping[str, Affine] | None = None,
    groups: Groups | None = None,
) -> Engine:
    """Lay rows out anew, as those of `engine` are, or as suits them."""
    if found.recognition.latents is not None:
        return found
    recognition = found.recognition
    read = replace(recognition, readings=_passing(engine, recognition, centres, covariates, groups))
    program, plate = replace(found.program, view=None), (engine or found).plate
    built = build(program, read, read.runs[0], read.priors, found.alive, plate=plate)
    return replace(built, recording=found.recording, unrecorded=found.unrecorded, elsewhere=found.elsewhere)


def _passing(
    engine: Engine | None,
    recognition: Recognition,
    centres: Centres,
    covariates: Mapping[str, Affine] | None = None,
    groups: Groups | None = None,
) -> dict[str, Reading]:
    """Read rows once, around agreed centres, and in the form that those of `engine` have."""
    forms = dict[str, Agreed]()
    if engine is not None:
        lines = coefficients(engine) | {**(covariates or {})}
        looked_up = lookups(engine) | {**(groups or {})}
        forms = {name: Agreed(looked_up.get(name, {}), lines.get(name)) for name in engine.sites}
    return {
        name: replace(_as_line(engine, recognition.bank, part, forms.get(name)), centre=centres.get(name), passing=True)
        for name, part in recognition.readings.items()
    }


def _as_line(engine: Engine | None, bank: Bank, reading: Reading, form: Agreed | None) -> Reading:
    """Return the reading of a site in an agreed form: a regression even where these rows show no covariate."""
    if engine is None or form is None or form.lines is None or reading.roles["loc"].affine is not None:
        return replace(reading, form=form)
    made = as_affine(reading.roles["loc"], bank, engine.program)
    return replace(reading, form=form, roles=reading.roles if made is None else {**reading.roles, "loc": made})


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
    if _same_arguments(engine, before, now):
        return {name: part.on(now[name]) for name, part in recognition.readings.items()}
    found = engine.by_row.on(there, now) if recognition.bank.computed is None else None
    if found is None or other_argument(found, recognition.bank, recognition.values, now):
        return None
    return found


def _same_arguments(engine: Engine, before: Mapping[str, Site], now: Mapping[str, Site]) -> bool:
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
                raise PlanError(f'Site "{name}": {_DEPENDS.format(key)}')
    for name in engine.moving:
        was, here = (sites[name].log_prob() for sites in (before, now))
        if engine.plate not in was.names and not torch.equal(was.tensor, here.tensor):
            raise PlanError(f'Site "{name}": {_DEPENDS.format("density")}')
    return same
