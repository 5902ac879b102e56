"""How an `EM` goes about its steps and fits; which ones there are, and their options, is said in `em.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..fit.acceleration.when import wished
from ..fit.checkpoint.opened import opened
from ..fit.endings import check_step
from ..fit.look import look
from ..fit.loop import Settings, State
from ..fit.path import Interrupted, Lost, Move, Path
from ..fit.problem import Problem, prepare
from ..fit.progress import Bar
from ..fit.rows.everywhere import check_possible, watched
from ..fit.rows.holders import shared
from ..fit.starting.current import Current
from ..fit.starting.ends import ends, ranked, with_a_value
from ..fit.starting.starts import starting_points
from ..fit.step import em_step
from ..m_step.ascent.ascend import Carried
from ..m_step.plan import Choice
from ..options import planning, telling
from ..program.changes.fingerprint import Fingerprint
from ..program.handlers import uncollected
from ..program.named import Params, alike, batched, only
from ..program.stated import Known
from .answer import answer
from .fit import Fit

if TYPE_CHECKING:
    from ..fit.rows.seals import Call
    from ..fit.rows.slices import Slices


class Driver:
    """What an `EM` has: its options, the values that it begins with, and what it has planned and done."""

    model: Callable[..., Any]
    tol: float
    max_steps: int
    seed: int
    starts: int | Mapping[str, Any] | Sequence[Mapping[str, Any]]
    m_step: dict[str, Choice]
    progress: bool
    callback: Callable[[State], Any] | None
    screen: bool
    acceleration: str | None
    checkpoint: str | os.PathLike[str] | None
    every: int
    e_step: str
    batches: int | None
    update: str
    step_size: float
    last: Fit | None
    process_group: Any
    _prepared: Problem | None
    _joined: Problem | None
    _current: Current
    _carried: Carried
    _previous: tuple[Fingerprint, float, dict[str, Tensor]] | None

    def _stepped(self, problem: Problem) -> float:
        """Take one EM step from the current values; of several processes those of the first."""
        try:
            return self._step(problem, problem.rows.gathered(self._current.values(problem))[0])
        except Lost as lost:
            raise lost.cause from None

    def _step(self, problem: Problem, params: Params) -> float:
        """Take one EM step from `params`; keep what it leads to only if it is sound."""
        batch, carried = batched(params), dict(self._carried)
        if self._previous is None:  # before the M-step meets what is impossible
            check_possible(problem, params, problem.objective(batch))
        try:
            new, found = em_step(problem, batch, carried)
        except (RuntimeError, ValueError):  # of torch, where other data than before are impossible
            check_possible(problem, params, problem.objective(batch))
            raise
        before, objective = self._previous, look(problem, found, batch, new).objective[0]
        known = before is not None and before[0] is problem.key and alike(before[2], params)
        check_step(problem, Move(new, found, carried), batch, before[1] if before is not None and known else None)
        self._current.keep(problem, with_a_value(problem, only(new)))
        self._carried = carried
        self._previous = problem.key, objective, {n: v.clone() for n, v in self._current.values(problem).items()}
        return -objective

    def _fitted(
        self,
        problem: Problem,
        planned: Callable[[Known], Problem] | None,
        passes_over: Callable[..., Slices] | None,
        passes: int | None = None,
    ) -> Fit:
        """Follow every start to its end; the best is left in the store."""
        try:
            draw = partial(starting_points, problem, self.starts, self.seed, self._current.own(problem))
            problem, journal = opened(problem, self.checkpoint, self.every, telling(self), planned, draw)
            points = problem.rows.gathered(journal.points)[0]
        except Lost as lost:
            raise lost.cause from None
        cap = self.max_steps if passes is None else int(passes)
        bar = Bar(len(points), 0.0 if self.e_step == "sampled" else self.tol, cap) if self.progress else None
        problem, tick = watched(problem, bar)
        told = None if self.callback is None else self._current.telling(problem, self.callback)
        wish, power = wished(problem, self.acceleration), self.step_size if self.update == "online" else None
        first = None if passes_over is None else passes_over(self.tol, cap, power, tick, wish.due)
        settings = Settings(self.tol, cap, told, tick, wish, journal, self.e_step, self.seed, first)
        settings = replace(settings, reached=None if bar is None else bar.reached)
        paths: list[Path] = []
        with self._current.kept_on_error(problem):
            try:
                problem, paths = ends(problem.sooner(self.acceleration, self.tol), points, settings, screen=self.screen)
                return self._answered(problem, journal.ended(paths), measure=True)
            except KeyboardInterrupt as stopped:
                if isinstance(stopped, Interrupted):
                    paths = [stopped.path]
                if paths := journal.interrupted(paths):
                    best = paths[ranked(paths)[0]].ended("interrupted")
                    self._answered(problem, [best], measure=False)
                raise getattr(stopped, "cause", None) or KeyboardInterrupt from None
            finally:
                if bar is not None:
                    bar.close()

    def _first(self, problem: Problem, call: Call | None = None) -> Callable[..., Slices] | None:
        """Cut the rows of a call into slices, or take the batches of a stream for them, if slices are asked for."""
        if self.batches is None:
            return None
        from ..fit.rows.slices import Slices, as_slices, sliced  # few fits begin with passes over slices

        rows = as_slices(problem.rows, self.batches) if call is None else sliced(problem, *call, self.batches)
        return partial(Slices, rows)

    def _answered(self, problem: Problem, paths: Sequence[Path], *, measure: bool) -> Fit:
        """Keep the answer, and its values in the store."""
        self.last = answer(problem, paths, tol=self.tol, measure=measure)
        self._current.keep(problem, paths[self.last.starts.best].params)
        return self.last

    def _prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, closely: bool = True) -> Problem:
        """Trace and plan, unless all that the model sees is as it was; `closely`: and all that it does."""
        if self._prepared is None or self._prepared.change(args, kwargs, run=closely):
            return self._planned(args, kwargs)
        return self._prepared

    def _known(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], known: Known) -> Problem:
        """Trace and plan with the values of another process, of the rows of all."""
        return shared(self, partial(self._planned, known=known), args, kwargs)

    @uncollected()
    def _planned(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], known: Known | None = None) -> Problem:
        """Trace and plan."""
        given = self._current.given()
        self._prepared = prepare(self.model, args, kwargs, self.m_step, **planning(self), known=known, given=given)
        return self._prepared
