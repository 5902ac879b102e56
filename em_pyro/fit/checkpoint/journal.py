"""The journal of a fit: what is done, and where the rest goes on; every so many steps it is written to a file.

A fit is a sequence of units of work: a batch of starts taken as far as batches go, a start followed to its end. What
is decided between them follows from their results, so that a fit which is given the results of those that are done,
and the state of the one on its way, goes on as if nothing had been. The state of a unit is all that its loop has at the
beginning of a turn: the path with its acceleration, what climbs remember, the patterns of Hessians, and whether the
fastest forms are known to keep their digits there, by which the next step chooses its sums.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from ... import files
from ...errors import CheckpointWarning
from ...program.named import Batch, Params
from ..acceleration.quasi_newton import QuasiNewton
from ..path import Path
from ..problem import Problem
from .states import laid_out, revived, taken_up

KIND, FORM, WHOSE = "checkpoint of em_pyro", 1, "EM(checkpoint=...)"

Done = TypeVar("Done")


class Journal:
    """What a fit has done; without a path nothing is kept.

    Attributes:
        points: where the starts begin; empty before `begin`.
        notes: what the fit is to say of its file.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, every: int = 100, *, writes: bool = True) -> None:
        """Begin with nothing; `every` so many EM steps are written, if this is the process that `writes`."""
        self.path, self.every, self.writes = path, every, writes
        self.points: list[dict[str, Tensor]] = []
        self._head: dict[str, Any] = {}
        self._done: list[Any] = []  # results, laid out
        self._ahead: list[Any] = []  # of those, what is still to be handed out
        self._here: dict[str, Any] | None = None  # the state to go on from
        self._last: dict[str, Any] | None = None  # the last state seen, of a path
        self._patterns: tuple[Any, ...] = ()
        self._step, self._steps, self._since = 0, 0, 0  # of this unit, of all, and since the file was written
        self._failed, self._failure, self._resumed = 0, "", ""

    # ---- of the whole fit ----

    def begin(self, points: Sequence[Params], head: Mapping[str, Any]) -> None:
        """Note where all starts begin, and what the fit is of; write it, so that a path that fails is known at once."""
        self.points, self._head = [dict(point) for point in points], dict(head)
        self._write(None)

    def resume(self, found: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what a file says.

        Raises:
            DataError: it is damaged.
        """
        try:
            self.points = taken_up(found["points"], device)
            self._done, self._here = list(found["done"]), found["here"]
            self._head, self._steps = dict(found["head"]), int(found["steps"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise files.damaged(self.path, WHOSE, error) from error
        self._ahead = list(self._done)
        how = "the fit had ended, and this is its answer" if found.get("over") else f"went on after {self._steps} steps"
        other = f"; it was written with torch {found.get('torch')}, so that last digits may differ"
        same = found.get("torch") == str(torch.__version__)
        self._resumed = f"checkpoint {os.fspath(self.path or '')}: {how}{'' if same else other}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the fit is to say of its file."""
        times = "once" if self._failed == 1 else f"{self._failed} times"
        missed = f"checkpoint {os.fspath(self.path or '')}: not written {times} ({self._failure}); the fit went on"
        missed = missed if self._failed else ""
        return tuple(note for note in (self._resumed, missed) if note)

    def ended(self, paths: Sequence[Path]) -> list[Path]:
        """Write the end of all units; return the ends of all starts, with what is to be said of the file."""
        self._write(None, over=True)
        return self._noted(paths)

    def interrupted(self, paths: Sequence[Path]) -> list[Path]:
        """Write the last state that was seen; return the same."""
        if self._last is not None:
            self._write(self._last)
        return self._noted(paths)

    def _noted(self, paths: Sequence[Path]) -> list[Path]:
        return [path._replace(notes=(*path.notes, *self.notes)) for path in paths]

    # ---- of one unit ----

    def unit(self, problem: Problem, work: Callable[[], Done]) -> Done:
        """Do a unit of work, or take its result from the file.

        Raises:
            DataError: the file is damaged.
        """
        if self.path is None:
            return work()
        if self._ahead:
            found: Done = self._read(problem, self._ahead.pop(0))
            return found
        self._step, self._last = 0, None
        result = work()
        self._done.append(laid_out(result))
        self._last = None
        return result

    def begun(self, problem: Problem) -> Any:
        """Return the state of the unit at hand, if the file has one; only once."""
        if self._here is None or self._ahead:
            return None
        here, self._here = self._here, None
        for climb, patterns in zip(problem.plan.climbs, here["patterns"], strict=True):
            climb.patterns[:] = self._read(problem, patterns)
        state, self._step = self._read(problem, here["state"]), here["step"]
        problem.bind(state.here if isinstance(state, Path) else state[0]).plain = here["plain"]
        return state

    def at(self, problem: Problem, here: Batch, step: int, state: Any, *, lasting: bool = True) -> None:
        """Take note of a loop at the beginning of a turn, and write it if it is time.

        Args:
            problem: the program and its plan.
            here: the point or the points that the turn begins from.
            step: EM steps taken in this unit.
            state: all that the loop needs to go on from here.
            lasting: whether the loop never changes it.
        """
        if self.path is None:
            return
        self._since += step - self._step
        self._steps += step - self._step
        self._step = step
        before, patterns = self._patterns, tuple(tuple(climb.patterns) for climb in problem.plan.climbs)
        self._patterns = patterns
        steady = [*map(id, chain(*before))] == [*map(id, chain(*patterns))]
        if not steady and isinstance(state, Path) and isinstance(state.spent, QuasiNewton):
            return  # the step ahead was taken with other patterns, and could not be taken again to the last bit
        now = {"state": state, "step": step, "plain": problem.bind(here).plain, "patterns": patterns}
        self._last = now if lasting else None
        if self._since >= self.every:
            self._write(now)

    # ---- the file ----

    def _read(self, problem: Problem, laid: Any) -> Any:
        try:
            found = taken_up(laid, problem.program.device)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise files.damaged(self.path, WHOSE, error) from error
        return revived(problem, found) if isinstance(found, Path) else found

    def _write(self, here: Mapping[str, Any] | None, *, over: bool = False) -> None:
        """Write all that is done, and the state of the unit at hand; where that cannot be, warn once and go on."""
        if self.path is None or not self.writes:
            return
        self._since = 0
        contents = {
            "head": self._head,
            "points": laid_out(self.points),
            "done": self._done,
            "here": None if here is None else {name: laid_out(part) for name, part in here.items()},
            "steps": self._steps,
            "over": over,
        }
        try:
            files.write(self.path, KIND, FORM, contents)
        except OSError as error:
            self._failed += 1
            if self._failed == 1:
                self._failure = f"{type(error).__name__}: {error}"
                said = f"checkpoint: expected to write {os.fspath(self.path)}, got {self._failure}. The fit goes on."
                warnings.warn(said, CheckpointWarning, stacklevel=2)
