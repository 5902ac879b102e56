"""A closer look at where a fit has ended: its slope, its boundary, what runs to infinity and what is not identified."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..e_step.expectation import Expectation
from ..program.named import Params, batched
from .problem import Problem
from .verdict.around import MATRICES, Around, Entry, named, put
from .verdict.ground import Ground
from .verdict.infinity import running
from .verdict.krylov import PRODUCTS, glimpse
from .verdict.peak import SUSPECT, peak

MANY = 50  # free coordinates up to which all second derivatives are taken
MOST, MOST_RUN = 500, 150  # up to which identification is looked at; where the model itself is differentiated
DEAR = 10_000_000  # entries of factors, all evaluations together, up to which it is
CLOSER = 10  # times as many, where a first look has found a direction that may be flat
EVALUATIONS = 5  # for every coordinate
SINGLE = "the model computes in single precision"
SINGLE_SLACK = 1e-7  # rounding of the objective, relative: above it, it is that of single precision
PROMISED = 10.0  # times the tolerance: a gain by the slope that is none of a maximum
ROUNDING = 1e-8  # relative to 1 + |objective|: a promise that is not put to the test
TRIALS = tuple(0.1**k for k in range(10))  # of the step that the slope promises most for: next to no information
BESIDE = tuple(0.1**k for k in range(1, 7))  # standard errors given complete data: how far neighbours are
EDGE = 1e-3  # a probability below it is tried at zero
FALL = 1e-9  # relative to 1 + |objective|: what a probability may lose at its boundary
INSIDE = 1e-7  # how far inside the slope at a boundary is taken
LAST = 8 * torch.finfo(torch.float64).eps  # of a parameter, relative: its last digits
NEIGHBOURS, FEW = 8, 2  # at which it is asked what these are worth; where evaluations are dear
RISING = 1e-3  # relative to 1 + |objective|: nats a unit, of a slope at a boundary that points inwards


@dataclass(frozen=True)
class Findings:
    """What a closer look at the end of a fit has found.

    Attributes:
        gain: nats that the slope promises to a step by the information in complete data.
        notes: what is at a boundary, runs to infinity, or is not identified; or that this was not looked at.
        noise: nats by which the last digits of the parameters move the objective.
        higher: nats by which it is higher a small part of a standard error away, and where.
        endless: the largest of the positive numbers that run to infinity; zero if none does.
    """

    gain: float
    notes: tuple[str, ...]
    noise: float = 0.0
    higher: tuple[float, str] = (0.0, "")
    endless: float = 0.0

    def doubt(self, objective: float, tol: float) -> str:
        """Say why this is no maximum at a tolerance: the slope, or an objective without digits; empty if it is one."""
        allowed = max(PROMISED * tol, ROUNDING) * (1 + abs(objective))
        if self.gain > allowed:
            return f"the slope is not zero: it promises {self.gain:.3g} nats to the next step"
        if self.noise > allowed:
            return (
                f"the objective has lost its digits: the last ones of the parameters move it by {self.noise:.3g} nats, "
                f"so one of them may run to infinity; give it a prior, or bounds"
            )
        if self.higher[0] > allowed:
            nats, where = self.higher
            return (
                f"the objective is {nats:.3g} nats higher a part of a standard error from here along {where}, though "
                f"its slope is zero: take other starts, or, if a parameter runs to infinity where densities lose their "
                f"digits, give it a prior or bounds"
            )
        return ""


def certify(problem: Problem, params: Params, *, settled: bool = True) -> Findings:
    """Look at the objective around `params`, in coordinates of all parameters that plan and data move.

    The slope is Fisher's: that of `Q` at the parameters of its E-step. Its scale is the information in complete data,
    minus the Hessian of `Q`. With many coordinates, or where the evaluations would cost more than some E-steps of the
    rows at hand, the slope alone is looked at and a note says so. Whether this is a maximum, and what is flat, is
    asked only where the steps have `settled`: on the way to one, and at a saddle, it says nothing about the model.

    References: Fisher (1925); Oakes (1999).
    """
    moving = tuple(n for n, line in problem.plan.lines.items() if line.how not in ("fixed", "callable"))
    values = {name: value.detach().double() for name, value in params.items()}
    around = Around(problem.program, moving, values)
    ground = Ground(problem, around)
    found = problem.expect(problem.bind(batched(values)))
    level = float(found.log_evidence + problem.log_prior(problem.bind(batched(values))))
    notes, unseen, endless = list[str](), _unseen(problem, around), 0.0
    if not unseen:
        ground, put_there = snapped(ground, level)
        if put_there:
            found = problem.expect(problem.bind(batched(ground.around.params)))
    information = None if unseen and unseen != SINGLE else ground.curvature_of_q(found)
    if not unseen and (information is None or not bool(torch.isfinite(information).all())):
        information, unseen = None, "torch has no second derivatives of Q here"
    notes += edge_notes(ground)
    if information is not None and not bool(torch.isfinite(information).all()):
        information = None
    if information is not None and not unseen and ground.around.size:
        told, endless = _told(ground, level, found, information, settled=settled)
        notes += told
    if not settled:
        return Findings(0.0, tuple(notes), endless=endless)
    if unseen:
        notes.append(f"identification was not looked at: {unseen}")
    higher = _beside(ground, level, information)
    return Findings(_gain(ground, level, found, information), tuple(notes), _noise(ground, unseen), higher, endless)


def _unseen(problem: Problem, around: Around) -> str:
    """Why the slope alone is looked at; empty if all is."""
    if around.size > (MOST_RUN if problem.engine.open else MOST):
        return f"{around.size} free coordinates"
    if problem.slack > SINGLE_SLACK:
        return SINGLE
    if problem.engine.runs_model and any(problem.program.parameters[n].tensor is not None for n in around.names):
        return "the weights of a module"
    first = EVALUATIONS * around.size if around.size <= MANY else 2 * PRODUCTS + MANY
    return "" if first * _entries(problem) <= DEAR else "too many rows"


def _entries(problem: Problem) -> int:
    """Entries of all factors: what an evaluation costs."""
    return sum(math.prod(problem.engine.sizes[n] for n in factor.names) for factor in problem.engine.factors.values())


# ---- the slope ----


def _gain(ground: Ground, level: float, found: Expectation, information: Tensor | None) -> float:
    """What the slope promises to a step; and no more than such steps gain: a slope may be nothing but rounding."""
    here = torch.zeros(1, ground.around.size, dtype=torch.float64)
    slope = ground.slope_of_q(found, here)[0]
    if not len(slope) or not bool(torch.isfinite(slope).all()):
        return 0.0
    step = _along(ground, found, slope) if information is None else _newton(information, slope)
    promised = float(slope @ step) / 2
    if promised <= ROUNDING * (1 + abs(level)):
        return promised
    reached = ground.heights(torch.tensor(TRIALS, dtype=torch.float64).unsqueeze(-1) * step) - level
    return min(promised, max(float(reached.max()), 0.0))


def _noise(ground: Ground, unseen: str) -> float:
    """Return by how much the objective differs at neighbours, parameters of which the last digits differ."""
    around, many = ground.around, FEW if unseen else NEIGHBOURS
    if not around.size or ground.problem.slack > SINGLE_SLACK:
        return 0.0
    sizes = [
        float(around.params[name][at].abs()) if around.domains[name] in ("real", *MATRICES) else 1.0
        for name, at in around.entries
    ]
    generator = torch.Generator().manual_seed(0)
    nudges = torch.randn((1 + many, around.size), generator=generator, dtype=torch.float64)
    nudges[0] = 0.0
    heights = ground.heights(LAST * torch.tensor(sizes, dtype=torch.float64) * nudges)
    heights = heights[torch.isfinite(heights)]
    return float(heights.max() - heights.min()) if len(heights) else 0.0


def _beside(ground: Ground, level: float, information: Tensor | None) -> tuple[float, str]:
    """Return by how much the objective is higher beside, and along which entry; no maximum has such neighbours.

    The slope is zero on the steps of a density that is the rounding of something else, and at an inflection.
    """
    if information is None or not ground.problem.engine.moving:  # families have their digits
        return 0.0, ""
    size = information.diagonal().abs()
    each = torch.diag(torch.where(size > 0, size.clamp(min=1e-300).rsqrt(), 0.0))
    rises = ground.heights(torch.cat([part * far for far in BESIDE for part in (each, -each)])) - level
    if not len(rises):
        return 0.0, ""
    most = int(rises.argmax())
    return float(rises[most]), named([ground.around.entries[most % ground.around.size]])


def _newton(information: Tensor, slope: Tensor) -> Tensor:
    """The step by the information in complete data, every entry in its own standard error."""
    size = information.diagonal().abs()
    unit = torch.where(size > 0, size.clamp(min=1e-300).rsqrt(), 0.0)
    values, vectors = torch.linalg.eigh(information * unit * unit.unsqueeze(-1))
    return unit * (vectors @ ((slope * unit) @ vectors / values.abs().clamp(min=1e-10)))


def _along(ground: Ground, found: Expectation, slope: Tensor) -> Tensor:
    """The step to the top of `Q` along its slope, which gains no more than one to its maximum."""
    steep = slope.norm().clamp(min=1e-300)
    little = 1e-4 * slope / steep
    bend = ground.slope_of_q(found, -little.unsqueeze(0))[0] - ground.slope_of_q(found, little.unsqueeze(0))[0]
    curved = float(bend @ slope) / 2e-4 / float(steep)
    return slope / curved if curved > 0 else torch.zeros_like(slope)


# ---- the boundary ----


def snapped(ground: Ground, level: float) -> tuple[Ground, list[Entry]]:
    """Put every probability that runs to zero or one there: where the objective does not fall for it."""
    around, tried = ground.around, list[tuple[Entry, float]]()
    for entry in ((n, tuple(at)) for n in around.names for at in _near(around, n).nonzero().tolist()):
        value = float(around.params[entry[0]][entry[1]])
        tried.append((entry, 0.0 if value < EDGE else 1.0))
    if not tried:
        return ground, []
    heights = ground.with_entries(tried)
    lowest = level - FALL * (1 + abs(level))
    kept = [move for move, height in zip(tried, heights.tolist(), strict=True) if height >= lowest]
    at = around
    for entry, value in kept:
        at = Around(around.program, around.names, put(at, entry, value))
    new = Ground(ground.problem, at)
    together = float(new.heights(torch.zeros(1, at.size, dtype=torch.float64)))
    return (new, [entry for entry, _ in kept]) if kept and together >= lowest else (ground, [])


def _near(around: Around, name: str) -> Tensor:
    """Probabilities inside that are next to a boundary."""
    value, domain = around.params[name], around.domains[name]
    low = (value > 0) & (value < EDGE)
    if domain == "unit":
        return low | (value < 1) & (value > 1 - EDGE)
    return low if domain == "simplex" else torch.zeros_like(low)


def edge_notes(ground: Ground) -> list[str]:
    """Name the entries at a boundary, and those among them from which the objective rises inwards: these stay too."""
    edges = ground.around.edges()
    if not edges:
        return []
    infinite = [(name, at) for name, at in edges if not bool(torch.isfinite(ground.around.params[name][at]))]
    rising = _rising(ground, [entry for entry in edges if entry not in infinite])
    resting = [entry for entry in edges if entry not in rising and entry not in infinite]
    notes = [f"at infinity: {named(infinite)}"] if infinite else []
    notes += [f"at the boundary: {named(resting)}"] if resting else []
    if rising:
        notes.append(
            f"at the boundary, though the objective rises inwards by {max(rising.values()):.3g} nats a unit: "
            f"{named(list(rising))}; EM moves no entry away from there, so start inside"
        )
    return notes


def _rising(ground: Ground, edges: Sequence[Entry]) -> dict[Entry, float]:
    """The slope of the objective inwards, taken a little inside, of every entry at a boundary where it is positive."""
    around = ground.around
    edges = [entry for entry in edges if around.domains[entry[0]] in ("unit", "simplex", "positive")]
    inside = {name: value.clone() for name, value in around.params.items()}
    for name, at in edges:
        inside[name][at] = (inside[name][at] - INSIDE).abs()
    for name in {name for name, _ in edges if around.domains[name] == "simplex"}:
        inside[name] /= inside[name].sum(-1, keepdim=True)
    with torch.no_grad():
        found = ground.problem.expect(ground.problem.bind(batched(inside)))
    leaves = {name: inside[name].unsqueeze(0).requires_grad_() for name in {name for name, _ in edges}}
    with torch.enable_grad():
        q = ground.problem.engine.q({**batched(inside), **leaves}, found).sum()
        slopes = torch.autograd.grad(q, list(leaves.values()), allow_unused=True) if q.requires_grad else ()
    rising: dict[Entry, float] = {}
    for name, slope in zip(leaves, slopes, strict=False):
        if slope is None:
            continue
        inwards = slope[0]
        if around.domains[name] == "simplex":
            inwards = inwards - (inwards * inside[name]).sum(-1, keepdim=True)
        for entry in (one for one in edges if one[0] == name):
            steep = float(inwards[entry[1]]) * (1 if float(around.params[name][entry[1]]) == 0 else -1)
            if steep > RISING * (1 + abs(float(found.objective))):
                rising[entry] = steep
    return rising


# ---- infinity, and what is not identified ----


def _told(
    ground: Ground, level: float, found: Expectation, information: Tensor, *, settled: bool
) -> tuple[list[str], float]:
    """Say what runs to infinity, how far it has come, and along what the objective is flat."""
    off, notes = running(ground, level, information), list[str]()
    for where in dict.fromkeys(off.values()):
        those = named([entry for entry, to in off.items() if to == where])
        notes.append(f"runs to {where}: {those}; the objective rises for ever, and has no maximum at finite values")
    domains, params = ground.around.domains, ground.around.params
    far = (float(params[n][at]) for (n, at), to in off.items() if to == "infinity" and domains[n] == "positive")
    endless = max(far, default=0.0)
    if settled and len(off) < ground.around.size:
        notes += _flat(ground, found, information, off)
    return notes, endless


def _flat(ground: Ground, found: Expectation, information: Tensor, off: Mapping[Entry, str]) -> list[str]:
    """Say along what the objective is flat: with many coordinates, by a first look in a Krylov space."""
    if ground.around.size > MANY:
        first, dear = glimpse(ground, found, information, off), EVALUATIONS * ground.around.size
        if first.smallest >= SUSPECT:
            return []
        if dear * _entries(ground.problem) > CLOSER * DEAR:
            least = first.moving(first.empty if first.empty.shape[1] else first.basis @ first.vectors[:, :1])
            share = f"{first.smallest:.2g} of the curvature in complete data"
            return [f"next to flat, and not looked at any closer: {share} is left along {named(least)}"]
    top = peak(ground, found, information, off)
    if top is not None and (many := top.flat.shape[1]):
        ways = "one direction" if many == 1 else f"{many} directions"
        return [f"not identified: the objective is flat along {ways}, of {named(top.moving(top.flat))}"]
    return []
