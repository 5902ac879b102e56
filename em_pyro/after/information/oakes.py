"""The top of any program's objective, by differences of its exact slope; and where each entry stands there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from ...e_step.expectation import Expectation
from ...errors import PlanError
from ...fit.problem import Problem
from ...fit.verdict.around import Around, Entry, named
from ...fit.verdict.edges import edge_notes, snapped
from ...fit.verdict.ground import Ground
from ...fit.verdict.infinity import running
from ...fit.verdict.peak import Peak, peak
from ...fit.verdict.spreads import at_rest, at_zero, lifted
from ...program.named import Params
from ...records.frozen import frozen
from .louis import SecondOrder, most_rows, second_order, unserved
from .record import Direction

BELOW = 1e-6  # nats, relative to 1 + |objective|: how far below the top a fit may end without a note
ROUGH = 1e-4  # asymmetry of second derivatives above which digits are said to be few
LITTLE = 1e-6  # of a direction: along which it is straight
ROUNDING = 1e-9  # relative to 1 + |objective|: a difference of heights that is none
NO_SLOPES = (
    "expected finite slopes around the fitted values, got none. Keep what the model computes differentiable there "
    "(torch.xlogy(n, p) for n * p.log()), or take other starts."
)


@frozen
class Top:
    """The maximum beside a fit.

    Attributes:
        peak: the objective around it.
        edges: entries that are at a boundary, or at infinity, with the note to each.
        height: the objective there.
        decrement: nats that this is higher than at the fitted values.
        notes: what was found on the way.
        params: values of all parameters there; scales that are zero are lifted for curvature alone.
        squares: the sum of the outer products of the rows' scores in the basis of `peak`, if it was collected.
    """

    peak: Peak
    edges: Mapping[Entry, str] = field(repr=False)
    height: float
    decrement: float
    notes: tuple[str, ...]
    params: Params = field(repr=False)
    squares: Tensor | None = field(default=None, repr=False)

    def directions(self) -> tuple[Direction, ...]:
        """Name the flat directions, the furthest coordinate moved by one standard error given complete data."""
        here, found = self.peak, list[Direction]()
        for flat in here.flat.mT:
            scaled = flat / (flat.abs() / here.unit).max()
            ends = here.ground.around.batch(torch.stack([LITTLE * scaled, -LITTLE * scaled]))
            moves = {name: (ends[name][0] - ends[name][1]) / (2 * LITTLE) for name in here.ground.around.names}
            found.append(Direction(moves, named(here.moving(flat.unsqueeze(-1)))))
        return tuple(found)

    def told(self) -> tuple[str, ...]:
        """What is to be said of the whole."""
        here, notes = self.peak, list(self.notes)
        allowed = BELOW * (1 + abs(self.height))
        if self.decrement > allowed:
            notes.append(f"the fit ended {self.decrement:.3g} nats below the maximum, at which this is taken")
        if here.decrement > allowed:
            notes.append(f"no maximum: {here.decrement:.3g} nats are still to gain from where Newton's method came to")
        if here.rising.shape[1]:
            notes.append(f"no maximum: the objective rises along {named(here.moving(here.rising))}")
        if many := here.flat.shape[1]:
            ways = "one direction" if many == 1 else f"{many} directions"
            notes.append(f"not identified: the objective is flat along {ways}, of {named(here.moving(here.flat))}")
        if here.error > ROUGH:
            notes.append(f"second derivatives are known to {here.error:.1g} of the information in complete data only")
        return tuple(notes)

    def slopes(self) -> dict[str, Tensor]:
        """Return the derivative of every parameter by the coordinates, `(entries, D)`, by name."""
        around = self.peak.ground.around
        zero, found, at = torch.zeros(around.size, dtype=torch.float64), {}, 0
        for name, free in around.free.items():
            own = slice(at, at := at + int(free.sum()))

            def moved(v: Tensor, name: str = name, own: slice = own) -> Tensor:
                place = torch.cat([zero[: own.start], v, zero[own.stop :]])
                return around.batch(place.unsqueeze(0))[name].reshape(-1)

            found[name] = torch.zeros((around.params[name].numel(), around.size), dtype=torch.float64)
            if own.stop > own.start:
                found[name][:, own] = jacobian(moved, zero[own])
        return found


class Louis:
    """Second derivatives in one pass over the rows, where these are mixtures.

    Attributes:
        last: what the last pass found, if it found any.
    """

    def __init__(self, problem: Problem) -> None:
        """Take the program."""
        self.problem = problem
        self.last: SecondOrder | None = None

    def __call__(self, ground: Ground, basis: Tensor) -> Tensor | None:
        """Return the observed information around a point along the columns of a basis."""
        self.last = second_order(self.problem, ground.around.params, around=ground.around, basis=basis)
        return None if self.last is None else self.last.observed


def top(problem: Problem, params: Params) -> Top:
    """Go to the maximum beside fitted values, and look around there.

    Probabilities that run to zero or one are put there if the objective does not fall for it. All entries inside have
    coordinates, in which second derivatives are taken by central differences of the slope, which is exact: that of `Q`
    at the parameters of its E-step.

    Raises:
        PlanError: the program cannot be differentiated twice, or its slopes are not finite there.

    References:
        Fisher (1925). Oakes (1999).
    """
    values = {name: value.detach().double() for name, value in params.items()}
    if problem.engine.runs_model and any(problem.program.parameters[n].tensor is not None for n in problem.plan.free):
        raise PlanError(
            "information: expected parameters that the model can be replayed with, got weights of a module in a model "
            "that has to be run in every step. State them with pyro.param."
        )
    ground = Ground(problem, Around(problem.program, problem.plan.free, values))
    found = ground.found()
    level = ground.height(found)
    ground, edges = snapped(ground, level)
    found = ground.found() if edges else found
    information = _curvature(ground, found)
    aside = _aside(ground, level, information)
    off, resting = aside.off, at_rest(ground.around, aside.zero)
    notes = tuple(edge_notes(ground, aside.zero)[0])
    way = torch.zeros(ground.around.size, dtype=torch.float64)
    if aside.zero:
        ground, way = lifted(ground, aside.zero)
        found = ground.found()
        information = _curvature(ground, found)
    rows = most_rows(problem)
    louis = None if unserved(problem) else Louis(problem)
    here = peak(ground, found, information, {*off, *resting}, fine=True, second=louis, rows=rows)
    if here is None:
        raise PlanError(f"information: {NO_SLOPES}")
    slope = ground.slope(found)
    promised = here.promised(slope)
    height, gained = level, 0.0
    if here.ground is not ground or edges:
        height = here.height
        gained = height - level
    still = {entry: _where(ground.around, entry) for entry in _still(here.ground.around)}
    still |= {entry: f"runs to {to}: no standard error" for entry, to in off.items()}
    for entry in resting:
        still |= dict.fromkeys(_places(ground.around, entry), "on the boundary: no standard error")
    for to in dict.fromkeys(off.values()):
        notes = (*notes, f"runs to {to}: {named([entry for entry, way in off.items() if way == to])}")
    last = None if louis is None else louis.last
    return Top(
        here,
        still,
        height,
        gained if gained > ROUNDING * (1 + abs(level)) else max(promised, 0.0),
        notes,
        here.ground.around.at(-way).params if aside.zero else here.ground.around.params,
        None if last is None else last.squares,
    )


class _Aside(NamedTuple):
    """Entries that are not looked at: those that run off, with where to, and scales that are zero."""

    off: Mapping[Entry, str]
    zero: Sequence[Entry]


def _aside(ground: Ground, level: float, information: Tensor) -> _Aside:
    if not ground.around.size:
        return _Aside({}, ())
    zero = at_zero(ground, level, closely=True)
    resting = at_rest(ground.around, zero)
    off = running(ground, level, information)
    return _Aside({entry: to for entry, to in off.items() if entry not in resting}, zero)


def _curvature(ground: Ground, found: Expectation) -> Tensor:
    """Return the information in complete data."""
    information = ground.curvature_of_q(found)
    if information is None or not bool(torch.isfinite(information).all()):
        raise PlanError("information: expected a model that torch can differentiate twice, got one that it cannot.")
    return information


def _still(around: Around) -> list[Entry]:
    """Entries that no coordinate moves: at a boundary, or all that others at a boundary leave."""
    found = around.edges()
    for name, domain in around.domains.items():
        if domain == "simplex":
            alone = (around.params[name] > 0) & ~around.free[name].any(-1, keepdim=True)
            found += [(name, tuple(at)) for at in alone.nonzero().tolist()]
    return found


def _places(around: Around, entry: Entry) -> list[Entry]:
    """Entries of a parameter that rest with a coordinate: of the root of correlations those of a row."""
    name, at = around.shown(entry)
    if entry == (name, at):
        return [entry]
    return [(name, (*at[:-1], column)) for column in range(at[-1] + 1)]


def _where(around: Around, entry: Entry) -> str:
    finite = bool(torch.isfinite(around.params[entry[0]][entry[1]]))
    return "on the boundary: no standard error" if finite else "at infinity: no standard error"
