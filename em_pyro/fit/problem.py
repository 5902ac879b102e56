"""From a model and its arguments to an engine and a plan, checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ..e_step.build import build
from ..e_step.chains.hmm import Hmm
from ..e_step.chains.markov import Markov
from ..e_step.chunks import tuned
from ..e_step.confirm import other_densities
from ..e_step.contraction import Chain
from ..e_step.engine import Engine
from ..e_step.part import Part
from ..e_step.precision import form
from ..errors import ModelError
from ..m_step.plan import Choice, Plan, choose
from ..program.data import check_data
from ..program.devices import beside
from ..program.fingerprint import key_of
from ..program.masks import alive
from ..program.named import Params, listed
from ..program.program import Program
from ..program.store import starting_values
from ..program.survey import survey
from ..reading.check import check_structure, check_values
from ..reading.distinct import collapsed, cut_rows, find
from ..reading.reading import Recognition, Refusal
from ..reading.recognise import recognise
from ..recording.record import Untraceable
from ..recording.recorded import recorded

PROBES = 3  # random points, far apart, at which a recording must be the model


@dataclass(frozen=True)
class Prepared:
    """Everything that is worked out once for one model and one set of arguments."""

    program: Program
    engine: Engine
    plan: Plan
    options: Mapping[str, Choice] = field(repr=False)
    withdrawn: Mapping[str, str] = field(repr=False)
    key: tuple[Any, ...] = field(repr=False)
    collapse: bool = True
    refuted: str = ""  # why sites are no longer recorded

    @cached_property
    def of_all_rows(self) -> tuple[Engine, Plan]:
        """Engine and plan before equal rows were collapsed: starts are drawn of all rows."""
        full = self.engine.full
        return full, self.plan if full is self.engine else choose(full, self.options, self.withdrawn)

    def without(self, names: frozenset[str], sites: frozenset[str], why: str) -> Prepared:
        """Withdraw the closed forms of `names`; sites in `sites` are replayed from now on."""
        recognition = self.engine.full.recognition
        if sites:
            recognition = _refused(recognition, sites, why)
        engine, _ = _engine(self.program, recognition, self.refuted, collapse=self.collapse)
        withdrawn = {**self.withdrawn, **dict.fromkeys(names, why)}
        plan = replace(choose(engine, self.options, withdrawn), notes=self.plan.notes, seconds=self.plan.seconds)
        return replace(self, engine=engine, plan=plan, withdrawn=withdrawn)

    def without_recording(self, why: str) -> Prepared:
        """Run the model for the sites that had been recorded."""
        engine, rows = _engine(self.program, self.engine.full.recognition, why, collapse=self.collapse)
        plan = replace(choose(engine, self.options, self.withdrawn), notes=_notes(engine, rows))
        return replace(self, engine=engine, plan=replace(plan, seconds=self.plan.seconds), refuted=why)

    def corrected(self, wrong: Collection[str]) -> tuple[Prepared, str]:
        """Give up what the model refutes at the sites of `wrong`; and the note that says so."""
        readings = self.engine.full.recognition.readings
        compiled = [site for site in wrong if site in readings]
        if not compiled:
            why = "the model has other log-densities at the fitted values than its recording"
            note = f"recording of {sorted(wrong)} withdrawn: {why}; the fit went on with the model itself"
            return self.without_recording(why), note
        names = frozenset[str]().union(*(readings[site].parameters for site in compiled))
        why = "the model's arguments at the fitted values are not those that the plan derived"
        note = f"closed forms of {sorted(names)} withdrawn: {why}; the fit went on with the model itself"
        return self.without(names, frozenset(compiled), why), note


def _refused(recognition: Recognition, sites: Collection[str], why: str) -> Recognition:
    """The same with some sites to be replayed."""
    refusals = {s: Refusal(why, recognition.readings[s].parameters) for s in sites}
    readings = {n: r for n, r in recognition.readings.items() if n not in sites}
    return replace(recognition, readings=readings, refusals={**recognition.refusals, **refusals})


def prepare(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Choice],
    *,
    check: bool,
    collapse: bool = True,
) -> Prepared:
    """Survey, check, recognise and plan.

    Raises:
        ModelError: the program is one that exact EM cannot treat, or is silently wrong.
        DataError: the data cannot be used.
        ParameterError: a start or an option does not fit.
        PlanError: a closed form was demanded where there is none.
    """
    began = time.perf_counter()
    program = survey(model, args, kwargs)
    with beside(program.device):
        start = starting_values(program)
        with torch.no_grad():
            sites = _first_run(program, start)
        check_data(sites, start, program.plates)
        recognition = recognise(program)
        engine, rows = _engine(program, recognition, collapse=collapse)
        with torch.no_grad():
            wrong = other_densities(engine.full) if check else []
        if wrong:
            why = "its registered family computes another density than its log_prob"
            recognition = _refused(recognition, wrong, why)
            engine, rows = _engine(program, recognition, collapse=collapse)
        if check:
            check_structure(program, {n: f.names for n, f in engine.factors.items()}, sites)
            check_values(program, recognition.values, recognition.runs[0])
        engine = tuned(engine, start)
        plan = choose(engine, options, {})
        plan = replace(plan, notes=_notes(engine, rows), seconds=time.perf_counter() - began)
        return Prepared(program, engine, plan, options, {}, key_of(args, kwargs), collapse)


def _first_run(program: Program, start: Params) -> Any:
    try:
        return program.run(start)
    except RuntimeError as error:
        if "Boolean value of Tensor" not in str(error):
            raise
        raise ModelError(
            f"The model: expected no `if` or `while` on a sampled value, got one ({error}). Compute both branches and "
            f"choose by torch.where."
        ) from error


def _engine(
    program: Program, recognition: Recognition, refuted: str = "", *, collapse: bool = True
) -> tuple[Engine, str]:
    """Build the engine, of the distinct rows where that pays, and say which; record nothing if that was refuted."""
    living = alive(program, recognition.runs)
    full = _recorded(build(program, recognition, recognition.runs[0], recognition.priors, living), refuted)
    if not collapse:
        return full, "not collapsed: as you asked"
    distinct, note = find(program, recognition) if not full.hmms else (None, "")
    if distinct is None:
        return full, note
    shrunk, fewer = collapsed(program, recognition, distinct)
    living = {name: cut_rows(part, distinct) for name, part in living.items()}
    engine = build(shrunk, fewer, fewer.runs[0], recognition.priors, living)
    return replace(engine, uncollapsed=full, recording=full.recording, unrecorded=full.unrecorded), note


def _recorded(engine: Engine, refuted: str) -> Engine:
    """The same with the sites that are not compiled recorded as a graph, where that can be done."""
    if not engine.runs_model or refuted:
        return replace(engine, unrecorded=refuted)
    points, runs = engine.recognition.points[:PROBES], engine.recognition.runs[:PROBES]
    if engine.program.view is not None:
        runs = [engine.program.view(dict(run)) for run in runs]
    try:
        recording = recorded(engine.program, engine.moving, engine.open_priors, points, runs)
    except Untraceable as reason:
        return replace(engine, unrecorded=str(reason))
    return replace(engine, recording=recording)


def _notes(engine: Engine, rows: str) -> tuple[str, ...]:
    """What else the plan should say: replayed sites, blocks, dtype."""
    notes = [rows] if rows else []
    reasons: dict[str, list[str]] = {}
    for name in engine.moving:
        refusal = engine.recognition.refusals.get(name)
        reasons.setdefault(refusal.why if refusal else "not compiled", []).append(name)
    for why, names in reasons.items():
        how = "recorded once as tensor operations" if engine.recording else "the model is replayed in every step"
        notes.append(f"site{'s' * (len(names) > 1)} {listed(names)}: {how}, because {why}")
    if engine.runs_model:
        notes.append(f"the model cannot be recorded as tensor operations: {engine.unrecorded}")
    notes += _chains(engine)
    blocks = max((part.blocks for part in engine.parts), key=len, default=())
    if engine.whole:
        notes.append(f"rows are taken whole: {engine.whole}")
    elif len(blocks) > 1:
        notes.append(f'plate "{blocks[0].plate}" in {len(blocks)} blocks of {blocks[0].length} rows')
    notes += form(engine)
    if any(p.initial.dtype == torch.float32 for p in engine.program.parameters.values()):
        notes.append("float32 parameters: contracted and accumulated in float64, stored in float32")
    return tuple(notes)


def _chains(engine: Engine) -> list[str]:
    """By which recursion every chain is run, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for unit in engine.units:
        if isinstance(unit, (Hmm, Markov)):
            found.setdefault((unit.method, unit.reason), []).append(unit.title)
    for part in engine.parts:
        for step in part.schedule.steps if isinstance(part, Part) else ():
            if isinstance(step, Chain):
                why = "its transitions differ between steps, or not all of it is compiled"
                found.setdefault(("torch", why), []).append(f"{step.latents[0]} ... {step.latents[-1]}")
    notes = []
    for (method, why), names in found.items():
        how = "compiled recursions" if method == "numba" else "a scan in torch"
        notes.append(f"chain{'s' * (len(names) > 1)} {listed(names)}: {how}, because {why}")
    return notes
