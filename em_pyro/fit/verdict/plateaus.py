"""Plateaus: where the objective has no slope, though it is higher elsewhere.

A sigmoid of 800, a value beyond a clamp and the input of a rectifier below zero have no slope at all. A regression far
out has none either: all its densities are zero or one to the last digit, which is rounding. Where the objective rises
on the way back to zero a fit goes on from there; else it stays, and is not confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from ...errors import ParameterError
from ...posterior.posterior import posterior
from ...program.named import Batch, batched, only
from ..problem import Problem
from .around import Around, Entry, named
from .ground import Ground

ELSEWHERE = (0.0, 1.0, -1.0, 4.0, -4.0, 16.0, -16.0)  # values that are tried; of a positive number its logarithm
NEARER = (*(10 ** (-k / 2) for k in range(1, 31)), 0.0)  # shares of the way out from zero that are tried
LIKELIER, MANY = 1.0, 5  # nats, of a row that is worth naming; and how many are named
CLIMBED = ("Newton", "torch", "swept")  # M-steps that go by slopes
MOST = 50  # entries that are looked at
NO_SLOPE, BESIDE = 1e-9, 0.01  # nats a unit; and how far beside, of an entry, the objective is level
LEVEL = 1e-12  # relative to 1 + |objective|: a change that is none
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
    engine, plates = ground.problem.engine.full, ground.problem.program.plates
    if not flat or not ground.problem.rows.whole:
        return ""
    for plate in sorted(plates, key=lambda name: -plates[name]):
        try:
            here = posterior(engine, around.params).log_evidence_by(plate)
        except ParameterError:  # its rows hang together
            continue
        for some in _together(around.entries, flat):
            there = posterior(engine, around.at(_towards_zero(around, some)[-1]).params).log_evidence_by(plate)
            rows = (there > here + LIKELIER).nonzero().flatten().tolist()
            if rows:
                which = ", ".join(map(str, rows[:MANY])) + (f" ({len(rows)} in all)" if len(rows) > MANY else "")
                what = f'rows {which} of plate "{plate}" have no slope'
                return f"{what} and would be far likelier with {named([around.entries[k] for k in some])} at zero"
        break
    return ""


def leave_plateau(problem: Problem, here: Batch, found: Expectation) -> Batch | None:
    """Return where numbers without any slope are nearer to zero and the objective is highest, if higher; else None.

    They are coefficients of regressions, and whatever torch climbs.

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
    for some in _together(around.entries, _saturated(ground, found)):  # what is left on a plateau keeps others there
        ways = _towards_zero(around, some)
        heights = ground.heights(ways)
        most = int(heights.argmax())
        if float(heights[most]) > level + HIGHER * (1 + abs(level)):
            return batched(around.at(ways[most]).params)
    return None


def _saturated(ground: Ground, found: Expectation) -> list[int]:
    """Coordinates away from zero along which `Q` has next to no slope and no curvature, of real and positive numbers.

    A row of its Hessian without any entry is seen by a single product.
    """
    around = ground.around
    domains = [around.domains[name] for name, _ in around.entries]
    moving = torch.tensor([domain in ("real", "positive") for domain in domains])
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
    flat = (beside.abs() <= LEVEL * (1 + abs(level))).all(0)
    return [k for k, one in zip(still, flat.tolist(), strict=True) if one]


def _together(entries: Sequence[Entry], flat: Sequence[int]) -> Iterator[list[int]]:
    """Coordinates that are moved at a time: all, those of a parameter, those of a row of it, and each."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for k in flat:
        name, at = entries[k]
        for key in ((name, at), (name, at[:-1], "row"), (name,), ()):
            groups.setdefault(key, []).append(k)
    yield from sorted((list(group) for group in dict.fromkeys(map(tuple, groups.values()))), key=len, reverse=True)


def _towards_zero(around: Around, some: Sequence[int]) -> Tensor:
    """Points `(shares, D)` on the way of some coordinates to zero; positive numbers do not come there."""
    points = torch.zeros((len(NEARER), around.size), dtype=torch.float64)
    shares, values = torch.tensor(NEARER, dtype=torch.float64), around.values.double()
    for k in some:
        real = around.domains[around.entries[k][0]] == "real"
        points[:, k] = (shares - 1) * values[k] if real else shares.clamp(min=min(NEARER[:-1])).log()
    return points
