"""Plateaus: where the objective has no slope, though it is higher elsewhere.

A sigmoid of 800, a value beyond a clamp and the input of a rectifier below zero have no slope at all. A regression far
out has none either: all its densities are zero or one to the last digit, which is rounding. A single row may be hidden
behind a clamp, while others have a maximum without it. Where the objective is higher elsewhere, above all on the way
back to zero, a fit goes on from there; else a plateau is not confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from ...errors import ParameterError
from ...posterior.posterior import posterior
from ...program.named import Batch, Params, batched, only
from ..problem import Problem
from .around import Around, Entry, named
from .ground import Ground

ELSEWHERE = (0.0, 1.0, -1.0, 4.0, -4.0, 16.0, -16.0)  # numbers, logarithms and logits that are tried
NEARER = (*(10 ** (-k / 2) for k in range(1, 31)), 0.0)  # shares of the way out from zero that are tried
LIKELIER, MANY = 1.0, 5  # nats, of a row that is worth naming; and how many are named
CLIMBED = ("Newton", "torch", "swept")  # M-steps that go by slopes
MOST = 50  # entries that are looked at
MOVES = ("real", "positive", "unit", "simplex")  # domains of what is moved off a plateau
NO_SLOPE, BESIDE = 1e-9, 1e-3  # nats a unit; and how far beside, of an entry, the objective is level
LEVEL = 1e-12  # relative to 1 + |objective|: a change that is none
NEXT, TURNS = 1e-4, 3  # of every entry: moves of all at once that a row without any slope does not see
FAINT = 1e-3  # nats, of an entry that goes to zero: slopes and curvatures that are next to none
HIGHER = 1e-6  # likewise: what is worth leaving a plateau for


def higher_elsewhere(ground: Ground, level: float, slope: Tensor) -> tuple[float, str]:
    """Return by how many nats the objective is higher where an entry without any slope has another value, and where.

    Args:
        ground: the objective around the fit.
        level: the objective there.
        slope: its gradient, `(D)`.
    """
    around, flat = ground.around, _level(ground, level, slope)
    if not flat:
        return 0.0, ""
    moves = [(around.entries[k], value) for k in flat for value in ELSEWHERE]
    moves = [(one, math.exp(value) if around.domains[one[0]] == "positive" else value) for one, value in moves]
    rises = ground.with_entries(moves) - level
    most = int(rises.argmax())
    return float(rises[most]), f"{named([moves[most][0]])} = {moves[most][1]:.4g}"


def hidden_rows(ground: Ground, level: float, slope: Tensor) -> str:
    """Say which rows would be far likelier with numbers at zero that have no slope, and which these are; or nothing.

    A clamp, or a function that is saturated, has these rows at its end, where no slope tells what they ask for.
    """
    around, flat = ground.around, _level(ground, level, slope)
    flat = [k for k in flat if around.domains[around.entries[k][0]] == "real"]
    if not flat or not ground.problem.rows.whole:
        return ""
    plate, here = _rows(ground, around.params)
    for some in _together(around.entries, flat) if plate else ():
        there = _rows(ground, around.at(_towards_zero(around, some)[-1]).params, plate)[1]
        rows = (there > here + LIKELIER).nonzero().flatten().tolist()
        if rows:
            which = ", ".join(map(str, rows[:MANY])) + (f" ({len(rows)} in all)" if len(rows) > MANY else "")
            what = f'rows {which} of plate "{plate}" have no slope'
            return f"{what} and would be far likelier with {named([around.entries[k] for k in some])} at zero"
    return ""


def hides_rows(problem: Problem, params: Params) -> bool:
    """Whether a row has no slope by any parameter, though those that it has elsewhere may lead higher.

    Families give a slope to every row; a clamp that is written in the model takes it from those beyond.
    """
    around = Around(problem.program, problem.plan.maximised, params)
    return _hides_a_row(Ground(problem, around))


def _hides_a_row(ground: Ground) -> bool:
    """Whether a row stays what it is to the last digit, wherever the coordinates move."""
    around, problem = ground.around, ground.problem
    if not problem.engine.written or not problem.rows.whole or not 0 < around.size <= MOST:
        return False
    plate, here = _rows(ground, around.params)
    if not plate:
        return False
    still = here < -LIKELIER
    signs = torch.cos(torch.arange(1.0, TURNS * around.size + 1, dtype=torch.float64) ** 2).reshape(TURNS, -1)
    for turn in NEXT * signs * around.sizes.clamp(min=NEXT):
        there = _rows(ground, around.at(turn).params, plate)[1]
        still &= (there - here).abs() <= LEVEL * (1 + here.abs())
    return bool(still.any())


def _rows(ground: Ground, params: Params, plate: str = "") -> tuple[str, Tensor]:
    """The longest plate whose rows are independent, or one that is, and the log evidence of each, NaN without a law.

    The name is empty if there is none.
    """
    problem, sizes = ground.problem, ground.problem.program.plates
    for name in [plate] if plate else sorted(sizes, key=lambda one: -sizes[one]):
        try:
            return name, posterior(problem.engine.full, params).log_evidence_by(name)
        except ParameterError:  # its rows hang together
            continue
        except (RuntimeError, ValueError):  # of the model: beyond an edge there is no law
            return name, torch.full((), torch.nan, dtype=torch.float64)
    return "", torch.zeros(0)


def leave_plateau(problem: Problem, here: Batch, found: Expectation) -> Batch | None:
    """Return where numbers without any slope have other values and the objective is highest, if higher; else None.

    They are coefficients of regressions, and whatever torch climbs. They are tried nearer to zero, probabilities nearer
    to one another, and at some values; if rows are hidden behind a clamp, so are all others.

    Args:
        problem: the program and its M-steps.
        here: where EM has settled, one start.
        found: the E-step there.
    """
    lines, parameters = problem.plan.lines, problem.program.parameters
    names = tuple(name for name, line in lines.items() if line.how in CLIMBED and parameters[name].tensor is None)
    if not names:
        return None
    around = Around(problem.program, names, only(here))
    if not 0 < around.size <= MOST:
        return None
    ground, level = Ground(problem, around), float(found.objective)
    saturated = _saturated(ground, found)
    for some in _together(around.entries, saturated):  # what is left on a plateau keeps others there
        if (higher := _highest(ground, level, some)) is not None:
            return higher
    if not _hides_a_row(ground):
        return None
    moving = [k for k, (name, _) in enumerate(around.entries) if around.domains[name] in MOVES]
    found_there = (_highest(ground, level, some) for some in _together(around.entries, moving))
    return next((higher for higher in found_there if higher is not None), None)


def _highest(ground: Ground, level: float, some: Sequence[int]) -> Batch | None:
    """Where some coordinates, on their way to zero or at other values, lead highest; None where nothing is higher."""
    ways = torch.cat([_towards_zero(ground.around, some), _at_values(ground.around, some)])
    heights = ground.heights(ways)
    most = int(heights.argmax())
    if not float(heights[most]) > level + HIGHER * (1 + abs(level)):
        return None
    return batched(ground.around.at(ways[most]).params)


def _saturated(ground: Ground, found: Expectation) -> list[int]:
    """Coordinates along which `Q` has next to no slope and no curvature, of real numbers those away from zero.

    A row of its Hessian without any entry is seen by a single product.
    """
    around = ground.around
    domains = [around.domains[name] for name, _ in around.entries]
    moving = torch.tensor([domain in MOVES for domain in domains])
    way = torch.where(torch.tensor([domain == "real" for domain in domains]), around.values.double(), 1.0)
    still = moving & (way != 0) & ((ground.slope(found) * way).abs() <= FAINT)
    if not bool(still.any()):
        return []
    try:
        bent = ground.products(found, torch.where(moving, way, 0.0).unsqueeze(0))[0]
    except RuntimeError:  # a function of the model that can be differentiated only once
        return []
    return (still & ((bent * way).abs() <= FAINT)).nonzero().flatten().tolist()


def _level(ground: Ground, level: float, slope: Tensor) -> list[int]:
    """Coordinates of real and positive numbers along which the objective has no slope and stays what it is."""
    around = ground.around
    still = [k for k, steep in enumerate(slope.tolist()) if abs(steep) <= NO_SLOPE]
    still = [k for k in still if around.domains[around.entries[k][0]] in ("real", "positive")]
    if not still or len(still) > MOST:
        return []
    steps = BESIDE * torch.diag(around.sizes.clamp(min=BESIDE))[still]
    beside = ground.heights(torch.cat([steps, -steps])).reshape(2, -1) - level
    flat = (beside.abs() <= LEVEL * (1 + abs(level))).any(0)  # a climb stops at the very edge of a plateau
    return [k for k, one in zip(still, flat.tolist(), strict=True) if one]


def _together(entries: Sequence[Entry], flat: Sequence[int]) -> Iterator[list[int]]:
    """Coordinates that are moved at a time: all, those of a parameter, a row of it, a state of several, and each."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for k in flat:
        name, at = entries[k]
        for key in ((name, at), (name, at[:-1], "row"), (name,), ("first", at[:1]), ("last", at[-1:]), ()):
            groups.setdefault(key, []).append(k)
    yield from sorted((list(group) for group in dict.fromkeys(map(tuple, groups.values()))), key=len, reverse=True)


def _towards_zero(around: Around, some: Sequence[int]) -> Tensor:
    """Points `(shares, D)` on the way of some coordinates to zero, of probabilities to one another.

    Positive numbers do not come there.
    """
    points = torch.zeros((len(NEARER), around.size), dtype=torch.float64)
    shares, places = torch.tensor(NEARER, dtype=torch.float64), _places(around)
    for k in some:
        positive = around.domains[around.entries[k][0]] == "positive"
        points[:, k] = shares.clamp(min=min(NEARER[:-1])).log() if positive else (shares - 1) * places[k]
    return points


def _at_values(around: Around, some: Sequence[int]) -> Tensor:
    """Points at which some coordinates have one of the values that are tried, `(values, D)`."""
    points = torch.zeros((len(ELSEWHERE), around.size), dtype=torch.float64)
    points[:, some] = torch.tensor(ELSEWHERE, dtype=torch.float64).unsqueeze(-1) - _places(around)[some]
    return points


def _places(around: Around) -> Tensor:
    """Where the coordinates of numbers and probabilities are, `(D)`: the number, its logarithm, or its logit."""
    values = around.values.double()
    places = list[Tensor]()
    for value, (name, at) in zip(values, around.entries, strict=True):
        domain = around.domains[name]
        if domain == "simplex":
            places.append(value.log() - around.params[name][at[:-1]].max().double().log())
        else:
            places.append(value.log() if domain == "positive" else value.logit() if domain == "unit" else value)
    return torch.stack(places)
