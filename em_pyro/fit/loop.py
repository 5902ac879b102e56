"""The loop around one EM step: what is asked after every step, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

from torch import Tensor

from ..program.named import Batch
from ..records.frozen import frozen
from .acceleration.when import PLAIN, Wish
from .certificate import glanced
from .checkpoint.journal import Journal
from .endings import bad_ending, capped, degenerate, lost, stuck
from .look import look
from .path import Interrupted, Move, Path
from .problem import Problem
from .saddle import leave_saddle, margin
from .step import em_step
from .stopping import CALM, estimated_gap, is_small
from .verdict.edges import leave_edge
from .verdict.plateaus import hides_rows, leave_plateau
from .verdict.spreads import gone_to_zero
from .ways.face import top_of_face
from .ways.onwards import further, on_its_way

WRONG = 100.0  # times the gap by the last gains: more is the rounding of a slope, and not what is left
SADDLES = 5  # that a start may leave, plateaus and boundaries included
AGAIN = 2  # after so many the way out of the next is followed to its end: it may be one to a boundary


@frozen
class State:
    """What a callback sees after every step: copies, so that whatever is done to them moves nothing.

    Attributes:
        step: how many EM steps were taken; those that an acceleration has given up are among them.
        objective: log evidence plus log prior at `params`, in nats; of `VariationalEM` the bound.
        params: constrained values by name, sites with a prior included; of `VariationalEM` the means of the laws.
    """

    step: int
    objective: float
    params: dict[str, Tensor]


@frozen
class Settings:
    """Options of a run; `seed` is of draws of latents."""

    tol: float
    max_steps: int
    callback: Callable[[State], Any] | None = None
    tick: Callable[[int], Any] | None = None  # told how many steps were taken
    acceleration: Wish = PLAIN
    journal: Journal = field(default_factory=Journal)  # of what is done
    e_step: str = "soft"
    seed: int = 0
    first: Callable[[Problem, Path], Path] | None = None  # what is done from a start before full steps are
    reached: Callable[[int, float], Any] | None = None  # told the step and the objective of every point


def run(problem: Problem, path: Path, settings: Settings) -> Path:
    """Iterate from where `path` ends until the stopping rule, the cap or a named ending.

    Raises:
        ObjectiveError: the objective fell beyond rounding, or is not finite at the start.
        DataError: an observation is impossible under every state at the start.
        Interrupted: with the path so far.
    """
    begun = settings.journal.begun(problem)
    path = path.resumed() if begun is None else begun
    try:
        while True:
            settings.journal.at(problem, path.here, path.step, path)
            path = settings.acceleration.at(path, settings.tol)
            move = _moved(problem, path, settings)
            seen = move.seen or look(problem, move.found, path.here, move.new)
            ending = lost(problem, path, move, seen)  # raises where it fell
            if ending:
                return path.ended(*ending)
            path = path.reached(seen.objective[0], blurred=seen.blurred[0])
            if told(path, settings):
                return path.ended("stopped")
            ending = stuck(problem, path, move, seen) or capped(problem, path, move, settings.max_steps)
            if ending:
                return path.ended(*ending)
            ending = degenerate(problem, path, move, seen)
            if ending:
                return path.charged(move.spent).ended(*ending)
            path, new = _settled(problem, path, move, settings.tol)
            if new is None:
                return path
            path = path.moved(new, move.memory)
    except Interrupted:
        raise
    except KeyboardInterrupt as stopped:
        if not path.trail:
            raise
        raise Interrupted(path, getattr(stopped, "cause", None)) from None


def _moved(problem: Problem, path: Path, settings: Settings) -> Move:
    """Take a plain step, or a move of the acceleration."""
    if path.spent is not None:
        return path.spent.move(problem, path.here, settings.max_steps - path.step)
    memory = dict(path.memory)
    new, found = em_step(problem, path.here, memory)
    return Move(new, found, memory)


def told(path: Path, settings: Settings) -> bool:
    """Tell whoever watches of the point reached; whether the callback says to stop."""
    if settings.reached:
        settings.reached(path.step, path.level)
    if settings.tick:
        settings.tick(1)
    if not settings.callback or not path.step:
        return False
    state = State(path.step, path.level, {name: value.clone() for name, value in path.params.items()})
    try:
        return settings.callback(state) is True
    except Exception as error:
        raise Interrupted(path, error) from error


def _settled(problem: Problem, path: Path, move: Move, tol: float) -> tuple[Path, Batch | None]:
    """Ask whether `path` may stop: by the estimated gap on successive steps, and by the saddle test.

    Returns:
        The path, ended if it may; and else where to go on, beside a saddle perhaps.
    """
    if tol <= 0:
        return path.charged(move.spent), move.new
    gap, spent = estimated_gap(problem, path, move, tol)
    path = path.estimated(gap, is_small(gap, path.level, tol)).charged(spent)
    if path.calm < CALM:
        return path, move.new
    bad = _badly_ended(problem, path, move)
    if bad is not None:
        return bad
    worth = tol * (1 + abs(path.level))
    nearer = gone_to_zero(problem, path.here, move.found, worth)
    if nearer is None:
        nearer = top_of_face(problem, path.here, move.found, worth)
    if nearer is not None:
        return path.estimated(path.gap, small=False), nearer
    return _looked(problem, path, move, tol)


def _looked(problem: Problem, path: Path, move: Move, tol: float) -> tuple[Path, Batch | None]:
    """Look around where steps have settled, at curvature, saddles, plateaus and boundaries: what `_settled` returns."""
    findings = glanced(problem, path.params, move.found, tol)
    peaked = findings is not None and findings.peaked(path.level, tol, margin(path.gap, path.level))
    if findings is not None and peaked and not hides_rows(problem, path.params):
        if not is_small(findings.left, path.level, tol) and findings.left < WRONG * path.gap:
            return path.estimated(findings.left, small=False), move.new
        return path.ended("converged")._replace(findings=findings), None
    higher, what = leave_saddle(problem, path.here, move.found, path.gap, path.saddles), "saddle"
    if higher is not None and (ahead := on_its_way(problem, path.here, path.level, path.gap)) is not None:
        return path.estimated(path.gap, small=False), ahead
    if higher is None:
        higher, what = _without_slope(problem, path, move)
    elif path.saddles >= AGAIN:
        higher = further(problem, path.here, higher)
    if higher is None or path.saddles >= SADDLES and is_small(_gain(problem, path, higher), path.level, tol):
        return path.ended("converged")._replace(findings=findings), None
    if path.saddles >= SADDLES:
        ways = f"left {SADDLES} saddles, plateaus or boundaries"
        return path.ended("unconfirmed", f"{ways}, and a way leads higher from here, too: use other starts"), None
    return path.left(what), higher


def _badly_ended(problem: Problem, path: Path, move: Move) -> tuple[Path, Batch | None] | None:
    """End a path that has settled where no maximum is; or give an empty state a share again, if that is higher."""
    ending = bad_ending(problem, path.here, move.found)
    if not ending:
        return None
    share = ending[0] == "empty state" and path.saddles < SADDLES
    inside = leave_edge(problem, path.here, move.found) if share else None
    return (path.ended(*ending), None) if inside is None else (path.left("boundary"), inside)


def _without_slope(problem: Problem, path: Path, move: Move) -> tuple[Batch | None, str]:
    """Find a way higher from where EM goes on too slowly to be seen: off a plateau, or away from a boundary."""
    higher = leave_plateau(problem, path.here, move.found)
    return (leave_edge(problem, path.here, move.found), "boundary") if higher is None else (higher, "plateau")


def _gain(problem: Problem, path: Path, higher: Batch) -> float:
    """By how much it is higher there."""
    return float(problem.expect(problem.bind(higher)).objective) - path.level
