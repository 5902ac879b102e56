"""What several processes agree on before a fit: plan, options, the plate that is split, centres, the number of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.rebind import Centres, OtherCovariates, centred, forms_of, merged, unlike
from ...errors import DataError, ParameterError, PlanError
from ...m_step.plan import Plan, choose
from ...options import telling
from ...program.devices import beside
from ...program.named import squeeze
from ...program.unroll import unroll
from ...reading.reading import arguments
from ..notes import notes_of
from ..path import Lost
from ..problem import Problem
from .held import AT_HAND, Rows
from .in_common import constants, differing, exposed
from .processes import Shared, Team
from .scan import Prepare, Seen, along, check_apart, looked, sizes_of, split_plate, stream_of
from .seals import Call, Source, source_of
from .stream import check_streamed

ROUNDS = 3  # in which processes show covariates: one that shows none by itself does beside those of others


def agreed(
    em: Any, prepare: Prepare, args: tuple[Any, ...], kwargs: Mapping[str, Any], before: Problem | None = None
) -> Problem:
    """Plan on the rows of this process, and return the problem of the rows of all; see `holders.shared`."""
    call = None if _no_rows((*args, *kwargs.values())) else (args, kwargs)
    team = _team(em.process_group)
    try:
        if all(team.gathered(before is not None and _unchanged(before, call))):
            assert before is not None
            return before
        return _agreed(team, prepare, call, None, telling(em))
    except Lost as lost:
        raise lost.cause from None


def _unchanged(before: Problem, call: Call | None) -> bool:
    """Whether this process sees what it has seen; one without rows looks at those that it was lent."""
    rows = before.rows
    if not isinstance(rows, Shared) or rows.empty != (call is None):
        return False
    return not before.change(*(before.program.passed if call is None else call), run=False)


def agreed_stream(em: Any, prepare: Prepare, batches: Any, passes: int | None) -> Problem:
    """Plan on the first batch of this process, and return the problem of all rows; see `holders.shared_stream`."""
    team = _team(em.process_group)
    try:
        source = team.together(lambda: source_of(batches))
        first = team.together(lambda: next(source.read(), None))
        return _agreed(team, prepare, first, source, {**telling(em), "passes": passes})
    except Lost as lost:
        raise lost.cause from None


def _team(group: Any) -> Team:
    """Return the processes of a group, or refuse one that has not been initialised."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        raise ParameterError(
            "EM: expected process_group to be one of torch.distributed, which has not been initialised. Call "
            'torch.distributed.init_process_group("gloo") first, and start the processes by torchrun.'
        )
    return Team(group, distributed.get_rank(group), distributed.get_world_size(group))


def _no_rows(values: Iterable[Any]) -> bool:
    """Whether an argument, or what it holds, has no rows."""
    return any(
        0 in value.shape if isinstance(value, (Tensor, np.ndarray))
        else _no_rows(value.values()) if isinstance(value, Mapping)
        else isinstance(value, (tuple, list)) and _no_rows(value)
        for value in values
    )  # fmt: skip


def _agreed(
    team: Team, prepare: Prepare, call: Call | None, source: Source | None, options: Mapping[str, Any]
) -> Problem:
    """Plan in every process: on its own rows, or on those that the first one with rows lends it."""
    empty = call is None
    flags = team.gathered((empty, source is not None))
    if any(streams != flags[0][1] for _, streams in flags):
        raise PlanError("process_group: expected fit in all processes, or fit_stream in all, got both.")
    without = [none for none, _ in flags]
    if all(without):
        raise DataError("process_group: expected at least one row in some process, got none. Pass data.")
    if any(without):
        lender = without.index(False)
        lent = team.gathered(call if team.rank == lender else None)[lender]
        call = lent if call is None else call
    assert call is not None
    args, kwargs = call
    problem = team.together(lambda: prepare(args, kwargs).of_all_rows)
    with beside(problem.program.device):
        own = None if empty else source
        every = team.gathered([] if empty else sizes_of(problem.engine, own))
        plate = split_plate([one for sizes in every for one in sizes])

        def checked() -> tuple[Engine, Seen]:
            engine = along(problem.engine, plate)
            check_streamed(engine, _plan(problem, engine))
            seen = Seen()
            if own is not None:
                check_apart(engine, (args, kwargs))
                seen, engine = looked(own, engine)
            elif not empty:
                seen.add(engine)
            return engine, seen

        engine, seen = team.together(checked)
        return _joined(team, replace(problem, engine=engine), options, seen, own, reads=source is not None)


def _in_one_form(team: Team, engine: Engine, centres: Centres) -> Engine:
    """Return the engine of this process in a form that serves for the rows of all.

    Raises:
        PlanError: there is none.
    """
    made, other = engine, ""
    for _ in range(ROUNDS):
        every = team.gathered(forms_of(made))
        forms = team.together(partial(reduce, partial(merged, sizes=engine.sizes), every))
        made = team.together(partial(centred, engine, centres, forms))
        other = unlike(made, forms)
        if not any(team.gathered(other)):
            return made

    def refused() -> Engine:
        if other:
            raise OtherCovariates(other, made)
        return made

    return team.together(refused)


def _as_elsewhere(team: Team, engine: Engine, centres: Centres) -> Engine:
    """Return the engine of this process with arguments that differ from those of other processes as known of its rows.

    Raises:
        PlanError: they cannot be.
    """
    values = team.gathered({name: value.detach() for name, value in engine.recognition.values.items()})[0]
    while True:
        first, *others = team.gathered(constants(engine, values))
        names = set[str]().union(*(differing(first, other) for other in others))
        if not names:
            return engine
        engine = team.together(partial(exposed, engine, names, centres))


def _plan(problem: Problem, engine: Engine) -> Plan:
    return choose(engine, problem.options, problem.withdrawn, at_hand=False)


def _joined(
    team: Team, problem: Problem, options: Mapping[str, Any], mine: Seen, source: Source | None, *, reads: bool
) -> Problem:
    """Compare options, plan and arguments with the others, and agree on the centre of values and their spread.

    Raises:
        PlanError: they are not the same.
    """
    engine = problem.engine
    assert engine.plate is not None
    for what, here in {
        "options": {name: repr(value) for name, value in options.items()},
        "plan": _in_words(problem, _plan(problem, engine)),
        "arguments": _arguments(team, engine),
    }.items():
        for rank, there in enumerate(team.gathered(here)):
            names = [name for name in here if not _same(here[name], there.get(name))]
            if names or here.keys() != there.keys():
                name = names[0] if names else next(iter(here.keys() ^ there.keys()))
                raise PlanError(
                    f'process_group: expected the same {what} in all processes, got another "{name}" in process {rank} '
                    f"than in process {team.rank}. What is computed of the rows is to be computed of all of them."
                )
    seen = Seen()
    for one in team.gathered(replace(mine, seals=[])):
        seen.rows += one.rows
        seen.counted = seen.counted or one.counted
        for name, places in one.places.items():
            seen.places.setdefault(name, []).extend(places)
        for name, values in one.samples.items():
            known = seen.samples.get(name)
            seen.samples[name] = values if known is None else torch.cat([known, values])
    seen.check_counted(engine)
    rows, centres = sum(seen.rows), seen.centres()
    engine = _as_elsewhere(team, _in_one_form(team, engine, centres), centres)
    plan = _plan(problem, engine)
    local: Rows = AT_HAND
    note = f"{rows} rows of {team.size} processes, {sum(mine.rows)} of them here"
    if source is not None:
        local = replace(stream_of(source, engine, mine, centres, seen.samples), steps=plan.steps)
        note += f" in {len(mine.seals)} batches, read again in every pass"
    plan = replace(plan, notes=notes_of(engine, note), seconds=problem.plan.seconds)
    times = rows / engine.program.plates[str(engine.plate)]
    held = Shared(team, not mine.rows, times, seen.samples, local, plan.steps, reads)
    key = dict(problem.key)  # another object, by which steps of other rows are told apart: also those of others' rows
    return replace(problem, engine=engine, plan=plan, collapse=False, rows=held, key=key)


def _in_words(problem: Problem, plan: Plan) -> dict[str, Any]:
    """How every parameter is maximised, and its shape."""
    shapes = {name: tuple(p.initial.shape) for name, p in problem.program.parameters.items()}
    return {name: (line.how, line.sites, shapes[name]) for name, line in plan.lines.items()}


def _arguments(team: Team, engine: Engine) -> dict[str, Any]:
    """Arguments of all sites that no row enters, and priors, at the values that the first process has probed."""
    values = team.gathered({name: value.detach() for name, value in engine.recognition.values.items()})[0]
    run, found = unroll(engine.program.run(values)), dict[str, Any]()
    for name, site in run.items():
        if site.role == "prior":
            found[name] = site.log_prob().tensor.detach()
    for name, reading in engine.recognition.readings.items():
        for key, value in arguments(reading.family, run[name]).items():
            if key in reading.family.roles:
                event = reading.event_rank + reading.family.roles[key].event_dim
                part = squeeze(value.detach(), run[name].dims, name, event)
                found[f"{name}.{key}"] = None if engine.plate in part.names else part.tensor.clone()
    return found


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.allclose(one, other, rtol=1e-12, atol=0.0, equal_nan=True)
    return bool(type(one) is type(other) and one == other)
