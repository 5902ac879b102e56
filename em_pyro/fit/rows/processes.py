"""Rows that lie with several processes, each of which holds its share: one reduction of a flat vector an E-step.

All processes take the same steps from the same start, and hold the same parameters after each. What decides how to go
on is the same on all of them: sums, evidence, starts, the centre and reach of values, their spread, the number of rows.
Free is how each takes its own rows: in chunks, in which form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.expectation import Expectation
from ...e_step.rebind import centred
from ...e_step.shares import SUMS, Collect
from ...errors import DataError, EMError, ParameterError, PlanError, ProcessError
from ...m_step.plan import choose
from ...options import telling
from ...program.devices import beside
from ...program.named import Named, squeeze
from ...program.unroll import unroll
from ...reading.bound import Bound
from ...reading.reading import arguments
from ..notes import notes_of
from ..path import Lost
from ..problem import Problem
from .held import AT_HAND, Rows, Sharing, soft
from .scan import Seen
from .stream import check_additive, check_streamed

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """A process group, and who is asking."""

    group: Any
    rank: int
    size: int

    def gathered(self, found: T) -> list[T]:
        """Return what every process has found, in the order of their ranks."""
        from torch import distributed

        every: list[Any] = [None] * self.size
        self._asked(lambda: distributed.all_gather_object(every, found, group=self.group))
        return every

    def summed(self, vector: Tensor) -> Tensor:
        """Add a vector up over all processes."""
        from torch import distributed

        self._asked(lambda: distributed.all_reduce(vector, group=self.group))
        return vector

    def _asked(self, ask: Callable[[], object]) -> None:
        """Ask the others.

        Raises:
            Lost: one of them does not answer.
        """
        try:
            ask()
        except RuntimeError as error:
            raise Lost(
                ProcessError(
                    f"Process {self.rank} of {self.size}: expected all processes to answer, got none from some of them "
                    f"({str(error).splitlines()[0]}). One has ended, or hangs. Start all of them again, from the last "
                    f"values: EM(model, starts=em.last.params)."
                )
            ) from error


@dataclass(frozen=True)
class Shared:
    """The rows of several processes.

    Attributes:
        team: the processes.
        empty: whether this one has no rows: those of its engine are borrowed, and count nothing.
        times: how many times as many rows there are as the engine holds.
        samples: some values of every site with a scale, from all processes.
        local: how the rows of this process are gone through.
    """

    team: Team
    empty: bool
    times: float
    samples: Mapping[str, Tensor] = field(repr=False)
    local: Rows = AT_HAND
    whole: bool = False

    @property
    def holder(self) -> int:
        """Which of the processes this one is."""
        return self.team.rank

    def expect(
        self,
        engine: Engine,
        bound: Bound,
        about: Bound | None = None,
        collect: Collect = SUMS,
        shares: Sharing = soft,
    ) -> Expectation:
        """Run one E-step over the rows of all processes."""
        here = self.local.expect(engine, bound, about, collect, shares)
        check_additive(engine, here)
        return _reduced(self.team, here, by=0.0 if self.empty else 1.0)

    def parts(self, engine: Engine) -> Iterator[Engine]:
        """Go through the rows of this process."""
        if not self.empty:
            yield from self.local.parts(engine)

    def gathered(self, found: T) -> list[T]:
        """Return what every process has found."""
        return self.team.gathered(found)

    def watched(self, tick: Callable[[int], Any]) -> tuple[Shared, Callable[[int], Any] | None]:
        """Count what is counted of the rows of this process."""
        local, told = self.local.watched(tick)
        return replace(self, local=local), told


def _reduced(team: Team, here: Expectation, by: float) -> Expectation:
    """Add an expectation up over all processes: evidence, statistics and weights as one flat vector.

    Where statistics are taken around is added up as well, and must be what it is here on all of them.

    Raises:
        PlanError: it is not.
    """
    names, replayed = sorted(here.sums), sorted(here.weights)
    parts = [here.log_evidence, *(part for n in names for part in here.sums[n].parts)]
    parts += [here.weights[n].tensor for n in replayed]
    around = [a.double() for n in names if (a := here.sums[n].around) is not None]
    counted = torch.cat([part.double().reshape(-1) for part in parts])
    counted = counted if by else torch.zeros_like(counted)
    vector = team.summed(torch.cat([counted, *(part.reshape(-1) for part in around)]))
    found = iter(vector[: len(counted)].split([part.numel() for part in parts]))
    made = iter(total.reshape(part.shape) for total, part in zip(found, parts, strict=True))
    evidence = next(made)
    sums = {n: replace(here.sums[n], parts=tuple(next(made) for _ in here.sums[n].parts)) for n in names}
    weights = {n: Named(next(made), here.weights[n].names) for n in replayed}
    if around:
        mine = torch.cat([part.reshape(-1) for part in around])
        off = (vector[len(counted) :] / team.size - mine).abs()
        if bool((off > 1e-9 * (1 + mine.abs())).any()):
            raise PlanError("process_group: expected statistics around the same locations in all processes.")
    return Expectation(evidence, sums, weights, here.plate)


# ---- planning --------------------------------------------------------------------------------------------------------


Prepare = Callable[[tuple[Any, ...], Mapping[str, Any]], Problem]


def shared(em: Any, prepare: Prepare, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Problem:
    """Plan on the rows of this process, and return the problem of the rows of all.

    Args:
        em: with the options, which must be the same in all processes; without a process group this one is alone.
        prepare: plans.
        args: of the model, with the rows of this process; they may be none.
        kwargs: likewise.

    Raises:
        PlanError: processes have other plans or options; or statistics of a site do not add up over their rows.
        DataError: no process has a row.
        EMError: planning failed in one of them.
    """
    if em.process_group is None:
        return prepare(args, kwargs)
    team = _team(em.process_group)
    empty = _no_rows((*args, *kwargs.values()))
    flags = team.gathered(empty)
    if all(flags):
        raise DataError("process_group: expected at least one row in some process, got none. Pass data.")
    if any(flags):
        lender = flags.index(False)
        call = team.gathered((args, dict(kwargs)) if team.rank == lender else None)[lender]
        assert call is not None
        args, kwargs = call if empty else (args, kwargs)
    problem, error = None, None
    try:
        problem = prepare(args, kwargs).of_all_rows
        check_streamed(problem.engine)
    except EMError as raised:
        error = raised
    for rank, message in enumerate(team.gathered(None if error is None else str(error))):
        if message is not None and error is None:
            error = PlanError(f"Process {rank}: {message}")
    if error is not None or problem is None:
        raise error or PlanError("process_group: expected a plan.")
    with beside(problem.program.device):
        return _joined(team, problem, telling(em), empty=empty)


def _team(group: Any) -> Team:
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        raise ParameterError(
            "EM: expected process_group to be one of torch.distributed, which has not been initialised. Call "
            'torch.distributed.init_process_group("gloo") first, and start the processes by torchrun.'
        )
    return Team(group, distributed.get_rank(group), distributed.get_world_size(group))


def _no_rows(values: tuple[Any, ...]) -> bool:
    """Whether an argument has no rows."""
    return any(isinstance(value, (Tensor, np.ndarray)) and 0 in value.shape for value in values)


def _joined(team: Team, problem: Problem, options: Mapping[str, Any], *, empty: bool) -> Problem:
    """Agree with the others on the plan, the centre of values and their spread, and the number of rows."""
    engine = problem.engine
    assert engine.plate is not None
    for what, here in {
        "options": _texts(options),
        "plan": _plan(problem),
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
    mine = Seen()
    if not empty:
        mine.add(engine)
    seen = Seen()
    for one in team.gathered(mine):
        seen.rows += one.rows
        for name, places in one.places.items():
            seen.places.setdefault(name, []).extend(places)
        for name, values in one.samples.items():
            known = seen.samples.get(name)
            seen.samples[name] = values if known is None else torch.cat([known, values])
    rows, local = sum(seen.rows), engine.program.plates[engine.plate]
    engine = centred(engine, seen.centres())
    note = f"{rows} rows of {team.size} processes, {0 if empty else local} of them here"
    plan = replace(choose(engine, problem.options, problem.withdrawn), notes=notes_of(engine, note))
    held = Shared(team, empty, rows / local, seen.samples)
    return replace(problem, engine=engine, plan=plan, collapse=False, rows=held)


def _texts(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: repr(value) for name, value in options.items()}


def _plan(problem: Problem) -> dict[str, Any]:
    """How every parameter is maximised, and its shape."""
    shapes = {name: tuple(p.initial.shape) for name, p in problem.program.parameters.items()}
    return {name: (line.how, line.sites, shapes[name]) for name, line in problem.plan.lines.items()}


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
