"""From a model and its arguments to a problem: an engine and a plan, checked, and what the fit asks of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ..e_step import notes
from ..e_step.confirm import other_densities
from ..e_step.engine import Engine
from ..e_step.expectation import Expectation
from ..e_step.make import engine_of
from ..e_step.shares import EVIDENCE, SUMS, Collect, Shares
from ..errors import EMError, ObjectiveError
from ..m_step.ascent.ascend import Carried
from ..m_step.ascent.hill import gradient
from ..m_step.maximise import expanded, maximise
from ..m_step.plan import Choice, Plan, choose
from ..m_step.pooling import PriorUnbounded
from ..program.changes.contents import contents_of, entries_of
from ..program.changes.fingerprint import Fingerprint, fingerprint, first_change, lasting, unread
from ..program.changes.same import check_steady, first_difference, keeping, states_of
from ..program.coordinates import Coordinates
from ..program.data.check import check_data
from ..program.data.shapes import check_is_data
from ..program.devices import beside
from ..program.lookups import BelowZero, check_lookups
from ..program.marks import bounding, is_known
from ..program.named import Batch, Params, only
from ..program.program import Program
from ..program.stated import Known
from ..program.store import check_starts, run_at_start, values_now
from ..program.survey import survey
from ..reading.bound import Bound
from ..reading.check import check_structure, check_values
from ..reading.latents.which import to_integrate
from ..reading.recognise import recognise
from ..records.frozen import frozen
from .notes import notes_of
from .rows.held import AT_HAND, Rows
from .scales import Scales

SLACK = {torch.float64: 1e-10, torch.float32: 1e-6}  # rounding of the objective, relative to 1 + |objective|

Expect = Callable[[Bound, Bound | None], Expectation]
"""An E-step: at bound arguments, its sums around the locations there or at others."""


@frozen
class Problem:
    """Everything that is worked out once for one model and one set of arguments.

    Attributes:
        program: the model, surveyed.
        engine: of the E-step.
        plan: of the M-step.
        options: the user's `m_step`.
        withdrawn: parameters whose closed form was refuted, and why.
        key: what the model saw when it was planned.
        collapse: whether equal rows may be merged.
        refuted: why sites are no longer recorded; empty if they are.
        expands: whether M-steps may be those of a model with more parameters, that lead as high and sooner.
        total: wraps the E-step over the rows at hand into one over more of them, or one that is counted.
        rows: where the rows lie: those of the engine, or those of a stream.
    """

    program: Program
    engine: Engine
    plan: Plan
    options: Mapping[str, Choice] = field(default_factory=dict, repr=False)
    withdrawn: Mapping[str, str] = field(default_factory=dict, repr=False)
    key: Fingerprint = field(default_factory=dict, repr=False)
    collapse: bool = True
    refuted: str = ""
    total: Callable[[Expect], Expect] = field(default=lambda expect: expect, repr=False)
    expands: bool = False
    rows: Rows = field(default=AT_HAND, repr=False)

    # ---- what a step asks; starts are the first dimension of everything ----

    def bind(self, batch: Batch) -> Bound:
        """Bind the arguments of all sites to `batch`: no data in it."""
        return self.engine.bind(batch)

    def expect(self, bound: Bound, about: Bound | None = None, collect: Collect = SUMS) -> Expectation:
        """Return log Z and the expected statistics of every site, around the locations at `bound` or at `about`."""
        return self.total(partial(self.rows.expect, self.engine, collect=collect))(bound, about)

    def heights(self, batch: Batch) -> Tensor:
        """Return log evidence plus log prior, shape (starts); no statistics are collected."""
        bound = self.bind(batch)
        return self.expect(bound, collect=EVIDENCE).log_evidence + self.log_prior(bound)

    def given(self, bound: Bound, shares: Callable[[Engine], Shares]) -> Expectation:
        """Return the expected statistics under given shares of the rows of any engine, where no density weighs them."""
        return self.rows.expect(self.engine, bound, shares=shares)

    def log_prior(self, bound: Bound) -> Tensor:
        """Return the log prior density of the parameters, shape (starts)."""
        return self.engine.log_prior(bound)

    def maximise(self, found: Expectation, batch: Batch, memory: Carried) -> dict[str, Tensor]:
        """Return `argmax Q`; a start from which there is no step becomes NaN (`fault` says why)."""
        try:
            return expanded(self.engine, self.plan, found, batch, memory, apart=not self.expands)
        except (PriorUnbounded, ObjectiveError):
            return {name: torch.full_like(value, torch.nan) for name, value in batch.items()}

    def sooner(self, acceleration: str | None, tol: float) -> Problem:
        """The same with M-steps that lead as high and sooner, but where plain steps are asked for."""
        return self._sooner if acceleration is not None and tol > 0 else self

    @cached_property
    def _sooner(self) -> Problem:  # one for all fits of a plan: what it works out of the data, it has for the next
        return replace(self, expands=True)

    def fault(self, found: Expectation, batch: Batch) -> PriorUnbounded | ObjectiveError | None:
        """Say why one start has no M-step; None if it has one."""
        try:
            maximise(self.engine, self.plan, found, batch, {})
        except (PriorUnbounded, ObjectiveError) as why:
            return why
        return None

    # ---- what the loop asks, of one start ----

    def objective(self, batch: Batch) -> float:
        """Return log evidence plus log prior of one start."""
        return float(self.heights(batch))

    def gradient(self, found: Expectation, batch: Batch, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the gradient of `Q` in unconstrained coordinates, by default those of all parameters that move."""
        return gradient(self.engine, found, only(batch), self.plan.free if names is None else names)[1]

    def magnitude(self, found: Expectation, batch: Batch) -> float:
        """Return the sum of the absolute terms of `Q`: what its rounding is relative to."""
        return float(self.engine.magnitude(found, batch))

    @cached_property
    def coordinates(self) -> Coordinates:
        """Unconstrained coordinates of all parameters that move."""
        return Coordinates(self.program, self.plan.free)

    @cached_property
    def scales(self) -> Scales:
        """What may collapse."""
        return Scales(self.engine, self.rows.samples)

    @cached_property
    def slack(self) -> float:
        """Relative rounding of the objective, by the dtype of the program's parameters."""
        strain = 1 if self.engine.recognition.latents is None else 100  # a scale of normal latents may go to zero
        by_the_model = self.engine.replayed or self.engine.absorbed or self.engine.written
        return strain * (self.rounding if by_the_model else SLACK[torch.float64])

    @cached_property
    def rounding(self) -> float:
        """The same where the parameters are rounded to their dtype after every step."""
        return SLACK[self.program.dtype]

    @cached_property
    def widest(self) -> int:
        """Entries of the largest product of an E-step, of any who hold rows."""
        return max(self.rows.gathered(max((part.entries() for part in self.engine.parts), default=1)))

    @cached_property
    def witness(self) -> tuple[str, ...]:
        """The first parameter that has an entry: it is NaN where a start has no step."""
        return tuple(n for n, p in self.program.parameters.items() if p.initial.numel())[:1]

    @cached_property
    def looks(self) -> list[Any]:
        """The last look at a step: `look` is asked by the step and by the loop."""
        return []

    @cached_property
    def proven(self) -> list[Params]:
        """The last start from which the closed forms of this plan have stood their trial."""
        return []

    def change(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, run: bool) -> str:
        """Name what the model sees or does on these arguments that is not as it was planned; empty if all is.

        Args:
            args: of the model.
            kwargs: likewise.
            run: run the model once more, if all that it is known to see is as it was, and compare what it does; without
                this it is run where it sees something that cannot be read.
        """
        program, recognition = self.program, self.engine.full.recognition
        seen = fingerprint(program.model, args, kwargs, program.written)
        name = first_change(self.key, seen)
        if name or not (run or unread(self.key) or unread(seen)):
            return name
        with torch.no_grad(), beside(program.device):
            try:
                return first_difference(recognition.runs[0], program.run(recognition.values))
            except (EMError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
                return f"the model (it now raises {type(error).__name__}: {error})"

    @property
    def of_all_rows(self) -> Problem:
        """The same before equal rows were merged: starts are drawn of all rows."""
        return self if self.engine.full is self.engine else self._unmerged  # never kept in itself: a cycle of the data

    @cached_property
    def _unmerged(self) -> Problem:
        return replace(self, engine=self.engine.full, plan=self._chosen(self.engine.full, self.withdrawn))

    def _chosen(self, engine: Engine, withdrawn: Mapping[str, str]) -> Plan:
        return choose(engine, self.options, withdrawn, at_hand=self.rows.whole)

    def without(self, names: frozenset[str], sites: frozenset[str], why: str) -> Problem:
        """Withdraw the closed forms of `names`; sites in `sites` are replayed from now on."""
        recognition = self.engine.full.recognition
        recognition = recognition.refused(sites, why) if sites else recognition
        engine, _ = engine_of(self.program, recognition, merge=self.collapse, refuted=self.refuted)
        withdrawn = {**self.withdrawn, **dict.fromkeys(names, why)}
        plan = replace(self._chosen(engine, withdrawn), notes=self.plan.notes, seconds=self.plan.seconds)
        return replace(self, engine=engine, plan=plan, withdrawn=withdrawn)

    def without_recording(self, why: str) -> Problem:
        """Run the model for the sites that had been recorded."""
        engine, rows = engine_of(self.program, self.engine.full.recognition, merge=self.collapse, refuted=why)
        plan = replace(self._chosen(engine, self.withdrawn), notes=notes_of(engine, rows))
        return replace(self, engine=engine, plan=replace(plan, seconds=self.plan.seconds), refuted=why)

    def corrected(self, wrong: Collection[str]) -> tuple[Problem, str]:
        """Give up what the model refutes at the sites of `wrong`; and the note that says so."""
        readings = self.engine.full.recognition.readings
        if not (compiled := [site for site in wrong if site in readings]):
            why = "the model has other log-densities at the fitted values than its recording"
            note = f"recording of {sorted(wrong)} withdrawn: {why}; the fit went on with the model itself"
            return self.without_recording(why), note
        names = frozenset[str]().union(*(readings[site].parameters for site in compiled))
        why = "the model's arguments at the fitted values are not those that the plan derived"
        note = f"closed forms of {sorted(names)} withdrawn: {why}; the fit went on with the model itself"
        return self.without(names, frozenset(compiled), why), note


def prepare(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Choice],
    *,
    check: bool,
    collapse: bool = True,
    prior_density: str = "constrained",
    continuous: Mapping[str, str] | None = None,
    known: Known | None = None,
    given: Params | None = None,
) -> Problem:
    """Survey, check, recognise and plan; options are those of `EM`; no initialiser is run if all values are `known`.

    Raises:
        ModelError: the program is one that exact EM cannot treat, or is silently wrong.
        DataError: the data cannot be used.
        ParameterError: a start or an option does not fit.
        PlanError: a closed form was demanded where there is none.
    """
    began, before = time.perf_counter(), fingerprint(model, args, kwargs)
    free = prior_density == "unconstrained"
    look = partial(survey, model, args, kwargs, known and known.initial, continuous=continuous, unconstrained=free)
    held = partial(contents_of, args, kwargs), partial(entries_of, args, kwargs)
    with keeping(*held), beside((program := look()).device):
        if (integrated := to_integrate(program, values_now(program), continuous or {})) != program.integrated:
            program = look(integrated=integrated)
        start = values_now(program, given) if known is None else {n: known.start[n] for n in program.parameters}
        with torch.no_grad(), BelowZero() as met:
            sites = run_at_start(program, start)
        ask = partial(bounding, program, start), partial(is_known, program, start)
        check_is_data(sites, program.latents, partial(program.run, start))
        check_data(sites, start, program.plates, program.states, *ask)
        check_starts(program, start)  # afterwards: a start that was computed of bad data is not to blame
        states, recognition = states_of(sites), recognise(program, sites)
        check_lookups(program, recognition.values, met)
        check_steady(sites, states, recognition.runs[0], lambda: run_at_start(program, start))
        engine, rows = engine_of(program, recognition, merge=collapse)
        wrong = other_densities(engine.full) if check else []
        if wrong:
            recognition = recognition.refused(wrong, "its registered family computes another density than its log_prob")
            engine, rows = engine_of(program, recognition, merge=collapse)
        if check:
            own = {n: sites[n].names for n in recognition.entered}  # their factor is one of them all
            check_structure(program, {**{n: f.names for n, f in engine.factors.items()}, **own}, sites)
            check_values(program, recognition.values, recognition.runs[0])
        if any(callable(choice) for choice in options.values()) and (kept := notes.seen_by_row(engine)):
            engine, collapse = engine.full, False
            rows = f'not merged: your own M-steps are given site "{kept}" row by row'
        plan = choose(engine, options, {})
        plan = replace(plan, notes=notes_of(engine, rows), seconds=time.perf_counter() - began)
        key = lasting(before, fingerprint(model, args, kwargs, program.written))
        return Problem(program, engine, plan, options, {}, key, collapse)
